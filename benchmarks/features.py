"""What a step costs on stored features, and what storing them costs: one core, no network learns.

    OMP_NUM_THREADS=1 python benchmarks/features.py [--updates 1000] [METHOD ...]

A store of 4,000 images with 1,280 random features (4 draws of `weak`, 8 of others) is made without
a network. Each method then trains through Lightning with 32 labelled and 224 unlabelled images a
step, ten classes, AdamW, as `-c frozen` does. Printed are CPU seconds of the updates alone.
"""

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_ssl import methods
from lightning_ssl.cli.errors import parameters
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.data.features import cache
from lightning_ssl.optim import Optimizer, Schedule

IMAGES, FEATURES, CLASSES = 4000, 1280, 10
NAMES = ("FixMatch", "FlexMatch", "AdaMatch", "SimMatch", "CoMatch", "PAWS")


class Random(nn.Module):
    """Features that are drawn, so that only what surrounds the network costs anything."""

    num_features = FEATURES

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images, which give the seed."""
        generator = torch.Generator().manual_seed(int(images.double().sum().abs() * 1000) % 2**32)
        return torch.randn(len(images), FEATURES, generator=generator).relu()


class Clock(pl.Callback):
    """CPU seconds from the end of the tenth update on."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Look at the clock."""
        if trainer.global_step == 10:
            self.start = time.process_time()
        self.seconds = time.process_time() - getattr(self, "start", 0.0)


def measure(name: str, updates: int, folder: str) -> float:
    """CPU seconds of a number of updates."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 3, 8, 8), dtype=np.uint8)
    source = from_arrays(images, np.arange(IMAGES) % CLASSES)
    paws = {"labeled_order": "stratified", "batch_size": 40} if name == "PAWS" else {}
    data = SSLDataModule.from_source(
        source,
        **{"num_labels": 40, "val_per_class": 0, "batch_size": 32, "seed": 0} | paws,
        unlabeled_batch_size=224,
        cached_features=True,
        features_dir=folder,
    )
    method = getattr(methods, name)
    sizes = {"num_labeled": 40, "num_unlabeled": IMAGES, "image_side": 8}
    module = method(
        CLASSES,
        backbone=Random(),
        freeze_backbone=True,
        optimizer=Optimizer("adamw", 1e-3, weight_decay=1e-2),
        schedule=Schedule("constant"),
        **{key: value for key, value in sizes.items() if key in parameters(method)},
    )
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=updates + 10,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=20,
        callbacks=[clock],
    )
    trainer.fit(module, datamodule=data)
    return clock.seconds


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--updates", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache._ALIKE = -1.0  # drawn features are never the same again
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            print(f"{name:12} {measure(name, options.updates, folder):6.1f} s", flush=True)


if __name__ == "__main__":
    main()
