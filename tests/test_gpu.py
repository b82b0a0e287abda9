"""What only a CUDA device can show; run by ``pytest -m gpu``."""

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from lightning_ssl.augment import Views
from lightning_ssl.callbacks import EMA, UpdateProgressBar, progress
from lightning_ssl.cli import run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import PAWS, FixMatch, RoPAWS, SimCLRCT, SSLModule, SuNCEt

from runs import SMALL, load

pytestmark = pytest.mark.gpu
STREAMS = {
    "unlabeled": {"weak": 1, "strong": 2, "simclr": 1, "support": 1, "global": 1, "local": 2}
}


@pytest.mark.parametrize("size", [32, 96])
def test_views_do_not_depend_on_the_device(size: int) -> None:
    images = torch.randint(0, 256, (16, 3, size, size), dtype=torch.uint8)
    views = Views(STREAMS, size)
    here, _ = views("unlabeled", images, 3)
    there, _ = views("unlabeled", images.cuda(), 3)
    for name, view in here.items():
        # Operations that quantise jump at a rounding difference, so a few values may differ.
        far = (view - there[name].cpu()).abs() > 1e-4
        assert far.float().mean() < 2e-3, name


class NoWaiting(Callback):
    """Make every wait of the host for the device an error in steps 3 to 6."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        # The first steps choose algorithms, move the sums of the log and draw the bar.
        if index == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if torch.cuda.get_sync_debug_mode():
            self.steps.append(index)
        if index == 6:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", [FixMatch, PAWS, RoPAWS, SimCLRCT, SuNCEt])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_step_never_waits_for_the_device(
    method: type[SSLModule], precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)  # the bar is due in the first step only
    watch = NoWaiting()
    # Fetching, transfer, views, loss, log, optimizer, schedule, average and bar are all inside.
    trainer = Trainer(
        max_steps=9, accelerator="gpu", devices=1, precision=precision, logger=False,
        callbacks=[UpdateProgressBar(), watch], enable_checkpointing=False,
        log_every_n_steps=1000, limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    data = SSLDataModule(
        "digits", num_labels=20, batch_size=20, unlabeled_batch_size=16, steps_per_epoch=9
    )
    try:
        options = {"local_views": 1} if issubclass(method, PAWS) else {}
        trainer.fit(method(10, backbone="wrn_10_1", **options), data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert any(isinstance(callback, EMA) for callback in trainer.callbacks)
    assert watch.steps == [3, 4, 5, 6]


@pytest.mark.parametrize("method", ["FixMatch", "PAWS", "RoPAWS", "SimCLRCT", "SuNCEt"])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_fits_in_every_precision(method: str, precision: str) -> None:
    cli = run(["fit", "--model", method, *SMALL, "--data.batch_size", "20",
               "--run_dir", "a", "--trainer.max_steps", "20", "--model.ema_decay", "0",
               "--trainer.accelerator", "gpu", "--trainer.devices", "1",
               "--trainer.precision", precision])  # fmt: skip
    assert all(value.isfinite().all() for value in load("a")["state_dict"].values())
    (metrics,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    assert metrics["test/acc"] > 0.1


def test_synchronised_batchnorm_on_two_devices_equals_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    exact = ("--trainer.precision", "64-true", "--trainer.accelerator", "gpu",
             "--trainer.max_steps", "3", "--model.threshold", "0.2")  # fmt: skip
    fit = ("fit", "--model", "FixMatch", *SMALL)
    run([*fit, *exact, "--run_dir", "one", "--trainer.devices", "1"])
    run([*fit, *exact, "--run_dir", "two", "--trainer.devices", "2",
         "--trainer.strategy", "ddp_spawn", "--trainer.sync_batchnorm", "true"])  # fmt: skip
    one, two = load("one")["current_model_state"], load("two")["current_model_state"]
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-9, atol=1e-9)
