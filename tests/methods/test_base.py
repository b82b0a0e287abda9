"""What all methods inherit: averaging, warm start, checkpoints, warnings, evaluation."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging

from lightning_ssl.callbacks import EMA
from lightning_ssl.cli import run
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.evaluation import evaluation_metrics
from lightning_ssl.methods import FixMatch

from probes import Record
from runs import SMALL, differences, fit, load


@pytest.mark.parametrize("accumulated", [1, 2])
def test_evaluated_weights_are_the_average_by_hand(
    accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record.seen.clear()
    average: dict[str, torch.Tensor] = {}

    def look(self: Record, trainer: Trainer, module: Any) -> None:
        average.update({n: v.detach().clone() for n, v in module.state_dict().items()})

    monkeypatch.setattr(Record, "on_train_start", look)
    fit("FixMatch", "a", 4, "--model.ema_decay", "0.7",
        "--trainer.accumulate_grad_batches", str(accumulated),
        "--trainer.callbacks+=probes.Record")  # fmt: skip
    assert len(Record.seen) == 4
    for state in Record.seen:
        for name, value in state.items():
            is_parameter = "running" not in name and "num_batches" not in name
            average[name] = 0.7 * average[name] + 0.3 * value if is_parameter else value
    stored = load("a")
    assert stored["state_dict"].keys() == average.keys()
    for name, value in average.items():
        torch.testing.assert_close(stored["state_dict"][name], value, rtol=1e-5, atol=1e-6)
    assert differences(stored["current_model_state"], Record.seen[-1]) == []


def test_no_averaging_where_the_decay_is_zero() -> None:
    cli = fit("FixMatch", "a", 2, "--model.ema_decay", "0")
    assert not any(isinstance(callback, EMA) for callback in cli.trainer.callbacks)
    assert "current_model_state" not in load("a")


def test_the_users_own_averaging_wins() -> None:
    cli = fit("FixMatch", "a", 2, "--trainer.callbacks+=EMAWeightAveraging",
              "--trainer.callbacks.use_buffers", "false")  # fmt: skip
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert EMAWeightAveraging in kinds
    assert EMA not in kinds


def test_testing_after_fitting_sees_the_averaged_weights() -> None:
    cli = fit("FixMatch", "a", 30, "--model.ema_decay", "0.9", "--model.optimizer.lr", "0.2")
    stored = load("a")
    last = "a/checkpoints/last.ckpt"
    (after_fit,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=last, verbose=False)
    own = {n: v for n, v in cli.model.state_dict().items() if n in stored["state_dict"]}
    assert differences(own, stored["state_dict"]) == []
    assert differences(own, stored["current_model_state"]) != []
    assert after_fit["test/acc"] > 0


def test_a_checkpoint_says_all_that_prediction_needs() -> None:
    fit("FixMatch", "a", 1, "--data.normalize", "symmetric", "--data.in_channels", "1")
    stored = load("a")  # weights_only
    assert stored["method"] == "lightning_ssl.methods.fixmatch.FixMatch"
    record = stored["SSLDataModule"]
    assert record["classes"] == [str(i) for i in range(10)]
    assert (record["image_size"], record["in_channels"]) == (8, 1)
    assert (record["mean"], record["std"]) == ([0.5], [0.5])
    assert len(record["labeled"]) == 20


def test_a_module_built_in_python_makes_a_plain_checkpoint() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    data = SSLDataModule.from_source(
        from_arrays(images, torch.arange(40) % 4), batch_size=4, unlabeled_batch_size=8
    )
    trainer = Trainer(max_steps=2, logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(FixMatch(4, backbone="wrn_10_1"), data)
    (file,) = Path("checkpoints").glob("*.ckpt")
    stored = torch.load(file, weights_only=True)
    assert stored["hyper_parameters"]["optimizer"]["lr"] == 0.03
    FixMatch.load_from_checkpoint(file)


def test_warm_start_begins_with_the_given_weights() -> None:
    fit("Supervised", "a", 2)
    start = {}

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, module: Any) -> None:
            start.update({n: v.clone() for n, v in module.state_dict().items()})

    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, callbacks=[Look()],
                      enable_progress_bar=False, accelerator="cpu")  # fmt: skip
    trainer.fit(FixMatch(10, backbone="wrn_10_1", weights="a/checkpoints/last.ckpt"),
                SSLDataModule("digits", batch_size=4, unlabeled_batch_size=8))  # fmt: skip
    assert differences(start, load("a")["state_dict"]) == []


def test_other_weights_are_where_a_module_starts_not_where_it_returns_to() -> None:
    fit("Supervised", "a", 2)
    data = SSLDataModule("digits", batch_size=4, unlabeled_batch_size=8)
    module = FixMatch(10, backbone="wrn_10_1", weights="a/checkpoints/last.ckpt", ema_decay=0)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=3, **quiet)
    trainer.fit(module, data)
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    assert differences(trained, load("a")["state_dict"]) != []
    trainer.test(module, data, verbose=False)
    Trainer(**quiet).validate(module, data, verbose=False)
    assert differences(trained, dict(module.state_dict())) == []

    # A checkpoint of the run needs that file no more.
    Path("a/checkpoints/last.ckpt").unlink()
    (file,) = Path("checkpoints").glob("*.ckpt")
    again = FixMatch.load_from_checkpoint(file)
    Trainer(**quiet).test(again, data, verbose=False)
    assert differences(trained, dict(again.state_dict())) == []


def test_a_run_from_other_weights_resumes_without_their_file() -> None:
    fit("Supervised", "a", 2)
    fit("FixMatch", "b", 2, "--model.weights", "a/checkpoints/last.ckpt")
    Path("a/checkpoints/last.ckpt").unlink()
    checkpoint = ("--ckpt_path", "b/checkpoints/last.ckpt", "--trainer.accelerator", "cpu")
    run(["test", *checkpoint])
    cli = run(["fit", *checkpoint, "--run_dir", "c", "--trainer.max_steps", "3"])
    assert cli.trainer.global_step == 3


class Rise(Callback):
    """Let no pseudo-label count any more."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        module.threshold = 0.0 if trainer.global_step == 0 else 1.1


@pytest.mark.parametrize(("options", "callbacks", "interval", "said"), [
    ({"threshold": 1.0}, [], 1, "after 2 updates: .* `model.head_init class_means`, or a lower"),
    ({"threshold": 1.0}, [], 15, "after 15 updates: .*"),
    ({"threshold": 1.0, "head_init": "class_means"}, [], 1, "after 2 updates: .* Choose a lower"),
    ({"threshold": 0.0}, [], 1, None), ({"threshold": 1.0}, [Rise()], 1, None),
    ({"threshold": 1.0}, [], 0, None),
])  # fmt: skip
def test_pseudo_labels_that_do_not_count_are_said_once(
    options: dict[str, Any],
    callbacks: list[Callback],
    interval: int,
    said: str | None,
    recwarn: pytest.WarningsRecorder,
) -> None:
    module = FixMatch(10, backbone="wrn_10_1", freeze_backbone=True, **options)
    trainer = Trainer(max_steps=40, logger=False, enable_checkpointing=False, accelerator="cpu",
                      enable_progress_bar=False, limit_val_batches=0, callbacks=callbacks,
                      log_every_n_steps=interval)  # fmt: skip
    trainer.fit(module, SSLDataModule("digits", batch_size=4, unlabeled_batch_size=8))
    found = [str(w.message) for w in recwarn if "of the pseudo-labels count" in str(w.message)]
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0])


def test_short_runs_are_told_about_their_averages() -> None:
    with pytest.warns(UserWarning, match=r"`ema_decay` 0.99 .* \(5\)"):
        fit("Supervised", "a", 5)
    with pytest.warns(UserWarning, match=r"BatchNorm momentum 0.001 .* \(60\)"):
        fit("Supervised", "b", 60, "--model.backbone_args", "{bn_momentum: 0.001}",
            "--trainer.limit_val_batches", "0")  # fmt: skip


def test_nothing_is_selected_on_the_test_set() -> None:
    cli = fit("Supervised", "a", 3, "--trainer.val_check_interval", "1")
    best, last = load("a", "best"), load("a", "last")
    assert best["global_step"] == last["global_step"] == 3
    assert not any(name.startswith("val/") for name in cli.trainer.callback_metrics)


@pytest.mark.parametrize(("monitor", "best_of"), [("val/acc", max), ("val/nll", min)])
def test_a_validation_part_is_selected_on(monitor: str, best_of: Any) -> None:
    cli = fit("Supervised", "a", 40, "--data.num_labels", "300", "--data.val_per_class", "3",
              "--trainer.val_check_interval", "10", "--model.optimizer.lr", "0.1",
              "--monitor", monitor)  # fmt: skip
    with Path("a/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/acc"]]
    scores = {int(row["step"]) + 1: float(row[monitor]) for row in rows}
    assert list(scores) == [10, 20, 30, 40]
    best = best_of(scores, key=lambda step: scores[step])
    assert load("a", "best")["global_step"] == best
    assert load("a", "last")["global_step"] == 40
    assert cli.datamodule.num_labeled == 270


def test_metrics_by_hand() -> None:
    metrics = evaluation_metrics(6)
    probs = torch.tensor([[0.75, 0.05, 0.05, 0.05, 0.06, 0.04], [0.3, 0.35, 0.1, 0.1, 0.1, 0.05]])
    metrics.update(probs, torch.tensor([0, 5]))
    found = metrics.compute()
    assert found["acc"].item() == 0.5
    assert found["acc_top5"].item() == 0.5
    # One image per bin: |0.75 - 1| / 2 + |0.35 - 0| / 2.
    assert found["ece"].item() == pytest.approx(0.3)
    assert found["nll"].item() == pytest.approx(-math.log(0.75 * 0.05) / 2)
    # Class 1 is only predicted: it counts in F1, whose precision it lowers, and is no recall.
    assert found["balanced_acc"].item() == 0.5
    assert found["f1"].item() == pytest.approx(1 / 3)
    assert "acc_top5" not in evaluation_metrics(5)


@pytest.mark.ddp
def test_evaluation_and_prediction_do_not_depend_on_the_ranks(two_ranks: Any) -> None:
    fit("Supervised", "a", 20)
    checkpoint = "a/checkpoints/last.ckpt"
    one = run(["test", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu"])
    two = two_ranks.run(_evaluate, checkpoint)
    for metrics in two:
        expected = {n: v.item() for n, v in one.trainer.callback_metrics.items()}
        for name in ("test/ece", "test/nll"):
            assert metrics.pop(name) == pytest.approx(expected.pop(name), abs=1e-6)
        assert metrics == expected
    source = one.datamodule.source
    from torchvision.io import write_png

    for i in range(37):
        Path("images", str(i % 3)).mkdir(parents=True, exist_ok=True)
        write_png(source.test.pixels[i], f"images/{i % 3}/{i}.png")
    predict = ("predict", "--ckpt_path", checkpoint, "--data.root", "images",
               "--trainer.accelerator", "cpu", "--predictions.embeddings", "true")  # fmt: skip
    run([*predict, "--predictions.path", "one.csv"])
    two_ranks.run(_predict, *predict, "--predictions.path", "two.csv")
    # A rank's batches are smaller, and a network's last bits depend on the size of a batch.
    tables = []
    for name in ("one.csv", "two.csv"):
        with Path(name).open() as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 37
    for first, second in zip(*tables, strict=True):
        probability = float(first.pop("probability"))
        assert float(second.pop("probability")) == pytest.approx(probability, abs=2e-6)
        assert first == second
    embeddings = [np.load(name) for name in ("one.npy", "two.npy")]
    np.testing.assert_allclose(*embeddings, rtol=1e-5, atol=1e-6)
    assert not list(Path().glob(".*"))


def _evaluate(checkpoint: str) -> dict[str, float]:
    cli = run(["test", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu",
               "--trainer.strategy", "ddp", "--trainer.devices", "2"])  # fmt: skip
    return {name: value.item() for name, value in cli.trainer.callback_metrics.items()}


def _predict(*args: str) -> None:
    run([*args, "--trainer.strategy", "ddp", "--trainer.devices", "2"])


def test_a_process_killed_at_any_moment_goes_on_bit_for_bit() -> None:
    options = [*SMALL, "--trainer.max_steps", "40", "--trainer.val_check_interval", "9",
               "--data.steps_per_epoch", "7", "--trainer.callbacks+=RunCheckpoint",
               "--trainer.callbacks.filename", "each", "--trainer.callbacks.dirpath", "cut",
               "--trainer.callbacks.every_n_train_steps", "3"]  # fmt: skip
    run(["fit", "--model", "FixMatch", *options, "--run_dir", "whole"])
    command = [sys.executable, "-c", "from lightning_ssl.cli import main; main()", "fit",
               "--model", "FixMatch", *options, "--run_dir", "killed",]  # fmt: skip
    Path("cut/each.ckpt").unlink()
    # As many threads as here: their number decides the order of additions.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent, env=threads) as process:
        while not Path("cut/each.ckpt").exists() and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert not Path("killed/checkpoints/last.ckpt").exists()
    run(["fit", "--model", "FixMatch", *options, "--run_dir", "resumed",
         "--ckpt_path", "cut/each.ckpt"])  # fmt: skip
    whole, resumed = load("whole"), load("resumed")
    assert whole["global_step"] == resumed["global_step"] == 40
    for name in ("state_dict", "current_model_state", "optimizer_states"):
        assert differences(whole[name], resumed[name], name) == []
