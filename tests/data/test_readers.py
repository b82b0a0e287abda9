"""Any file gives a result or an error that names the file, never another exception."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_ssl.cli.errors import USER_ERRORS
from lightning_ssl.data.pseudo.labels import read_pseudo_labels
from lightning_ssl.data.pseudo.table import COLUMNS
from lightning_ssl.data.sources.csv import open_csv
from lightning_ssl.data.splits.files import Split, read_labels

few = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

NAMES = [f"{i}.png" for i in range(4)]
SPLIT = Split(torch.tensor([0, 1]), torch.arange(4), torch.empty(0, dtype=torch.int64))
TARGETS = torch.tensor([0, 1, -1, -1])

cell = st.sampled_from(
    [*NAMES, "", "a", "b", "-1", "nan", "3.0", "0", "1", "train", "val", '"', "ü", "9" * 30, "0.5",
     "../x", "/", "-", "1e400", "inf", "\udcff", "a\0b", "\r", "²"]
) | st.text(max_size=4)  # fmt: skip
separator = st.sampled_from([",", ",", ";", "\t"])


@st.composite
def tables(draw: Any, columns: tuple[str, ...]) -> bytes:
    """Texts that are nearly tables, or any bytes."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=80))
    mark = draw(separator)
    header = list(columns) if draw(st.booleans()) else draw(st.permutations(columns))
    width = len(header) + draw(st.sampled_from([0, 0, 0, 1]))
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=6))
    text = "\n".join(mark.join(row) for row in [header, *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    return text.encode(encoding, "replace")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
index = st.lists(st.integers(-1, 4), max_size=4) | plain
splits = st.fixed_dictionaries(
    {},
    optional={"num_train": st.just(4) | plain, "labeled": st.just([0, 1]) | index, "val": index,
              "unlabeled": index, "values": st.lists(cell, max_size=3) | plain,
              "include_labeled": plain,
              "pseudo_labels": st.fixed_dictionaries({"images": index, "labels": index}) | plain},
).map(lambda content: json.dumps(content).encode())  # fmt: skip
lines = st.lists(cell, max_size=5).map(lambda rows: "\n".join(rows).encode("utf-8", "replace"))


def survives(read: Callable[[], Any], path: str) -> None:
    try:
        read()
    except USER_ERRORS as error:
        assert path in str(error), error  # noqa: PT017  either is right


@pytest.fixture(autouse=True)
def _images(tmp_path: Path) -> None:
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)


@few
@given(
    tables(("path", "label")) | tables(("path", "label", "split")) | tables(("", "path", "label"))
)
def test_csv(content: bytes) -> None:
    Path("list.csv").write_bytes(content)
    survives(lambda: open_csv("list.csv", image_size=8), "list.csv")


@few
@given(
    lines | splits | plain.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
)
@pytest.mark.parametrize("start", [b"", b"\x93NUMPY"])
def test_label_lists(start: bytes, content: bytes) -> None:
    Path("labels.txt").write_bytes(start + content)
    survives(lambda: read_labels("labels.txt", 4, NAMES), "labels.txt")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"values": ' * 100_000, b"9" * 5000])
def test_deep_and_long_ones(content: bytes) -> None:
    for name in ("labels.txt", "labels.json"):
        Path(name).write_bytes(content)
        with pytest.raises(USER_ERRORS, match=name):
            read_labels(name, 4, NAMES)
        survives(lambda name=name: pseudo(name), name)


def pseudo(path: str) -> Any:
    return read_pseudo_labels(path, SPLIT, TARGETS, name=NAMES.__getitem__, classes=["a", "b"])


@few
@given(st.sampled_from(["csv", "json", "parquet"]), tables(COLUMNS) | splits)
def test_pseudo_labels(suffix: str, content: bytes) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    Path(f"table.{suffix}").write_bytes(content)
    survives(lambda: pseudo(f"table.{suffix}"), f"table.{suffix}")
    assert not [name for name in os.listdir() if name.endswith(".tmp")]
