"""Data sets that are folders of image files."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_ssl.data.sources.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Source,
    describe_folder,
    name_some,
    to_channels,
)
from lightning_ssl.data.sources.decoding import SMALL, header_size
from lightning_ssl.data.sources.images import BrokenImageError, FileImages

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

_SUFFIXES = tuple(IMG_EXTENSIONS)
_PEEK = 10  # images whose header is tried, should the first be broken


def open_folder(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """List a folder in one of the two layouts that :data:`LAYOUT` shows.

    Args:
        root: The folder.
        in_channels: 3 or 1.
        image_size: Side of the images; None for what the first image's header suggests.
        classes: Class names in the order that gives their numbers; None for the sorted folders.

    Raises:
        FileNotFoundError: If the folder does not exist, is in neither layout or lacks images.
        ValueError: If classes do not agree.
    """
    has = {part: os.path.isdir(os.path.join(root, part)) for part in _PARTS}
    if has["train"] == has["labeled"] or (has["labeled"] and not has["unlabeled"]):
        raise layout_error(root, LAYOUT)
    first = "train" if has["train"] else "labeled"
    names, paths, targets = list_classes(os.path.join(root, first), classes)
    num_labeled = len(paths)
    if has["unlabeled"]:
        unlabeled = list(walk_images(os.path.join(root, "unlabeled")))
        if not unlabeled:
            raise FileNotFoundError(f"There are no images under '{root}/unlabeled'.")
        paths += unlabeled
        targets = torch.cat([targets, torch.full((len(unlabeled),), -1)])
    return file_source(
        "folder",
        names,
        FileImages(paths, targets, in_channels),
        image_size,
        val=_list_part(root, "val", names, in_channels) if has["val"] else None,
        test=_list_part(root, "test", names, in_channels) if has["test"] else None,
        predefined=torch.arange(num_labeled) if has["labeled"] else None,
    )


_PARTS = ("train", "labeled", "unlabeled", "val", "test")


def open_imagenet(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """List ImageNet, or a subset of its classes. Its validation images are the test set.

    Args:
        root: The folder that holds ``train`` and ``val``.
        in_channels: 3 or 1.
        image_size: Side of the images; None for 224.
        classes: Class folders in the order that gives their numbers; None for sorted.

    Raises:
        FileNotFoundError: If ``train`` or ``val`` does not exist, or a class has no images.
        ValueError: If classes do not agree.
    """
    if not all(os.path.isdir(os.path.join(root, part)) for part in ("train", "val")):
        raise layout_error(root, IMAGENET_LAYOUT)
    names, paths, targets = list_classes(os.path.join(root, "train"), classes)
    train = FileImages(paths, targets, in_channels)
    test = _list_part(root, "val", names, in_channels)
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
        image_size: Side of the images; None for the short side of the first training image where
            that is at most 64, else 224.
        val: Validation images.
        test: Test images.
        predefined: Indices of the labelled training images; None for all with a target.
    """
    return Source(
        name=name,
        classes=classes,
        size=image_size or _guess_size(train.paths),
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
    folder: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], list[str], Tensor]:
    """List a folder of class folders.

    Args:
        folder: The folder; its subfolders are the classes.
        classes: The class names that must be there, in the order of their numbers; None for the
            sorted subfolders.

    Returns:
        Class names, paths (class after class, sorted) and targets.

    Raises:
        FileNotFoundError: If there is no class, or a class has no images.
        ValueError: If images lie beside the class folders, or the classes are not the given ones.
    """
    found, files = _scan(folder)
    if files:
        raise ValueError(
            f"'{folder}' must hold one folder per class, but images lie in it: "
            f"{name_some(os.path.basename(file) for file in files)}."
        )
    found_names = [os.path.basename(path) for path in found]
    if not found:
        raise FileNotFoundError(f"'{folder}' must hold one folder per class, but has none.")
    names = tuple(found_names if classes is None else classes)
    check_classes(found_names, names, f"the folders of '{folder}'")
    paths: list[str] = []
    counts = []
    for name in names:
        before = len(paths)
        paths.extend(walk_images(os.path.join(folder, name)))
        counts.append(len(paths) - before)
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise FileNotFoundError(
            f"A class folder under '{folder}' has no images ({', '.join(_SUFFIXES)}): "
            f"{name_some(empty)}."
        )
    return names, paths, torch.arange(len(names)).repeat_interleave(torch.tensor(counts))


def check_classes(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Check that two lists of class names hold the same names.

    Args:
        found: Class names that were found.
        expected: Class names that had to be there.
        where: Where they were found, for the message.

    Raises:
        ValueError: If a name is twice in ``expected``, or the lists differ; it names who differs.
    """
    if len(set(expected)) != len(expected):
        twice = sorted({name for name in expected if list(expected).count(name) > 1})
        raise ValueError(f"`classes` (--data.classes) names a class twice: {name_some(twice)}.")
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    if missing or extra:
        raise ValueError(
            f"The classes of {where} differ from the expected {len(expected)}: "
            f"missing: {name_some(sorted(missing)) or 'none'}; "
            f"unknown: {name_some(sorted(extra)) or 'none'}."
        )


def walk_images(folder: str) -> Iterator[str]:
    """Find the images of a folder at any depth: its own, sorted, then those of its subfolders.

    Hidden files and folders, and files that are no images by their extension, are left out.

    Args:
        folder: The folder.
    """
    folders, files = _scan(folder)
    yield from chain(files, *map(walk_images, folders))


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


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """List subfolders and image files, each sorted by name (by code point: alike everywhere)."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # The extension first: asking whether a link is a folder costs a system call.
            if entry.name.lower().endswith(_SUFFIXES) and not entry.is_dir():
                files.append(entry.path)
            elif entry.is_dir():
                folders.append(entry.path)
    return sorted(folders), sorted(files)


def _list_part(root: str, part: str, classes: tuple[str, ...], channels: int) -> FileImages:
    _, paths, targets = list_classes(os.path.join(root, part), classes)
    return FileImages(paths, targets, channels)


def _guess_size(paths: Sequence[str]) -> int:
    for path in paths[:_PEEK]:
        try:
            short = min(header_size(path))
        except BrokenImageError:
            continue
        return short if short <= SMALL else 224
    raise BrokenImageError(
        paths[0],
        f"nor any of the first {len(paths[:_PEEK])} training images, so the image size is unknown; "
        "give it as `image_size` (--data.image_size)",
    )
