"""What a report shows of the data, against the data."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import nn

from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.sources.images import to_tensor
from lightning_ssl.methods import PAWS, FixMatch

CPU = torch.device("cpu")


class Inverted(nn.Module):
    """A view whose pixels are known."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - images


def set_up(data: SSLDataModule, method: Any = None) -> SSLDataModule:
    """Data as in a run whose training has begun."""
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    method = FixMatch(data.num_classes, backbone="wrn_10_1") if method is None else method
    trainer.strategy.connect(method)
    data.trainer = trainer
    data.setup("fit")
    return data


def test_counts_names_and_classes() -> None:
    data = SSLDataModule("digits", num_labels=30, val_per_class=1, seed=0)
    known, unknown = data.album.counts()
    targets, split = data.source.train.targets, data.split
    assert known["labeled"] == data.class_counts == [2] * 10
    assert known["val"] == [1] * 10
    assert known["unlabeled"] == torch.bincount(targets[split.unlabeled]).tolist()
    assert known["test"] == torch.bincount(data.source.test.targets).tolist()
    assert set(unknown.values()) == {0}
    rows = data.album.labeled_classes(20)
    assert rows.tolist() == targets[split.labeled].tolist()
    loader = data.sample_dataloader(7)
    assert data.album.labeled_classes(7).tolist() == torch.cat([b[1] for b in loader]).tolist()
    shown = data.album.evaluated("val", int(split.val[3]))
    assert shown.name == str(int(split.val[3]))
    assert torch.equal(shown.pixels, data.source.train.pixels[split.val[3]])
    examples = data.album.examples(each=1, classes=3, unlabeled=2)
    assert [example.target for example in examples] == [0, 1, 2, None, None]


def test_views_are_those_of_training() -> None:
    data = set_up(SSLDataModule("digits", num_labels=20, views={"weak": Inverted()}, seed=0))
    before = torch.get_rng_state()
    shown = data.album.views(3, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert {stream: len(images) for stream, images in shown.items()} == {
        "labeled": 3,
        "unlabeled": 3,
    }
    for image in [*shown["labeled"], *shown["unlabeled"]]:
        (weak,) = image.views["weak"]
        assert torch.equal(weak, 255 - image.pixels)
    assert set(shown["unlabeled"][0].views) == {"weak", "strong"}
    paws = PAWS(10, backbone="wrn_10_1", local_views=2)
    data = set_up(SSLDataModule("digits", num_labels=40, seed=0), paws)
    views = data.album.views(1, CPU)["unlabeled"]
    assert {name: len(v) for name, v in views[0].views.items()} == {"global": 2, "local": 2}


@pytest.mark.parametrize("size", [32, 80])  # in RAM, and decoded in workers
def test_photos_and_those_that_are_gone(size: int, tmp_path: Any) -> None:
    for part in ("labeled/a", "labeled/b", "unlabeled", "test/a", "test/b"):
        for i in range(3):
            path = tmp_path / part / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((size, size, 3), 50 * i + 20, dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    data = set_up(SSLDataModule("folder", root=str(tmp_path), image_size=size, seed=0))
    album = data.album
    shown = album.evaluated("test", 4)
    assert (shown.name, shown.pixels.unique().tolist()) == ("test/b/1.png", [70])
    (image,) = album.views(1, CPU)["labeled"]
    assert image.name == "labeled/a/0.png"
    assert image.views["weak"].unique().tolist() == [20]  # flips and shifts of one colour
    assert album.counts()[1] == {"labeled": 0, "unlabeled": 3, "test": 0}
    # Of a large JPEG the same is seen, read at a part of its size.
    grid = torch.arange(1600)
    photo = ((grid[:, None] // 3 + grid[None] // 5) % 256).byte()[..., None].repeat(1, 1, 3)
    Image.fromarray(photo.numpy()).save(tmp_path / "test/b/1.png", "JPEG", quality=95)
    whole = data.source.test.center(data.source.test.decode(4), min(size, 96))
    difference = album.evaluated("test", 4).pixels.float() - to_tensor(whole).float()
    assert difference.abs().mean() < 2
    (tmp_path / "test/b/1.png").unlink()
    assert album.evaluated("test", 4).pixels is None
