"""Data sets by name."""

import difflib
import os
from collections.abc import Sequence

from lightning_ssl.data.sources import torchvision
from lightning_ssl.data.sources.base import Source, check_form
from lightning_ssl.data.sources.csv import open_csv
from lightning_ssl.data.sources.digits import open_digits
from lightning_ssl.data.sources.folder import (
    IMAGENET_LAYOUT,
    LAYOUT,
    layout_error,
    open_folder,
    open_imagenet,
)

DATASETS = ("digits", *torchvision.NAMES, "imagenet", "folder", "csv")
_OWN_FILES = ("imagenet", "folder", "csv")


def open_source(
    dataset: str,
    root: str | os.PathLike[str] | None = None,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    extra: bool = False,
    fold: int | None = None,
    exif_orientation: bool | None = None,
) -> Source:
    """Open a data set: list its files, read no pixels, download nothing.

    Args:
        dataset: One of :data:`DATASETS`.
        root: The folder that holds it (for ``csv``, the CSV file); ``digits`` needs none.
        in_channels: 3 (gray is repeated) or 1 (colour becomes gray).
        image_size: Side of the images; None for the data set's own. For ``folder`` and ``csv``
            that is the usual short side of the training images up to 64, else 224.
        classes: For ``folder``, ``csv`` and ``imagenet``: class names in the order that gives
            their numbers; None for sorted.
        extra: For ``svhn``: whether its extra images belong to the training set.
        fold: For ``stl10``: which of the ten predefined folds is labelled; None for all of them.
        exif_orientation: Whether photos in files are turned as their EXIF data say; None for yes,
            but for ``imagenet``, which published results read without.

    Raises:
        FileNotFoundError: If the folder or file is missing or not laid out as the data set needs.
        ValueError: If an argument is unknown, out of range or belongs to another data set.
    """
    _check_arguments(dataset, root, in_channels, image_size)
    _check_options(dataset, classes, extra, fold)
    path = "" if root is None else os.path.expanduser(root)
    if dataset == "digits":
        return open_digits(in_channels, image_size)
    if dataset in torchvision.NAMES:
        return torchvision.open_torchvision(
            dataset, path, in_channels=in_channels, image_size=image_size, extra=extra, fold=fold
        )
    opener = {"imagenet": open_imagenet, "folder": open_folder, "csv": open_csv}[dataset]
    return opener(
        path,
        in_channels=in_channels,
        image_size=image_size,
        classes=classes,
        exif_orientation=follows_exif(dataset) if exif_orientation is None else exif_orientation,
    )


def follows_exif(dataset: str) -> bool:
    """Whether photos are turned as their EXIF data say, where nobody chooses.

    Args:
        dataset: The data set's name.
    """
    return dataset != "imagenet"


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
    check_form(in_channels, image_size)
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


def base_folder(dataset: str, root: str | None) -> str:
    """The folder below which files are named: that of the data, of a CSV the one that it lies in.

    Args:
        dataset: Name of the data set.
        root: Where it is.
    """
    folder = os.path.expanduser(root or "")
    return os.path.dirname(os.path.abspath(folder)) if dataset == "csv" else folder
