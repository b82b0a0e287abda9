"""Data sets that are folders of image files."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_ssl.data.sources.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Source,
    describe_folder,
    name_some,
    to_channels,
)
from lightning_ssl.data.sources.classes import check_classes, check_marks, sort_classes
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.data.sources.listing import LeftOut, scan, walk_images
from lightning_ssl.data.sources.sizes import guess_size
from lightning_ssl.files import printable

LAYOUT = """
either  ROOT/train/<class>/*.jpg      which of them count as labelled is chosen later
        ROOT/unlabeled/**/*.jpg       optional: more images without label
or      ROOT/labeled/<class>/*.jpg
        ROOT/unlabeled/**/*.jpg       in any folders, only the files count
and     ROOT/val/<class>/*.jpg        optional
        ROOT/test/<class>/*.jpg       optional"""

IMAGENET_LAYOUT = """
        ROOT/train/<class>/*.JPEG
        ROOT/val/<class>/*.JPEG       reported as the test set, never selected on"""


def open_folder(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    exif_orientation: bool = True,
) -> Source:
    """List a folder in one of the two layouts that :data:`LAYOUT` shows.

    Args:
        root: The folder.
        in_channels: 3 or 1.
        image_size: Side of the images; None for what the headers suggest.
        classes: Class names in the order that gives their numbers; None for the sorted folders.
        exif_orientation: Whether photos are turned as their EXIF data say.

    Raises:
        FileNotFoundError: If the folder does not exist, is in neither layout or lacks images.
        ValueError: If classes do not agree.
    """
    has = {part: os.path.isdir(os.path.join(root, part)) for part in _PARTS}
    if has["train"] == has["labeled"] or (has["labeled"] and not has["unlabeled"]):
        raise layout_error(root, LAYOUT)
    first = "train" if has["train"] else "labeled"
    left_out = LeftOut()
    names, paths, targets = list_classes(os.path.join(root, first), classes, left_out)
    num_labeled = len(paths)
    if has["unlabeled"]:
        unlabeled = _list_images(os.path.join(root, "unlabeled"), left_out)
        paths += unlabeled
        targets = torch.cat([targets, torch.full((len(unlabeled),), -1)])
    form = (in_channels, exif_orientation)
    val, test = (
        _list_part(root, part, names, form, left_out) if has[part] else None
        for part in ("val", "test")
    )
    left_out.warn(f"'{root}'")
    return file_source(
        "folder",
        names,
        FileImages(paths, targets, *form),
        image_size,
        val=val,
        test=test,
        predefined=torch.arange(num_labeled) if has["labeled"] else None,
    )


_PARTS = ("train", "labeled", "unlabeled", "val", "test")


def open_imagenet(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    exif_orientation: bool = False,
) -> Source:
    """List ImageNet, or a subset of its classes. Its validation images are the test set.

    Args:
        root: The folder that holds ``train`` and ``val``.
        in_channels: 3 or 1.
        image_size: Side of the images; None for 224.
        classes: Class folders in the order that gives their numbers; None for sorted.
        exif_orientation: Whether photos are turned as their EXIF data say.

    Raises:
        FileNotFoundError: If ``train`` or ``val`` does not exist, or a class has no images.
        ValueError: If classes do not agree.
    """
    if not all(os.path.isdir(os.path.join(root, part)) for part in ("train", "val")):
        raise layout_error(root, IMAGENET_LAYOUT)
    left_out, form = LeftOut(), (in_channels, exif_orientation)
    names, paths, targets = list_classes(os.path.join(root, "train"), classes, left_out)
    train = FileImages(paths, targets, *form)
    test = _list_part(root, "val", names, form, left_out)
    left_out.warn(f"'{root}'")
    return file_source("imagenet", names, train, image_size or 224, test=test)


def file_source(
    name: str,
    classes: tuple[str, ...],
    train: FileImages,
    image_size: int | None,
    *,
    val: FileImages | None = None,
    test: FileImages | None = None,
    predefined: Tensor | None = None,
) -> Source:
    """Make a source of files, with ImageNet's mean and standard deviation.

    Args:
        name: The data set's name.
        classes: Class names.
        train: Training images.
        image_size: Side of the images; None for what :func:`~.sizes.guess_size` finds.
        val: Validation images.
        test: Test images.
        predefined: Indices of the labelled training images; None for all with a target.
    """
    return Source(
        name=name,
        classes=classes,
        size=image_size or guess_size(train),
        channels=train.channels,
        mean=to_channels(IMAGENET_MEAN, train.channels),
        std=to_channels(IMAGENET_STD, train.channels),
        hflip=True,
        train=train,
        val=val,
        test=test,
        predefined=predefined,
    )


def list_classes(
    folder: str, classes: Sequence[str] | None = None, left_out: LeftOut | None = None
) -> tuple[tuple[str, ...], list[str], Tensor]:
    """List a folder of class folders.

    Args:
        folder: The folder; its subfolders are the classes.
        classes: The class names that must be there, in the order of their numbers; None for the
            sorted subfolders.
        left_out: Where files that are no images are counted.

    Returns:
        Class names, paths (class after class, sorted) and targets.

    Raises:
        FileNotFoundError: If there is no class, or a class has no images.
        ValueError: If images lie beside the class folders, or the classes are not the given ones.
    """
    left_out = LeftOut() if left_out is None else left_out
    found, files = scan(folder, left_out)
    if files:
        raise ValueError(
            f"'{folder}' must hold one folder per class, but images lie in it: "
            f"{name_some(printable(os.path.basename(file)) for file in files)}."
        )
    # Class names are text in every locale, and go into records; names of folders need not be.
    folders = {printable(os.path.basename(path)): path for path in found}
    if not found:
        raise FileNotFoundError(f"'{folder}' must hold one folder per class, but has none.")
    names = tuple(sort_classes(folders) if classes is None else classes)
    check_marks(
        dict.fromkeys(folders, f"'{folder}'"),
        classes,
        "Images without a label belong into ROOT/unlabeled",
    )
    check_classes(list(folders), names, f"the folders of '{folder}'")
    paths: list[str] = []
    counts = []
    for name in names:
        before = len(paths)
        paths.extend(walk_images(folders[name], left_out))
        counts.append(len(paths) - before)
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise FileNotFoundError(
            f"A class folder under '{folder}' has no images: {name_some(empty)}. Left out, not "
            f"read as images: {left_out or 'nothing'}."
        )
    return names, paths, torch.arange(len(names)).repeat_interleave(torch.tensor(counts))


def images_below(
    root: str, in_channels: int, exif_orientation: bool, argument: str = "data.root"
) -> FileImages:
    """List the images of a folder at any depth, which are to be predicted.

    Args:
        root: The folder.
        in_channels: 3 or 1.
        exif_orientation: Whether photos are turned as their EXIF data say.
        argument: Name of the argument that gave ``root``, for messages.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
    """
    left_out, folder = LeftOut(), os.path.expanduser(root)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"`{argument}` must be a folder of images, got '{root}': {describe_folder(folder)}."
        )
    paths = _list_images(folder, left_out, argument)
    left_out.warn(f"'{root}'")
    return FileImages(paths, torch.full((len(paths),), -1), in_channels, exif_orientation)


def layout_error(root: str, layout: str) -> FileNotFoundError:
    """Say which folders were expected and which were found.

    Args:
        root: The folder the user gave.
        layout: The folders that were expected.
    """
    return FileNotFoundError(
        f"`root` (--data.root) must be a folder with this content:{layout}\n"
        f"got '{root}', which holds: {describe_folder(root)}."
    )


def _list_part(
    root: str, part: str, classes: tuple[str, ...], form: tuple[int, bool], left_out: LeftOut
) -> FileImages:
    _, paths, targets = list_classes(os.path.join(root, part), classes, left_out)
    return FileImages(paths, targets, *form)


def _list_images(folder: str, left_out: LeftOut, argument: str = "data.root") -> list[str]:
    paths = list(walk_images(folder, left_out))
    if not paths:
        raise FileNotFoundError(
            f"`{argument}` must hold images, found none in '{folder}'; left out, not read as "
            f"images: {left_out or 'nothing'}."
        )
    return paths
