"""What only a CUDA device can show; run by ``pytest -m gpu``."""

import pytest
import torch

from lightning_ssl.augment import Views
from lightning_ssl.callbacks import EMA, progress
from lightning_ssl.cli import run
from lightning_ssl.state.banks import LabeledBank

from probes import NoWaiting
from runs import SMALL, load
from test_methods import ROWS, Row, each_method, start

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


GPU = ("--trainer.accelerator", "gpu", "--trainer.devices", "1")


def check_no_waiting(row: Row, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)  # the bar is due in the first step only
    # Fetching, transfer, views, loss, log, optimizer, schedule, average and bar are all inside.
    try:
        cli = start(row, "a", 9, *GPU, "--trainer.callbacks+=probes.NoWaiting",
                    "--data.steps_per_epoch", "9", "--trainer.enable_progress_bar", "true",
                    "--trainer.log_every_n_steps", "1000", "--trainer.limit_val_batches", "0",
                    *args)  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    (watch,) = (c for c in cli.trainer.callbacks if isinstance(c, NoWaiting))
    assert any(isinstance(callback, EMA) for callback in cli.trainer.callbacks)
    assert watch.steps == [3, 4, 5, 6]


@each_method
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_step_never_waits_for_the_device(
    row: Row, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_no_waiting(row, monkeypatch, "--trainer.precision", precision)


@pytest.mark.parametrize("row", [r for r in ROWS if r.name in ("FixMatch", "ReMixMatch")], ids=str)
@pytest.mark.parametrize("imbalance", ["LogitAdjustment", "ProgressiveAlignment", "ABCHead"])
def test_corrections_never_wait_for_the_device(
    row: Row, imbalance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_no_waiting(row, monkeypatch, "--model.imbalance", imbalance)


@each_method
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_fits_in_every_precision(row: Row, precision: str) -> None:
    cli = start(row, "a", 20, *GPU, "--model.ema_decay", "0.5", "--trainer.precision", precision)
    assert all(value.isfinite().all() for value in load("a")["state_dict"].values())
    (metrics,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    assert metrics["test/acc"] > 0.1


def test_copies_in_a_batch_have_the_same_embedding_in_every_run() -> None:
    z, index = torch.randn(512, 128, device="cuda"), torch.randint(8, (512,), device="cuda")
    found = []
    for _ in range(20):
        bank = LabeledBank(8, 128, 0.7).cuda()
        bank.update(z, index, index)
        found.append(bank.features)
    assert all(torch.equal(one, found[0]) for one in found)


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
