"""The temperature in checkpoints: of the validation part alone, and in what predictions report."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_ssl.callbacks.calibration import Calibration
from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.evaluation.calibration import fit_temperature
from lightning_ssl.methods import FixMatch

from runs import fit, load, read_rows

LAST = "a/checkpoints/last.ckpt"
MANY = ("--data.num_labels", "300", "--data.val_per_class", "3")


def test_it_is_fitted_to_the_validation_part_and_predictions_follow_it() -> None:
    fit("FixMatch", "a", 30, *MANY)
    method = FixMatch.load_from_checkpoint(LAST).eval()
    data = SSLDataModule("digits", num_labels=300, val_per_class=3, seed=0)
    held = data.split.val
    with torch.no_grad():
        train, test = (
            method((getattr(data.source, part).pixels.float() / 255 - 0.3054) / 0.3753)
            for part in ("train", "test")
        )
    found = load("a")["temperature"]
    assert found == pytest.approx(
        fit_temperature(train[held], data.source.train.targets[held]), rel=1e-4
    )
    assert method.logit_temperature == found != 1

    Path("photos").mkdir()
    for i, pixels in enumerate(data.source.test.pixels[:5]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(f"photos/{i}.png")
    quiet = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    main(["predict", "--ckpt_path", LAST, "--data.root", "photos", *quiet])
    reported = [float(row["probability"]) for row in read_rows("predictions.csv")]
    honest = (test[:5] / found).softmax(dim=1).amax(dim=1)
    assert reported == pytest.approx(honest.tolist(), abs=1e-5)

    command = run(["test", "--ckpt_path", LAST, *quiet])
    assert command is not None
    assert command.model.logit_temperature == found
    bins = ((test.softmax(dim=1).amax(dim=1)) * 15).long()  # the metric is of the plain softmax
    right = (test.argmax(dim=1) == data.source.test.targets).float()
    confidence = test.softmax(dim=1).amax(dim=1)
    ece = sum(
        abs(float((right - confidence)[bins == number].sum())) for number in bins.unique()
    ) / len(bins)
    assert float(command.trainer.callback_metrics["test/ece"]) == pytest.approx(ece, abs=1e-4)

    Calibration().on_train_batch_start(command.trainer, method, None, 0)
    assert method.logit_temperature == 1  # other weights than were evaluated


def test_without_a_validation_part_there_is_none() -> None:
    fit("Supervised", "a", 2)
    assert "temperature" not in load("a")  # the test images, looked at in its place, do not count
