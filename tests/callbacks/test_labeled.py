"""Features of labelled images in checkpoints, and the scores that predictions get by them."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_ssl.callbacks import labeled
from lightning_ssl.cli import main
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import PAWS, FixMatch

from runs import differences, fit, load

QUIET = (
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--data.num_workers", "0"),
)
LAST = "a/checkpoints/last.ckpt"


def seen(data: SSLDataModule, part: str) -> torch.Tensor:
    """Images as evaluation sees them."""
    return (getattr(data.source, part).pixels.float() / 255 - 0.3054) / 0.3753


def predict(checkpoint: str) -> None:
    """Label the test images as files."""
    Path("photos").mkdir(exist_ok=True)
    for i, pixels in enumerate(SSLDataModule("digits").source.test.pixels):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(f"photos/{i:03}.png")
    main(["predict", "--ckpt_path", checkpoint, "--data.root", "photos", *QUIET])


def score(features: torch.Tensor, support: torch.Tensor) -> float:
    """Largest cosine, one by one."""
    found = []
    for other in support.double():
        lengths = math.sqrt(float((other * other).sum() * (features * features).sum()))
        found.append(float((features.double() * other).sum()) / lengths)
    return max(found)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_checkpoint_prediction_and_table_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeled, "MOST", 9)
    fit("FixMatch", "a", 20)
    stored = load("a")["labeled_features"]
    assert stored.dtype == torch.float16
    method = FixMatch.load_from_checkpoint(LAST).eval()
    data = SSLDataModule("digits", num_labels=20, seed=0)
    chosen = data.split.labeled[[0, 2, 4, 7, 9, 11, 14, 16, 19]]  # 19 / 8 apart
    with torch.no_grad():
        train, test = (method.embed(seen(data, part)) for part in ("train", "test"))
    own = torch.nn.functional.normalize(train[chosen])
    torch.testing.assert_close(stored.float(), own, rtol=0, atol=1e-3)

    predict(LAST)
    main(["pseudo-label", "--ckpt_path", LAST, "--accelerator", "cpu", "--progress_bar", "false"])
    for path, features in (("predictions.csv", test), ("pseudo_labels.csv", train)):
        found = [float(row["outlier_score"]) for row in rows(path)]
        assert len(found) == len(features)
        for i in range(0, len(found), 37):
            assert found[i] == pytest.approx(score(features[i], own), abs=1e-3)
        assert min(found) < 0.99
    assert all(float(rows("pseudo_labels.csv")[i]["outlier_score"]) > 0.999 for i in chosen)


def test_embeddings_of_a_method_that_compares_are_its_own() -> None:
    fit("PAWS", "a", 3, "--data.batch_size", "20", "--model.ema_decay", "0")
    checkpoint = load("a")
    assert "labeled_features" not in checkpoint
    predict(LAST)
    method = PAWS.load_from_checkpoint(LAST).eval()
    with torch.no_grad():
        features = method.embed(seen(SSLDataModule("digits"), "test"))
    for i, row in list(enumerate(rows("predictions.csv")))[::53]:
        expected = score(features[i], checkpoint["support"]["embeddings"])
        assert float(row["outlier_score"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "kept"), [("PAWS", "support"), ("FixMatch", "labeled_features")]
)
def test_a_run_that_evaluates_nothing_has_them_too(method: str, kept: str) -> None:
    train = SSLDataModule("digits").source.train
    for i in range(40):
        folder = Path("train", "unlabeled" if i % 2 else f"labeled/{train.targets[i]}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.pixels[i, 0].numpy()).save(folder / f"{i}.png")
    data = ("--data.dataset", "folder", "--data.root", "train", "--data.image_size", "8")
    fit(method, "a", 2, *data, "--data.val_per_class", "0", "--data.batch_size", "6")
    assert kept in load("a")
    predict(LAST)
    assert "outlier_score" in rows("predictions.csv")[0]


def test_older_weights_have_none_and_a_resumed_run_has_the_same() -> None:
    often = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
             "--trainer.callbacks.filename", "each",
             "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
    fit("FixMatch", "whole", 8, *often)
    die = ("--trainer.callbacks+=probes.Die", "--trainer.callbacks.step", "5")
    with pytest.raises(SystemExit):
        fit("FixMatch", "cut", 8, *often, *die)
    early = "cut/checkpoints/each.ckpt"
    assert "labeled_features" not in load("cut", "each")
    fit("FixMatch", "resumed", 8, "--ckpt_path", early)
    names = ("labeled_features", "state_dict", "current_model_state")
    one, two = load("whole"), load("resumed")
    assert [d for name in names for d in differences(one[name], two[name], name)] == []
    predict(early)
    assert list(rows("predictions.csv")[0]) == ["path", "label", "probability", "margin"]


@pytest.mark.ddp
def test_two_ranks_equal_one(two_ranks: Any) -> None:
    exact = ("--model.backbone_args", "{norm: none}", "--trainer.precision", "64-true",
             "--data.num_labels", "40", "--data.val_per_class", "1")  # fmt: skip
    fit("Supervised", "one", 2, *exact)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_fit, "Supervised", "two", 2, *exact, *ddp)
    one, two = (load(name)["labeled_features"] for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)
    temperatures = [load(name)["temperature"] for name in ("one", "two")]
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-8)


def _fit(*args: Any) -> None:
    fit(*args)
