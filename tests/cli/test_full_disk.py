"""A disk that is full: one line that names the file, the file before is kept, nothing is left."""

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_ssl import files
from lightning_ssl.callbacks import MetricsFile
from lightning_ssl.cli import main

from runs import SMALL, fit

FULL = Path("/dev/full")  # every write to it fails as on a full disk
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
LAST = "a/checkpoints/last.ckpt"
COMMANDS = {
    "fit": ("fit", "--model", "Supervised", *SMALL, "--trainer.max_steps", "2", "--run_dir", "b"),
    "continue": ("fit", "-c", "a/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "4"),
    "predict": ("predict", "--ckpt_path", LAST, "--predictions.path", "out/p.csv",
                "--predictions.embeddings", "true", "--data.root", "photos",
                "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    "label": ("pseudo-label", "--ckpt_path", LAST, "--output", "out/q.csv", "--accelerator", "cpu",
              "--progress_bar", "false"),
    "project": ("project", "--ckpt_path", LAST, "--output", "out/projection"),
}  # fmt: skip
FIT = {"b/config.yaml", "b/split.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "photos").mkdir()
    (folder / "out").mkdir()
    Image.new("L", (8, 8)).save(folder / "photos" / "x.png")
    fit("Supervised", str(folder / "a"), 2)
    return folder


def contents() -> dict[str, bytes]:
    """Every path and what is in it, but for what a logger or the lock adds to."""
    paths = [path for path in Path().rglob("*") if path.is_file()]
    added = ("events.out", "run.lock", "hparams")
    return {
        re.sub(r"\.q\.csv\.\w+\.parts", "parts", str(path)): path.read_bytes()
        for path in paths
        if not path.name.startswith(added)
    }


@pytest.mark.parametrize(
    ("command", "name", "left"),
    [
        ("fit", "b/config.yaml", set()),
        ("fit", "b/split.json", {"b/config.yaml"}),
        ("fit", "b/metrics.csv", FIT),
        ("fit", "b/checkpoints/best.ckpt", {*FIT, "b/metrics.csv"}),
        ("continue", "a/metrics.csv", set()),
        ("continue", "a/checkpoints/last.ckpt", set()),
        ("predict", "out/.p.csv.0.part", set()),
        ("predict", "out/p.npy", set()),
        ("predict", "out/p.csv", {"out/p.npy"}),
        ("label", "out/parts/0.pt", set()),
        ("label", "out/q.csv", {"out/parts/0.pt"}),
        ("project", "out/projection/embeddings.npy", set()),
        (
            "project",
            "out/projection/projection.png",
            {"out/projection/embeddings.npy", "out/projection/labels.csv"},
        ),
    ],
)
def test_every_file_that_a_command_leaves(
    command: str,
    name: str,
    left: set[str],
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    before = contents()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", full_for(name))
        with pytest.raises(SystemExit) as stopped:
            main(COMMANDS[command])
    said = capsys.readouterr().err
    said = said[said.rindex("error: ") :]
    assert stopped.value.code == 2
    assert said.startswith("error: '")
    assert said.endswith(f"{Path(name).name}' cannot be written: No space left on device.\n")
    assert said.count("\n") == 1
    after = contents()
    assert set(after) - set(before) == left
    assert after.get(name) == before.get(name)
    if command == "label":  # the same command goes on from the parts, and clears them away
        main(COMMANDS[command])
        assert set(contents()) - set(before) == {"out/q.csv"}


def full_for(name: str) -> Callable[..., tuple[int, str]]:
    """What makes temporary files, with a full disk under those for one name."""
    make = tempfile.mkstemp

    def make_full(dir: str, prefix: str, suffix: str) -> tuple[int, str]:
        handle, path = make(dir=dir, prefix=prefix, suffix=suffix)
        if Path(dir, prefix[:-1]).match(name.replace("parts", "*.parts")):
            os.unlink(path)
            os.symlink(FULL, path)
        return handle, path

    return make_full


def test_rows_are_added_whole_or_not_at_all() -> None:
    file = MetricsFile(".", flush_every=1)
    file.log_metrics({"a": 0.5}, step=0)
    before = Path("metrics.csv").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limit[1]))
    try:
        with pytest.raises(OSError, match=r"'\./metrics\.csv' cannot be written: File too large\."):
            file.log_metrics({"a": 0.25}, step=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert Path("metrics.csv").read_bytes() == before
    file.save()  # there is room again
    assert Path("metrics.csv").read_bytes() == before + b"0.25,1\r\n"


@pytest.mark.parametrize("size", [1, 10**6])
def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save({"a": torch.ones(2)}, "a.ckpt")
    monkeypatch.setattr(tempfile, "mkstemp", full_for("a.ckpt"))
    with pytest.raises(OSError, match=r"'a\.ckpt' cannot be written: No space left on device\."):
        files.save({"a": torch.zeros(size)}, "a.ckpt")
    assert os.listdir() == ["a.ckpt"]
    assert torch.equal(torch.load("a.ckpt", weights_only=True)["a"], torch.ones(2))
