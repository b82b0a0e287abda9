"""Data sets by name, and from arrays."""

import difflib
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_ssl.data.sources import torchvision
from lightning_ssl.data.sources.base import (
    Source,
    pixels_to_channels,
    resize_pixels,
    to_channels,
)
from lightning_ssl.data.sources.csv import open_csv
from lightning_ssl.data.sources.folder import (
    IMAGENET_LAYOUT,
    LAYOUT,
    layout_error,
    open_folder,
    open_imagenet,
)
from lightning_ssl.data.sources.images import ResidentImages

__all__ = ["DATASETS", "Source", "from_arrays", "open_source", "prepare_source"]

DATASETS = ("digits", *torchvision.NAMES, "imagenet", "folder", "csv")
_OWN_FILES = ("imagenet", "folder", "csv")

ArrayLike = Tensor | npt.NDArray[np.generic]
LabeledArrays = tuple[ArrayLike, ArrayLike | Sequence[int]]


def open_source(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    extra: bool = False,
    fold: int | None = None,
) -> Source:
    """Open a data set: list its files, read no pixels, download nothing.

    Args:
        dataset: One of :data:`DATASETS`.
        root: The folder that holds it (for ``csv``, the CSV file); ``digits`` needs none.
        in_channels: 3 (gray is repeated) or 1 (colour becomes gray).
        image_size: Side of the images; None for the data set's own. For ``folder`` and ``csv``
            that is the short side of the first training image up to 64, else 224.
        classes: For ``folder``, ``csv`` and ``imagenet``: class names in the order that gives
            their numbers; None for sorted.
        extra: For ``svhn``: whether its extra images belong to the training set.
        fold: For ``stl10``: which of the ten predefined folds is labelled; None for all of them.

    Raises:
        FileNotFoundError: If the folder or file is missing or not laid out as the data set needs.
        ValueError: If an argument is unknown, out of range or belongs to another data set.
    """
    _check_arguments(dataset, root, in_channels, image_size)
    _check_options(dataset, classes, extra, fold)
    path = "" if root is None else os.path.expanduser(root)
    if dataset == "digits":
        return _open_digits(in_channels, image_size)
    if dataset in torchvision.NAMES:
        return torchvision.open_torchvision(
            dataset, path, in_channels=in_channels, image_size=image_size, extra=extra, fold=fold
        )
    opener = {"imagenet": open_imagenet, "folder": open_folder, "csv": open_csv}[dataset]
    return opener(path, in_channels=in_channels, image_size=image_size, classes=classes)


def prepare_source(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    extra: bool = False,
) -> None:
    """Download a data set where needed, or see that its files are there. One process calls this.

    Args:
        dataset: One of :data:`DATASETS`; only torchvision's are ever downloaded.
        root: The folder for its files.
        download: Whether to download what is missing.
        extra: For ``svhn``: whether its extra images are wanted.

    Raises:
        FileNotFoundError: If files are missing and ``download`` is false.
    """
    _check_arguments(dataset, root, 3, None)
    if dataset in torchvision.NAMES:
        path = os.path.expanduser(root or "")
        torchvision.prepare_torchvision(dataset, path, download=download, extra=extra)


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
    _check_arguments("digits", None, channels, image_size)
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


def _check_arguments(
    dataset: str, root: str | os.PathLike[str] | None, in_channels: int, image_size: int | None
) -> None:
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset.lower(), DATASETS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(
            f"`dataset` (--data.dataset) must be one of {', '.join(DATASETS)}, got '{dataset}'."
            f"{hint}"
        )
    if in_channels not in (1, 3):
        raise ValueError(f"`in_channels` (--data.in_channels) must be 1 or 3, got {in_channels}.")
    if image_size is not None and image_size < 1:
        raise ValueError(f"`image_size` (--data.image_size) must be positive, got {image_size}.")
    if root is None and dataset in ("imagenet", "folder"):
        raise layout_error("", IMAGENET_LAYOUT if dataset == "imagenet" else LAYOUT)
    if root is None and dataset != "digits":
        raise ValueError(f"`root` (--data.root) is needed for '{dataset}', got none.")


def _check_options(
    dataset: str, classes: Sequence[str] | None, extra: bool, fold: int | None
) -> None:
    for option, given, owners in (
        ("classes", classes is not None, _OWN_FILES),
        ("extra", extra, ("svhn",)),
        ("fold", fold is not None, ("stl10",)),
    ):
        if given and dataset not in owners:
            raise ValueError(
                f"`{option}` (--data.{option}) belongs to {', '.join(owners)}, got '{dataset}'."
            )
    if fold is not None and fold not in range(10):
        raise ValueError(f"`fold` (--data.fold) must be in [0, 9], got {fold}.")


def _open_digits(in_channels: int, image_size: int | None) -> Source:
    digits = load_digits()
    # 0..16 to 0..255. The last 360 images are by other writers than the first 1,437.
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    targets = torch.from_numpy(digits.target)
    return from_arrays(
        pixels[:1437],
        targets[:1437],
        test=(pixels[1437:], targets[1437:]),
        in_channels=in_channels,
        image_size=image_size,
        mean=(0.3054,),
        std=(0.3753,),
        hflip=False,
        name="digits",
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
