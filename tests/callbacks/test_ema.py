"""The averaged weights: how they start, how evaluation and resuming leave them, and the bar."""

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from lightning_ssl.callbacks import EMA, UpdateProgressBar, progress
from lightning_ssl.data import SSLDataModule
from lightning_ssl.lightning_private import average_of
from lightning_ssl.methods import Supervised

from runs import differences, fit, load

STATES = ("state_dict", "current_model_state", "averaging_state")
State = dict[str, torch.Tensor]


def copy(module: Any) -> State:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class Follow(Callback):
    """Keep the trained and the averaged weights at the start and after each update."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema
        self.trained: list[State] = []
        self.averaged: list[State] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        average = average_of(self.ema)
        assert average is not None
        self.trained.append(copy(module))
        self.averaged.append(copy(average.module))

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.on_train_start(trainer, module)


def train(steps: int, *callbacks: Callback, weights: str | None = None, **options: Any) -> Trainer:
    options = {"limit_val_batches": 0, "enable_checkpointing": False} | options
    trainer = Trainer(
        max_steps=steps, logger=False, callbacks=list(callbacks), num_sanity_val_steps=0,
        accelerator="cpu", enable_model_summary=False,
        **{"enable_progress_bar": False} | options,
    )  # fmt: skip
    module = Supervised(10, backbone="wrn_10_1", weights=weights)
    trainer.fit(module, SSLDataModule("digits", num_labels=20, batch_size=8))
    return trainer


@pytest.mark.parametrize("warm", [False, True])
def test_the_average_starts_as_a_copy_of_the_initial_weights(warm: bool) -> None:
    weights = None
    if warm:
        fit("Supervised", "a", 2)
        weights = "a/checkpoints/last.ckpt"
    ema = EMA(0.7)
    follow = Follow(ema)
    train(2, ema, follow, weights=weights)
    assert differences(follow.trained[0], follow.averaged[0]) == []
    if warm:
        assert differences(follow.trained[0], load("a")["state_dict"]) == []
    for i in (1, 2):
        for name, value in follow.trained[i].items():
            if "running" not in name and "num_batches" not in name:
                assert not torch.equal(value, follow.trained[i - 1][name])
                value = 0.7 * follow.averaged[i - 1][name] + 0.3 * value
            torch.testing.assert_close(follow.averaged[i][name], value)


def test_a_callback_used_again_starts_again() -> None:
    ema = EMA(0.5)
    train(3, ema)
    follow = Follow(ema)
    train(1, ema, follow)
    name = next(name for name in follow.trained[0] if name.startswith("classifier"))
    expected = (follow.trained[0][name] + follow.trained[1][name]) / 2
    torch.testing.assert_close(follow.averaged[1][name], expected)


class AtValidation(Callback):
    """Keep what a validation finds, what it evaluates and what it leaves; store both moments."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema
        self.seen: dict[str, tuple[State, State]] = {}

    def keep(self, moment: str, module: Any) -> None:
        average = average_of(self.ema)
        assert average is not None
        self.seen[moment] = copy(module), copy(average.module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self.keep("before", module)

    def on_validation_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.keep("within", module)
        trainer.save_checkpoint("within.ckpt")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.keep("after", module)
        trainer.save_checkpoint("after.ckpt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_validation_changes_neither_weights_nor_average(precision: Any) -> None:
    ema = EMA(0.9)
    look = AtValidation(ema)
    train(3, ema, look, precision=precision, val_check_interval=3, limit_val_batches=1,
          check_val_every_n_epoch=None)  # fmt: skip
    (trained, averaged), within, after = (look.seen[m] for m in ("before", "within", "after"))
    assert differences((trained, averaged), after) == []
    assert differences(averaged, within[1]) == []
    as_evaluated = {name: value.to(trained[name].dtype) for name, value in averaged.items()}
    assert differences(as_evaluated, within[0]) == []
    assert differences(trained, within[0]) != []
    assert all(v.dtype in (torch.float32, torch.int64) for v in averaged.values())
    for moment in ("within", "after"):
        stored = torch.load(f"{moment}.ckpt", weights_only=True)
        assert differences(averaged, stored["state_dict"]) == []
        assert differences(trained, stored["current_model_state"]) == []
        assert stored["averaging_state"] == {"n_averaged": torch.tensor(4)}


def test_validating_after_fitting_sees_the_checkpoint_asked_for() -> None:
    fit("Supervised", "a", 2)
    look = AtValidation(EMA(0.9))
    trainer = train(3, look.ema, look, limit_val_batches=1)
    data = SSLDataModule("digits", batch_size=8)
    trainer.validate(trainer.lightning_module, data, "a/checkpoints/last.ckpt", verbose=False)
    assert differences(look.seen["within"][0], load("a")["state_dict"]) == []


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_killed_run_goes_on_bit_for_bit_in_this_precision(precision: str) -> None:
    options = ("--trainer.precision", precision, "--trainer.val_check_interval", "2",
               "--model.threshold", "0.15", "--model.backbone_args", "{bn_momentum: 0.1}",
               "--model.ema_decay", "0.7",
               "--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
               "--trainer.callbacks.filename", "each",
               "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
    fit("FixMatch", "whole", 5, *options)
    with pytest.raises(SystemExit):
        fit("FixMatch", "cut", 5, *options, "--trainer.callbacks+=probes.Die",
            "--trainer.callbacks.step", "3")  # fmt: skip
    fit("FixMatch", "resumed", 5, *options, "--ckpt_path", "cut/checkpoints/each.ckpt")
    whole, resumed = load("whole"), load("resumed")
    dtype = torch.float64 if precision == "64-true" else torch.float32
    for name, value in whole["state_dict"].items():
        assert value.dtype in (dtype, torch.int64), name
    assert [d for name in STATES for d in differences(whole[name], resumed[name], name)] == []
    assert whole["averaging_state"] == {"n_averaged": torch.tensor(6)}


def test_the_bar_reads_values_as_often_as_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    now = [0.0]

    class Bar(UpdateProgressBar):
        def get_metrics(self, trainer: Trainer, module: Any) -> Any:
            read.append(trainer.global_step)
            return super().get_metrics(trainer, module)

    class Tick(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            now[0] += 0.125  # eight steps per second

    class Shown(Callback):
        def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
            shown.append(bar._metric_component._metrics["train/loss"])
            assert shown == [trainer.callback_metrics["train/loss"].item()]

    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    shown: list[float] = []
    bar = Bar(refresh_rate=2)
    train(10, Tick(), bar, Shown(), enable_progress_bar=True)
    assert read == [1, 5, 9, 10]  # the last at the end of the epoch
    assert len(shown) == 1


def test_no_value_is_read_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device every read is a wait; test_gpu.py sees all waits, here only ``item``."""
    read: list[int] = []
    item = torch.Tensor.item

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                note = lambda tensor: read.append(trainer.global_step) or item(tensor)  # noqa: E731
                monkeypatch.setattr(torch.Tensor, "item", note)
            elif trainer.global_step == 6:
                monkeypatch.setattr(torch.Tensor, "item", item)

    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)
    train(8, UpdateProgressBar(), Watch(), enable_progress_bar=True, log_every_n_steps=100)
    assert read == []
