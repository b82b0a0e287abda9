"""`best.ckpt` holds the weights that are evaluated and what predictions need, and nothing else."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import FixMatch

from runs import differences, fit, load, read_rows

BEST, LAST = "a/checkpoints/best.ckpt", "a/checkpoints/last.ckpt"
QUIET = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
OF_TRAINING = {"optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state",
               "averaging_state", "steps"}  # fmt: skip


def predictions(path: str) -> list[dict[str, str]]:
    main(["predict", "--ckpt_path", path, "--data.dataset", "digits", *QUIET])
    return read_rows("predictions.csv")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("FixMatch", {"labeled_features", "temperature"}),
        ("PAWS", {"support", "temperature"}),
    ],
)
def test_it_is_what_was_evaluated(
    method: str, more: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fit(method, "a", 4, "--data.num_labels", "40", "--data.val_per_class", "2",
        "--data.batch_size", "10", "--model.ema_decay", "0.5")  # fmt: skip
    best, last = load("a", "best"), load("a", "last")
    assert set(last) - set(best) == OF_TRAINING
    assert more | {"metrics", "method", "seed", "SSLDataModule"} <= set(best)
    assert differences(best, {name: last[name] for name in best}) == []
    assert differences(last["state_dict"], last["current_model_state"]) != []
    with Path("a/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))[-1]
    assert best["metrics"].keys() == {name for name in logged if name.startswith("val/")}
    assert float(logged["val/nll"]) == pytest.approx(best["metrics"]["val/nll"])
    assert 2 * Path(BEST).stat().st_size < Path(LAST).stat().st_size

    assert predictions(BEST) == predictions(LAST)
    before = {path: path.stat().st_mtime_ns for path in Path("a").rglob("*")}
    for given in (BEST, "best"):
        with pytest.raises(SystemExit):
            main(["fit", "-c", "a/config.yaml", "--ckpt_path", given, "--trainer.max_steps", "6"])
        said = capsys.readouterr().err
        assert f"continue from '{LAST}', or a new run starts from its weights by" in said
    assert {path: path.stat().st_mtime_ns for path in Path("a").rglob("*")} == before
    cli = fit(method, "b", 1, "--data.batch_size", "10", "--model.weights", BEST,
              "--model.optimizer.lr", "0")  # fmt: skip
    for name, value in cli.model.named_parameters():
        assert torch.equal(value, best["state_dict"][name])
    run(["fit", "-c", "a/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "6"])
    assert load("a", "best")["global_step"] in (4, 6)
    assert load("a", "last")["global_step"] == 6
    assert set(load("a", "best")) == set(best)


def test_between_validations_nothing_is_said_of_the_weights() -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.save_checkpoint("whole.ckpt")
            trainer.save_checkpoint("alone.ckpt", weights_only=True)

    method = FixMatch(10, backbone="wrn_10_1", ema_decay=0.5)
    data = SSLDataModule("digits", num_labels=20, batch_size=8, unlabeled_batch_size=8)
    Trainer(max_steps=3, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[Save()],
            logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False).fit(method, data)  # fmt: skip
    alone, whole = (torch.load(f"{n}.ckpt", weights_only=True) for n in ("alone", "whole"))
    assert {"metrics", "labeled_features", *OF_TRAINING}.isdisjoint(alone)
    assert differences(alone, {name: whole[name] for name in alone}) == []
    assert differences(alone["state_dict"], whole["current_model_state"]) != []


def test_an_adapted_network_is_left_out_of_it_too() -> None:
    pytest.importorskip("peft")
    run(["fit", "--model", "Supervised", "--data.dataset", "digits", "--data.num_labels", "20",
         "--model.backbone", "timm/vit_tiny_patch16_224", "--model.backbone_args",
         "{img_size: 8, patch_size: 4, depth: 1}", "--model.adapter", "lora", "--report", "false",
         "--trainer.max_steps", "1", "--run_dir", "a", *QUIET])  # fmt: skip
    best = load("a", "best")
    assert best["base_weights"] == load("a", "last")["base_weights"]
    assert not any("qkv.base_layer" in name for name in best["state_dict"])
