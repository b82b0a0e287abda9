"""Which images are embedded: the same ones on any number of processes."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from lightning_ssl.callbacks import Embeddings
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.methods import Supervised


def arrays(count: int) -> SSLDataModule:
    """Test images in the order of their classes, as a folder lists them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    targets = np.arange(count) * 10 // count
    source = from_arrays(pixels, targets, test=(pixels, targets))
    return SSLDataModule.from_source(source, batch_size=8, eval_batch_size=7)


def evaluate(count: int, max_images: int, **options: Any) -> tuple[torch.Tensor, ...]:
    found = Embeddings(max_images)
    trainer = Trainer(
        callbacks=[found], logger=False, accelerator="cpu", enable_progress_bar=False, **options
    )
    torch.manual_seed(0)
    data = arrays(count)
    module = Supervised(10, backbone="wrn_10_1", in_channels=data.in_channels)
    trainer.test(module, data, verbose=False)
    return found.features, found.targets, found.index


def _evaluate_twice(*args: int) -> tuple[torch.Tensor, ...]:
    return evaluate(*args, strategy="ddp", devices=2)


@pytest.mark.ddp
@pytest.mark.parametrize("max_images", [2, 9, 50])
def test_uneven_shares(max_images: int, two_ranks: Any) -> None:
    features, targets, index = evaluate(31, max_images)
    two = two_ranks.run(_evaluate_twice, 31, max_images)[0]
    assert len(index) == min(max_images, 31)
    if max_images == 2:
        assert (index % 2 == 0).all()  # the second rank has none of them
    assert torch.equal(two[2], index)
    assert torch.equal(two[1], targets)
    torch.testing.assert_close(two[0], features)
    assert targets.tolist() == [i * 10 // 31 for i in index.tolist()]


def test_a_sample_has_all_classes() -> None:
    _, targets, index = evaluate(500, 100)
    assert len(index.unique()) == 100
    assert torch.bincount(targets, minlength=10).min() >= 4
    assert torch.equal(evaluate(500, 100)[2], index)
