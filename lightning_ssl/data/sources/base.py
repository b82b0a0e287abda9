"""What a data set is."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from lightning_ssl.data.sources.decoding import Interpolation
from lightning_ssl.data.sources.images import Images

T = TypeVar("T")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SIDES = (2, 10_000)
"""Least and largest side of images in pixels; a larger one alone fills the memory."""

_CHUNK = 4096  # images converted at a time


@dataclass
class Source:
    """A data set: its images, what they show and how to normalise them.

    Making one lists files but reads no pixels; what is not yet on this machine is only opened when
    looked at.

    Args:
        name: The data set's name.
        classes: Class names; their order gives the class numbers.
        size: Side of the images as networks see them.
        channels: 3 or 1.
        mean: Mean per channel, of pixels scaled to [0, 1].
        std: Standard deviation per channel, likewise.
        hflip: Whether a mirrored image keeps its class (not for digits).
        train: Training images, with and without label.
        val: Validation images; None where the data set has none.
        test: Test images; None where the data set has none.
        predefined: Indices of the images that the data set itself declares labelled, or a function
            that reads them; None where every image with a target may be chosen.
        known_counts: Images per class among those, or a function that reads them; None to count.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hflip: bool
    train: Images
    val: Images | None = None
    test: Images | None = None
    predefined: Tensor | Callable[[], Tensor] | None = None
    known_counts: tuple[int, ...] | Callable[[], tuple[int, ...]] | None = None

    def seen(self, crop_pct: float | None, interpolation: Interpolation) -> "Source":
        """The same data, as evaluation shall see it.

        Args:
            crop_pct: Share of a photo's short side, see :class:`FileImages`.
            interpolation: How it is resized.
        """
        parts = {"train": self.train, "val": self.val, "test": self.test}
        found = {
            n: None if p is None else p.seen(crop_pct, interpolation) for n, p in parts.items()
        }
        return replace(self, **found)  # type: ignore[arg-type]  # train is never None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def num_train(self) -> int:
        """Number of training images, with and without label; reads nothing."""
        return len(self.train)

    @cached_property
    def labeled(self) -> Tensor | None:
        """Indices that the data set declares labelled; None for all with a target."""
        return self.predefined() if callable(self.predefined) else self.predefined

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Labelled training images per class, before any split; reads no pixels."""
        if callable(self.known_counts):
            return self.known_counts()
        if self.known_counts is not None:
            return self.known_counts
        targets = self.train.targets
        pool = targets if self.labeled is None else targets[self.labeled]
        counts = torch.bincount(pool[pool >= 0], minlength=self.num_classes)
        return tuple(counts.tolist())


def check_form(in_channels: int, image_size: int | None) -> None:
    """Raise a `ValueError` for a number of channels or a side that no data set can have."""
    if in_channels not in (1, 3):
        raise ValueError(f"`in_channels` (--data.in_channels) must be 1 or 3, got {in_channels}.")
    if image_size is not None and not SIDES[0] <= image_size <= SIDES[1]:
        raise ValueError(
            f"`image_size` (--data.image_size) must be in [{SIDES[0]}, {SIDES[1]}], got "
            f"{image_size}."
        )


def to_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Bring a mean or standard deviation to a number of channels.

    Args:
        values: One number per channel, for 1 or 3 channels.
        channels: 3 or 1; one channel gets the average.
    """
    if channels == len(values):
        return values
    return values * channels if len(values) == 1 else (sum(values) / len(values),)


def pixels_to_channels(pixels: Tensor, channels: int) -> Tensor:
    """Repeat gray to RGB, or turn RGB to gray by Pillow's integer luma.

    Args:
        pixels: Images ``(N, C, H, W)``, uint8, with 1 or 3 channels.
        channels: 3 or 1.
    """
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    gray = torch.empty_like(pixels[:, :1])
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    for start in range(0, len(pixels), _CHUNK):  # in parts, as the sums are four times as wide
        part = pixels[start : start + _CHUNK]
        gray[start : start + _CHUNK] = ((part * weights).sum(1, keepdim=True) + 0x8000) >> 16
    return gray


def resize_pixels(pixels: Tensor, size: int) -> Tensor:
    """Resize square images, bilinear and antialiased.

    Args:
        pixels: Images ``(N, C, H, W)``, uint8.
        size: The new side.
    """
    if pixels.shape[-2:] == (size, size):
        return pixels
    out = pixels.new_empty((*pixels.shape[:2], size, size))
    for start in range(0, len(pixels), _CHUNK):
        out[start : start + _CHUNK] = torch.nn.functional.interpolate(
            pixels[start : start + _CHUNK],
            size=(size, size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
    return out


def name_some(names: Iterable[str], limit: int = 5) -> str:
    """List names for a message, the first few and how many more.

    Args:
        names: The names.
        limit: How many to write out.

    Example:
        >>> name_some("abcdefg")
        'a, b, c, d, e and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def describe_folder(path: str | Path) -> str:
    """Say what a folder holds, for messages.

    Args:
        path: The folder.
    """
    if not os.path.isdir(path):
        return "a file" if os.path.exists(path) else "nothing: it does not exist"
    with os.scandir(path) as entries:
        names = sorted(e.name + ("/" if e.is_dir() else "") for e in entries)
    return name_some(names, 10) or "an empty folder"
