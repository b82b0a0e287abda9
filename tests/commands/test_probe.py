"""The command `probe` on a run, against scikit-learn on features computed here."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_ssl.cli import main
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import Supervised

from runs import fit

LAST = "a/checkpoints/last.ckpt"


def probe(*args: str) -> dict[str, dict[str, str]]:
    quiet = ("--accelerator", "cpu", "--progress_bar", "false")
    main(["probe", "--ckpt_path", LAST, *quiet, *args])
    with Path("probe.csv").open() as file:
        return {row["stage"]: row for row in csv.DictReader(file)}


def expected(data: SSLDataModule, rows: torch.Tensor, part: str) -> float:
    """Accuracy of logistic regression on the pooled features."""
    method = Supervised.load_from_checkpoint(LAST).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))

    def embed(images: Any, rows: torch.Tensor) -> tuple[Any, Any]:
        with torch.no_grad():
            features = method.embed((images.pixels[rows].float() / 255 - mean) / std)
        return features.double().numpy(), images.targets[rows].numpy()

    train = data.source.train
    held_out = (train, data.split.val) if part == "val" else (data.source.test, torch.arange(360))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy: float = model.fit(*embed(train, rows)).score(*embed(*held_out))
    return accuracy


def test_labelled_images_all_images_and_parts(capsys: Any) -> None:
    fit("Supervised", "a", 30, "--data.num_labels", "300")
    data = SSLDataModule("digits", num_labels=300, seed=0)
    assert len(data.split.val) == 30
    everything = [i for i in range(1437) if i not in data.split.val.tolist()]
    capsys.readouterr()
    few = ("--max_features", "100")
    for part, flags, rows, widths in (
        ("test", (), data.split.labeled, [1024, 1024, 512, 256, 64]),
        ("val", few, data.split.labeled, [64, 64, 32, 64, 64]),
        ("test", (*few, "--all_labels", "true"), torch.tensor(everything), [64, 64, 32, 64, 64]),
    ):
        found = probe("--part", part, *flags)
        assert list(found) == ["stem", "stage1", "stage2", "stage3", "features"]
        assert [int(row["features"]) for row in found.values()] == widths
        own = float(found["features"]["logistic_regression"])
        # Rounding may move an image that lies on a border.
        assert own == pytest.approx(expected(data, rows, part), abs=1.5 / 360)
        assert all(0.5 < float(row["sgd_probe"]) <= 1 for row in found.values())
        shown = capsys.readouterr().out
        held_out = 360 if part == "test" else 30
        assert f"{len(rows)} training images, accuracy on {held_out} {part}" in shown
        assert found["stage2"]["sgd_probe"] in shown


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--part", "val"), ("`part`", "'val'", "'digits' has no images")),
        (("--max_features", "0"), ("`max_features`", "above 0", "0")),
        (("--c", "-1"), ("`c`", "above 0", "-1")),
        (("--num_workers", "-1"), ("`num_workers`", "-1")),
        (("--ckpt_path", "none"), ("`ckpt_path`", "'none'")),
    ],
)
def test_bad_input(args: tuple[str, ...], parts: tuple[str, ...], capsys: Any) -> None:
    fit("Supervised", "a", 1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        probe(*args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
    assert not Path("probe.csv").exists()
