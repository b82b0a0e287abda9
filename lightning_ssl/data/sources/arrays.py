"""Data sets from arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_ssl.data.sources.base import (
    Source,
    check_form,
    pixels_to_channels,
    resize_pixels,
    to_channels,
)
from lightning_ssl.data.sources.images import ResidentImages

ArrayLike = Tensor | npt.NDArray[np.generic]
LabeledArrays = tuple[ArrayLike, ArrayLike | Sequence[int]]


def from_arrays(
    images: ArrayLike,
    targets: ArrayLike | Sequence[int],
    *,
    val: LabeledArrays | None = None,
    test: LabeledArrays | None = None,
    classes: Sequence[str] | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    hflip: bool = True,
    name: str = "arrays",
) -> Source:
    """Make a data set of images that are in RAM.

    Args:
        images: Square images, uint8: ``(N, C, H, W)``, ``(N, H, W, C)`` or gray ``(N, H, W)``.
        targets: Classes ``(N,)``, -1 where no label is known.
        val: Validation images and their classes.
        test: Test images and their classes.
        classes: Class names; None for the numbers 0 to the highest target.
        in_channels: 3 or 1; None for the channels of ``images``.
        image_size: Side to resize to; None for that of ``images``.
        mean: Mean per channel, of pixels scaled to [0, 1]; None to compute it from ``images``.
        std: Standard deviation per channel, likewise.
        hflip: Whether a mirrored image keeps its class.
        name: What to call the data set.

    Raises:
        ValueError: If an array has another type or shape, or a target is out of range.
    """
    pixels = _as_pixels(images, "images")
    channels = in_channels or pixels.shape[1]
    check_form(channels, image_size)
    size = image_size or pixels.shape[-1]
    labels = torch.as_tensor(targets)
    names = tuple(str(i) for i in range(int(labels.max()) + 1)) if classes is None else classes

    def resident(pixels: Tensor, targets: ArrayLike | Sequence[int], lowest: int) -> ResidentImages:
        labels = _as_targets(targets, len(names), lowest)
        return ResidentImages(resize_pixels(pixels_to_channels(pixels, channels), size), labels)

    train = resident(pixels, targets, lowest=-1)
    found_mean, found_std = _measure(train.pixels)
    return Source(
        name=name,
        classes=tuple(names),
        size=size,
        channels=channels,
        mean=to_channels(tuple(mean), channels) if mean is not None else found_mean,
        std=to_channels(tuple(std), channels) if std is not None else found_std,
        hflip=hflip,
        train=train,
        val=None if val is None else resident(_as_pixels(val[0], "val"), val[1], lowest=0),
        test=None if test is None else resident(_as_pixels(test[0], "test"), test[1], lowest=0),
    )


def _as_pixels(images: ArrayLike, argument: str) -> Tensor:
    pixels = torch.as_tensor(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    square = pixels.ndim == 4 and pixels.shape[1] in (1, 3) and pixels.shape[2] == pixels.shape[3]
    if pixels.dtype != torch.uint8 or not square or not pixels.numel():
        raise ValueError(
            f"`{argument}` must be square uint8 images (N, C, H, W) with 1 or 3 channels, got "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}."
        )
    return pixels


def _as_targets(targets: ArrayLike | Sequence[int], num_classes: int, lowest: int) -> Tensor:
    labels = torch.as_tensor(targets)
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"`targets` must be integers, got {labels.dtype}.")
    bad = (labels < lowest) | (labels >= num_classes)
    if bad.any():
        raise ValueError(
            f"`targets` must be in [{lowest}, {num_classes - 1}], got {int(labels[bad][0])}."
        )
    return labels.to(torch.int64)


def _measure(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of at most 10,000 images, by histogram: exact and small in memory."""
    some = pixels[:: max(1, len(pixels) // 10_000)]
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(pixels.shape[1]):
        share = torch.bincount(some[:, channel].flatten(), minlength=256) / some[:, channel].numel()
        mean.append(float((share * levels).sum()))
        std.append(float((share * (levels - mean[-1]) ** 2).sum().sqrt()))
    return tuple(mean), tuple(std)
