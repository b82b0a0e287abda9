"""What only a CUDA device can show; run by ``pytest -m gpu``."""

from typing import Any

import pytest
import torch
from runs import SMALL, load

from lightning_ssl.augment import Views
from lightning_ssl.cli import run
from lightning_ssl.methods import FixMatch
from lightning_ssl.types import Batch, Samples

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


def test_a_step_never_waits_for_the_device() -> None:
    module = FixMatch(10, backbone="wrn_10_1").cuda()
    views = Views(module.views, 32)
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).cuda()
    target = torch.randint(10, (8,)).cuda()

    def step(number: int) -> Any:
        labeled = Samples(views("labeled", x, number)[0], target)
        batch = Batch(number, labeled, Samples(views("unlabeled", x, number)[0]))
        module.training_step(batch, 0).backward()

    step(0)  # the first step may choose algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_fits_in_every_precision(precision: str) -> None:
    cli = run(["fit", "--model", "FixMatch", *SMALL, "--run_dir", "a", "--trainer.max_steps", "20",
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
