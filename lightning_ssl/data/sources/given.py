"""Images that are to be predicted: files by their names, or pixels that are in Python."""

import csv
import io
import os
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lightning_ssl.data.sources.base import describe_folder
from lightning_ssl.data.sources.csv import delimiter
from lightning_ssl.data.sources.decoding import BrokenImageError
from lightning_ssl.data.sources.folder import images_below
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.data.text import read_text
from lightning_ssl.files import as_name

GivenImage = Union[str, "os.PathLike[str]", Image.Image, npt.NDArray[Any], Tensor]

_LAYOUTS = {2: ("H, W",), 3: ("C, H, W", "H, W, C")}
_CHANNELS = (1, 3, 4)


def images_at(
    root: str, in_channels: int, exif_orientation: bool, argument: str = "data.root"
) -> FileImages:
    """List the images that a path means.

    Args:
        root: An image; a folder, whose images at any depth are meant; or a list of files, relative
            to where it lies: a CSV with a column ``path``, or a text (``.txt``) with a path a line.
        in_channels: 3 or 1.
        exif_orientation: Whether photos are turned as their EXIF data say.
        argument: Name of the argument that gave ``root``, for messages.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no image in it.
        ValueError: If a list is not as described.
    """
    path = os.path.expanduser(root)
    if os.path.isdir(path):
        return images_below(root, in_channels, exif_orientation, argument)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`{argument}` must be an image, a folder of images or a list of them (.csv, .txt), "
            f"got '{root}': {describe_folder(path)}."
        )
    ending = os.path.splitext(path)[1].lower()
    files = _from_csv(path) if ending == ".csv" else _from_text(path) if ending == ".txt" else None
    if files is not None:
        folder = os.path.dirname(path)
        files = [os.path.normpath(os.path.join(folder, as_name(name))) for name in files]
        if not files:
            raise ValueError(f"'{root}' must list images, got none.")
    found = [path] if files is None else files
    return FileImages(found, torch.full((len(found),), -1), in_channels, exif_orientation)


def _from_text(path: str) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _from_csv(path: str) -> list[str]:
    """The column ``path``; a prediction needs no other, and does not mind them."""
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter(text))
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        if columns.count("path") != 1:
            raise ValueError(
                f"'{path}', line 1: it must have one column path, got {','.join(columns)[:200]}."
            )
        place, names = columns.index("path"), []
        for fields in reader:
            if any(field.strip() for field in fields):
                if len(fields) <= place or not fields[place].strip():
                    raise ValueError(
                        f"'{path}', line {reader.line_num}: `path` must be a file, got nothing."
                    )
                names.append(fields[place])
    except csv.Error as error:
        raise ValueError(
            f"'{path}', line {reader.line_num}: it cannot be read as CSV: {error}."
        ) from error
    return names


class GivenImages(FileImages):
    """Images that a program has: their files or their pixels.

    Args:
        given: File names, images of Pillow's, and arrays or tensors ``(H, W)``, ``(H, W, C)`` or
            ``(C, H, W)`` with 1, 3 or 4 channels, uint8 or floats in [0, 1].
        channels: 3 or 1.
        exif_orientation: Whether photos are turned as their EXIF data say.

    Raises:
        TypeError: If one is none of these.
        ValueError: If an array has another type or shape.
    """

    def __init__(
        self, given: Sequence[GivenImage], channels: int = 3, exif_orientation: bool = False
    ) -> None:
        self._given = [_check(image, place) for place, image in enumerate(given)]
        names = [str(i) if n is None else n for i, n in enumerate(map(_name, self._given))]
        super().__init__(names, torch.full((len(names),), -1), channels, exif_orientation)

    def decode(self, index: int, least_side: int | None = None) -> Image.Image:
        """See :meth:`FileImages.decode`."""
        given = self._given[index]
        if _name(given) is not None:
            return super().decode(index, least_side)
        try:
            return self.convert(given if isinstance(given, Image.Image) else _picture(given))
        except (ValueError, OSError) as error:  # of a file that Pillow has not read yet
            raise BrokenImageError(self.name(index), f"{type(error).__name__}: {error}") from error


def _name(image: Any) -> str | None:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None


def _check(image: Any, place: int) -> Any:
    if _name(image) is not None:
        return os.path.expanduser(os.fspath(image))
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(
            f"`images[{place}]` must be the name of a file, an image of Pillow's, an array or a "
            f"tensor, got a {type(image).__name__}."
        )
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    floats = np.issubdtype(array.dtype, np.floating)
    in_range = not floats or (array.size > 0 and array.min() >= 0 and array.max() <= 1)
    if (array.dtype != np.uint8 and not floats) or not in_range:
        found = f"from {array.min()} to {array.max()}" if array.size else "no pixels"
        raise ValueError(
            f"`images[{place}]` must be uint8, or floats in [0, 1], got {array.dtype}, {found}."
        )
    if not array.size or _channels_last(array) is None:
        raise ValueError(
            f"`images[{place}]` must have the shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 "
            f"channels, got {tuple(array.shape)}."
        )
    return array


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3 and array.shape[2] in _CHANNELS:
        return array
    return array.transpose(1, 2, 0) if array.ndim == 3 and array.shape[0] in _CHANNELS else None


def _picture(array: npt.NDArray[Any]) -> Image.Image:
    pixels = _channels_last(array)
    assert pixels is not None
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    return Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    )
