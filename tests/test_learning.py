"""Methods learn from unlabelled images; a falling loss proves nothing."""

from statistics import mean
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything

from lightning_ssl import methods
from lightning_ssl.data import Source, SSLDataModule, from_arrays, open_source

SEEDS = (0, 1)


def four_digits() -> Source:
    """Zeros to threes of scikit-learn's digits; the test images are other writers'."""
    digits = open_source("digits")

    def some(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = getattr(digits, part)
        keep = images.targets < 4
        return images.pixels[keep], images.targets[keep]

    return from_arrays(*some("train"), test=some("test"), hflip=False)


def accuracy(name: str) -> float:
    """Mean held-out accuracy after 200 updates with one label per class."""
    found = []
    for seed in SEEDS:
        seed_everything(seed, verbose=False)
        data = SSLDataModule.from_source(
            four_digits(), labels_per_class=1, batch_size=8, unlabeled_batch_size=32
        )
        module = getattr(methods, name)(
            4, backbone="wrn_10_1", ema_decay=0.95, **OPTIONS.get(name, {})
        )
        trainer = Trainer(
            max_steps=200,
            limit_val_batches=0,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        (metrics,) = trainer.test(module, data, verbose=False)
        found.append(metrics["test/acc"])
    return mean(found)


@pytest.fixture(scope="module")
def supervised() -> float:
    return accuracy("Supervised")


# One image a class is soon known by heart, after which its contrast only narrows the network.
OPTIONS: dict[str, dict[str, Any]] = {"SimCLRCT": {"supervised_updates": 25}}
LABELS_ALONE = {"Supervised", "SuNCEt"}


def test_labels_alone_teach_something(supervised: float) -> None:
    assert supervised > 0.5  # chance is 0.25
    assert accuracy("SuNCEt") > 0.5


@pytest.mark.parametrize("name", sorted({*methods.__all__} - {"SSLModule"} - LABELS_ALONE))
def test_unlabelled_images_help(name: str, supervised: float) -> None:
    assert accuracy(name) >= supervised + 0.1
