"""CIFAR-10, CIFAR-100, SVHN and STL-10, read and downloaded by torchvision's classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from lightning_ssl.data.sources.base import (
    Source,
    describe_folder,
    pixels_to_channels,
    resize_pixels,
    to_channels,
)
from lightning_ssl.data.sources.images import ResidentImages

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class _Known:
    """What is known of a data set before it is on the machine. ``parts`` name torchvision's."""

    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # labelled images per class in each part
    unlabeled: int = 0
    hflip: bool = True


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The numbers of the FixMatch and TorchSSL code bases; SVHN's counts are those of its files.
_KNOWN = {
    "cifar10": _Known(
        classes=_words("airplane automobile bird cat deer dog frog horse ship truck"),
        size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        train=("train",),
        counts={"train": (5000,) * 10, "test": (1000,) * 10},
    ),
    "cifar100": _Known(
        classes=_words(_CIFAR100_CLASSES),
        size=32,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        train=("train",),
        counts={"train": (500,) * 100, "test": (100,) * 100},
    ),
    "svhn": _Known(
        classes=tuple("0123456789"),
        size=32,
        mean=(0.438, 0.444, 0.473),
        std=(0.1751, 0.1771, 0.1744),
        train=("train",),
        counts={
            "train": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            "test": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
            "extra": (45550, 90560, 74740, 60765, 50633, 53490, 41582, 43997, 35358, 34456),
        },
        hflip=False,
    ),
    "stl10": _Known(
        classes=_words("airplane bird car cat deer dog horse monkey ship truck"),
        size=96,
        mean=(112.4 / 255, 109.1 / 255, 98.6 / 255),
        std=(68.4 / 255, 66.6 / 255, 68.5 / 255),
        train=("train+unlabeled",),
        counts={"train+unlabeled": (500,) * 10, "test": (800,) * 10},
        unlabeled=100_000,
    ),
}

NAMES = tuple(_KNOWN)


def open_torchvision(
    dataset: str,
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    extra: bool = False,
    fold: int | None = None,
) -> Source:
    """Describe a data set that torchvision reads; nothing is opened before it is looked at.

    Args:
        dataset: One of :data:`NAMES`.
        root: The folder that holds, or will hold, its files.
        in_channels: 3 or 1.
        image_size: Side to resize to; None for the data set's own.
        extra: Whether SVHN's 531,131 extra images belong to the training set.
        fold: Which of STL-10's ten predefined folds is labelled; None for all 5,000 images.
    """
    known = _KNOWN[dataset]
    size = image_size or known.size
    parts = (*known.train, "extra") if extra else known.train
    counts = tuple(np.sum([known.counts[part] for part in parts], axis=0).tolist())

    def images(parts: tuple[str, ...], length: int) -> ResidentImages:
        return ResidentImages.deferred(
            length, partial(_read, dataset, root, parts, in_channels, size)
        )

    return Source(
        name=dataset,
        classes=known.classes,
        size=size,
        channels=in_channels,
        mean=to_channels(known.mean, in_channels),
        std=to_channels(known.std, in_channels),
        hflip=known.hflip,
        train=images(parts, sum(counts) + known.unlabeled),
        test=images(("test",), sum(known.counts["test"])),
        predefined=None if fold is None else partial(_read_fold, root, fold),
        known_counts=counts if fold is None else partial(_count_fold, root, fold),
    )


def prepare_torchvision(dataset: str, root: str, *, download: bool, extra: bool = False) -> None:
    """Download a data set, or see that it is there. Call it on one process.

    Args:
        dataset: One of :data:`NAMES`.
        root: The folder for its files.
        download: Whether to download what is missing.
        extra: Whether SVHN's extra images are wanted.

    Raises:
        FileNotFoundError: If files are missing or damaged and ``download`` is false.
    """
    # Archives hold every part, so the smallest part stands for all; SVHN has a file for each.
    parts = ("test",) if dataset != "svhn" else ("train", "test", "extra")[: 3 if extra else 2]
    for part in parts:
        _open(dataset, root, part, download=download)


def _open(dataset: str, root: str, part: str, download: bool = False) -> Any:
    try:
        if dataset in ("cifar10", "cifar100"):
            cifar = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
            return cifar(root, train=part == "train", download=download)
        kind = datasets.SVHN if dataset == "svhn" else datasets.STL10
        return kind(root, split=part, download=download)
    except RuntimeError as error:
        if "not found or corrupted" not in str(error):
            raise
        raise _missing(dataset, root) from error


def _missing(dataset: str, root: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"The files of '{dataset}' are missing or damaged under `root` (--data.root) '{root}', "
        f"which holds: {describe_folder(root)}. Download them with --data.download true."
    )


def _read(
    dataset: str, root: str, parts: tuple[str, ...], channels: int, size: int
) -> tuple[Tensor, Tensor]:
    pixels, targets = [], []
    for part in parts:
        opened = _open(dataset, root, part)
        data = opened.data
        if dataset in ("cifar10", "cifar100"):
            data, labels = data.transpose(0, 3, 1, 2), opened.targets
        else:
            labels = opened.labels
        tensor = torch.from_numpy(np.ascontiguousarray(data))
        pixels.append(resize_pixels(pixels_to_channels(tensor, channels), size))
        targets.append(torch.from_numpy(np.asarray(labels, dtype=np.int64)))
    return _concatenate(pixels), _concatenate(targets)


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))  # cat would copy a single one


def _read_fold(root: str, fold: int) -> Tensor:
    path = Path(root, datasets.STL10.base_folder, datasets.STL10.folds_list_file)
    if not path.is_file():
        raise _missing("stl10", root)
    line = path.read_text(encoding="utf-8").splitlines()[fold]
    return torch.tensor([int(index) for index in line.split()], dtype=torch.int64).sort().values


def _count_fold(root: str, fold: int) -> tuple[int, ...]:
    indices = _read_fold(root, fold).numpy()
    labels = np.fromfile(
        Path(root, datasets.STL10.base_folder, datasets.STL10.train_list[1][0]), dtype=np.uint8
    )
    counts = np.bincount(labels[indices].astype(np.int64) - 1, minlength=10)
    return tuple(counts.tolist())
