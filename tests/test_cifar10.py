"""The main job on real photos, longer than the default suite allows."""

import os

import pytest

from lightning_ssl.cli import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CIFAR10_ROOT" not in os.environ, reason="CIFAR10_ROOT is not set"),
]


@pytest.mark.parametrize("method", ["Supervised", "FixMatch"])
def test_learns_cifar10_from_a_folder(method: str) -> None:
    cli = run(["fit", "--model", method, "--data.dataset", "folder",
               "--data.root", os.environ["CIFAR10_ROOT"], "--data.num_labels", "4000",
               "--data.val_per_class", "0", "--data.batch_size", "64",
               "--data.unlabeled_batch_size", "64", "--model.backbone", "wrn_10_1",
               "--model.optimizer.lr", "0.1", "--model.ema_decay", "0.95",
               "--trainer.max_steps", "300", "--trainer.accelerator", "cpu",
               "--run_dir", "a"])  # fmt: skip
    assert cli.datamodule.num_unlabeled == 50_000
    assert cli.trainer.callback_metrics["test/acc"] > 0.35  # chance is 0.1
