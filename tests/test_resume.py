"""Resuming at the edges: validations, accumulation, ranks, views of one's own."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_ssl.cli import main

from runs import SMALL, differences, fit, load

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
EACH = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
        "--trainer.callbacks.filename", "each",
        "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
KEEPS = ("--model.threshold", "0.15")


def die(step: int) -> tuple[str, ...]:
    return ("--trainer.callbacks+=probes.Die", "--trainer.callbacks.step", str(step))


def validations(*run_dirs: str) -> dict[int, float]:
    found = {}
    for run_dir in run_dirs:
        with Path(run_dir, "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                if row.get("val/acc"):
                    found[int(row["step"]) + 1] = float(row["val/acc"])
    return found


def test_no_validation_is_lost_and_best_is_the_same() -> None:
    options = ("--data.num_labels", "300", "--data.val_per_class", "3",
               "--trainer.val_check_interval", "5", *EACH)  # fmt: skip
    fit("Supervised", "whole", 20, *options)
    assert list(validations("whole")) == [5, 10, 15, 20]
    for step in (10, 11):
        cut, resumed = f"cut{step}", f"resumed{step}"
        with pytest.raises(SystemExit):
            fit("Supervised", cut, 20, *options, *die(step))
        assert load(cut, "each")["global_step"] == step
        fit("Supervised", resumed, 20, *options, "--ckpt_path", f"{cut}/checkpoints/each.ckpt")
        assert validations(cut, resumed) == validations("whole")
        # The best one may have been written before the interruption.
        kept = [d for d in (resumed, cut) if Path(d, "checkpoints/best.ckpt").exists()]
        best = max(load(d, "best")["global_step"] for d in kept)
        assert best == load("whole", "best")["global_step"]


def test_the_end_is_validated_whatever_the_interval() -> None:
    fit("Supervised", "a", 7, "--data.num_labels", "300", "--data.val_per_class", "3",
        "--trainer.val_check_interval", "5", "--data.steps_per_epoch", "4")  # fmt: skip
    assert list(validations("a")) == [5, 7]
    assert load("a", "last")["global_step"] == 7


def test_a_run_with_nothing_to_evaluate_on_is_saved() -> None:
    for part in ("labeled/a", "labeled/b", "unlabeled"):
        Path("images", part).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(f"images/{part}/0.png")
    fit("Supervised", "a", 4, "--data.dataset", "folder", "--data.root", "images",
        "--data.num_labels", "null", "--trainer.val_check_interval", "2")  # fmt: skip
    assert load("a", "last")["global_step"] == load("a", "best")["global_step"] == 4


def test_epochs_hold_whole_updates(capsys: pytest.CaptureFixture[str]) -> None:
    # 89 steps make a pass; with an update every second step an epoch has 88 of them.
    cli = fit("Supervised", "a", 46, "--trainer.accumulate_grad_batches", "2",
              "--trainer.val_check_interval", "92")  # fmt: skip
    assert cli.trainer.num_training_batches == 88
    progress = load("a")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert progress["ready"] == 92
    with pytest.raises(SystemExit):
        main(["fit", "--model", "Supervised", *SMALL, "--trainer.accumulate_grad_batches", "2",
              "--data.steps_per_epoch", "3", "--run_dir", "b"])  # fmt: skip
    assert "`data.steps_per_epoch` must be a multiple" in capsys.readouterr().err


@pytest.mark.ddp
def test_a_run_of_one_rank_goes_on_with_two(two_ranks: Any) -> None:
    options = ("--trainer.precision", "64-true", "--model.backbone_args", "{norm: none}",
               "--model.optimizer.lr", "0.01", *KEEPS, *EACH)  # fmt: skip
    fit("FixMatch", "whole", 6, *options)
    with pytest.raises(SystemExit):
        fit("FixMatch", "cut", 6, *options, *die(3))
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    resume = ("--ckpt_path", "cut/checkpoints/each.ckpt")
    two_ranks.run(_fit, "FixMatch", "resumed", 6, *options, *resume, *ddp)
    whole, resumed = load("whole"), load("resumed")
    for name in ("state_dict", "current_model_state"):
        for key, value in whole[name].items():
            torch.testing.assert_close(resumed[name][key], value, rtol=1e-10, atol=1e-10)


def _fit(*args: Any) -> None:
    fit(*args)


def test_a_view_of_ones_own_resumes() -> None:
    options = ("--data.views", "{weak: torch.nn.Identity, strong: {class_path: torch.nn.Dropout}}",
               *KEEPS, *EACH)  # fmt: skip
    fit("FixMatch", "whole", 6, *options)
    with pytest.raises(SystemExit):
        fit("FixMatch", "cut", 6, *options, *die(3))
    fit("FixMatch", "resumed", 6, *options, "--ckpt_path", "cut/checkpoints/each.ckpt")
    whole, resumed = load("whole"), load("resumed")
    assert [d for n in STATES for d in differences(whole[n], resumed[n], n)] == []
    fit("FixMatch", "plain", 6, "--data.views", "{weak: torch.nn.Identity}", *KEEPS)
    assert differences(whole["state_dict"], load("plain")["state_dict"]) != []


def test_the_length_of_a_run() -> None:
    by_epochs = ("--trainer.max_steps", "-1", "--trainer.max_epochs", "2")
    cli = fit("Supervised", "a", 1, *by_epochs, "--data.steps_per_epoch", "3")
    assert cli.trainer.global_step == 6
    assert cli.trainer.estimated_stepping_batches == 6
    cli = fit("Supervised", "b", 1, "--trainer.max_steps", "-1", "--trainer.fast_dev_run", "true")
    assert cli.config["fit"].trainer.max_steps == 1000


def test_no_logger_still_stores_the_split() -> None:
    fit("Supervised", "a", 1, "--trainer.logger", "false", "--trainer.log_every_n_steps", "0")
    assert Path("a/split.json").exists()
    fit("Supervised", "b", 1, "--data.num_labels", "null", "--data.labels_file", "a/split.json")
    assert differences(load("a")["SSLDataModule"], load("b")["SSLDataModule"]) == []


def test_hflip_is_an_option() -> None:
    found = [
        fit("Supervised", f"flip_{flip}", 1, "--data.hflip", flip).datamodule.hflip
        for flip in ("true", "null")
    ]
    assert found == [True, None]
    flipped, plain = load("flip_true")["state_dict"], load("flip_null")["state_dict"]
    assert differences(flipped, plain) != []
