"""Data sets that are lists of image files with labels, as CSV."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.data.sources.base import Source, name_some
from lightning_ssl.data.sources.folder import check_classes, file_source
from lightning_ssl.data.sources.images import FileImages

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def open_csv(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """Read a CSV with the columns ``path``, ``label`` and optionally ``split``.

    An empty label means an image without one. Paths are relative to the CSV's folder. Classes are
    the labels of the training rows, sorted (as numbers if all are numbers).

    Args:
        root: The CSV file.
        in_channels: 3 or 1.
        image_size: Side of the images; None for what the first image's header suggests.
        classes: Class names in the order that gives their numbers; None for sorted.

    Raises:
        FileNotFoundError: If the CSV or a listed file does not exist.
        ValueError: If the CSV's columns, splits or classes are not as described, or a file is
            listed twice.
    """
    if not os.path.isfile(root):
        raise FileNotFoundError(f"`root` (--data.root) must be a CSV file, got '{root}'.")
    rows = _read(root)
    _check_files(root, rows)
    parts = {split: [row for row in rows if row.split == split] for split in _SPLITS}
    names = _list_classes(root, parts["train"], classes)
    number = {name: i for i, name in enumerate(names)} | {"": -1}
    images = {}
    for split, listed in parts.items():
        if split != "train":
            _check_held_out(root, split, listed, number)
        targets = torch.tensor([number[row.label] for row in listed], dtype=torch.int64)
        images[split] = FileImages((row.path for row in listed), targets, in_channels)
    return file_source(
        "csv",
        names,
        images["train"],
        image_size,
        val=images["val"] if parts["val"] else None,
        test=images["test"] if parts["test"] else None,
        predefined=(images["train"].targets >= 0).nonzero().flatten(),
    )


def _read(root: str) -> list[_Row]:
    folder = os.path.dirname(os.path.abspath(root))
    with open(root, newline="", encoding="utf-8-sig") as file:  # Excel writes a byte-order mark
        reader = csv.DictReader(file, strict=True)
        _check_columns(root, reader.fieldnames or ())
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"'{root}', line {reader.line_num}: the header has "
                    f"{len(reader.fieldnames or ())} columns, this line another number."
                )
            split = row.get("split", "train").strip()
            if split not in _SPLITS:
                raise ValueError(
                    f"'{root}', line {reader.line_num}: `split` must be one of {_SPLITS}, got "
                    f"'{split}'."
                )
            path = os.path.normpath(os.path.join(folder, row["path"]))
            rows.append(_Row(reader.line_num, path, row["label"].strip(), split))
    return rows


def _check_columns(root: str, columns: Sequence[str]) -> None:
    unknown = sorted(set(columns) - {"path", "label", "split"})
    missing = sorted({"path", "label"} - set(columns))
    if unknown or missing or len(set(columns)) != len(columns):
        raise ValueError(
            f"'{root}' must have the columns path,label and optionally split, got "
            f"{','.join(columns)} (unknown: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'})."
        )


def _check_files(root: str, rows: Sequence[_Row]) -> None:
    # One listing per folder: asking for each of a million files takes minutes on network storage.
    listings: dict[str, set[str]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        folder, name = os.path.split(row.path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            raise FileNotFoundError(f"'{root}', line {row.line}: there is no file '{row.path}'.")
        if row.path in seen:
            raise ValueError(
                f"'{root}', line {row.line}: '{row.path}' stands in line {seen[row.path]} already."
            )
        seen[row.path] = row.line


def _list_classes(
    root: str, rows: Sequence[_Row], classes: Sequence[str] | None
) -> tuple[str, ...]:
    counts = Counter(row.label for row in rows if row.label)
    if not counts:
        raise ValueError(f"'{root}' has no training image with a label.")
    once = sorted(name for name, count in counts.items() if count == 1)
    if once:
        rank_zero_warn(f"'{root}': one training image only has the label: {name_some(once)}.")
    numbers = all(name.isdecimal() for name in counts)
    found = sorted(counts, key=lambda name: (int(name) if numbers else 0, name))
    if classes is None:
        return tuple(found)
    check_classes(found, classes, f"'{root}'")
    return tuple(classes)


def _check_held_out(root: str, split: str, rows: Sequence[_Row], number: dict[str, int]) -> None:
    for row in rows:
        if not row.label or row.label not in number:
            raise ValueError(
                f"'{root}', line {row.line}: a {split} image must have the label of a training "
                f"image, got '{row.label}'."
            )
