"""From an image file to pixels: opening, turning, channels, the part that evaluation sees, tensors.

Phones store a photo as the sensor saw it and note in its EXIF data which side is up. Whether that
note is followed is a choice of the data (``exif_orientation``), not of a file.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

SMALL = 64  # sides up to this are evaluated whole; larger ones as ImageNet: 256/224, centre crop

HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")

_MAX_WIDE = 65535  # of a 16-bit pixel

# Value of the EXIF orientation to what brings the image upright, as `ImageOps.exif_transpose` has
# it. That also rewrites the EXIF data, where files with damaged ones make it fail.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(ValueError):
    """An image file that cannot be decoded.

    It survives a DataLoader's worker, which rebuilds an exception from its message alone.

    Args:
        path: The file, or the whole message where ``reason`` is None.
        reason: What the decoder said.

    Attributes:
        path: The file.
    """

    _message = re.compile(r"Cannot read the image '(.*)':")

    def __init__(self, path: str, reason: str | None = None) -> None:
        message = path if reason is None else f"Cannot read the image '{path}': {reason}"
        super().__init__(message)
        found = self._message.search(message)
        self.path = found.group(1) if found else path


@cache
def heif_is_installed() -> bool:
    """Whether HEIC files can be read, by the extra ``heic``."""
    return find_spec("pillow_heif") is not None


@cache
def _register_heif() -> None:
    import pillow_heif  # an extra: most data sets do without

    pillow_heif.register_heif_opener()


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """Open an image file without decoding it.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no regular file, or a HEIC without the extra that reads them.
    """
    if path.lower().endswith(HEIF_SUFFIXES):
        if not heif_is_installed():
            raise ValueError("HEIC needs pillow-heif: pip install 'lightning_ssl[heic]'")
        _register_heif()
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        with Image.open(file) as image:
            yield image


def _open_at_once(path: str, flags: int) -> int:
    # A pipe would let us wait for ever for its other end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say; as it is where they say nothing, or are damaged.

    Args:
        image: An open image.
    """
    image.load()  # errors of the pixels come from here, and Pillow turns TIFFs by itself
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged data make the reader raise almost anything
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def is_wide(image: Image.Image) -> bool:
    """Whether an open image has 16 bits a pixel, of which 8 are kept.

    Args:
        image: The image, not decoded yet.
    """
    return image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))


def convert_mode(image: Image.Image, channels: int) -> Image.Image:
    """Decode an image and bring it to 8-bit RGB or gray. Transparency is dropped.

    Args:
        image: An open image of any mode.
        channels: 3 or 1.

    Raises:
        ValueError: If the pixels are floating-point numbers or integers beyond 16 bits, whose range
            no file states.
    """
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16 bits; Pillow alone would clip them at 255
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > _MAX_WIDE:
            raise ValueError(f"its pixels go from {wide.min()} to {wide.max()}, beyond 16 bits")
        image = Image.fromarray(np.rint(wide.astype(np.float32) / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def check_center(
    crop_pct: float | None, interpolation: Interpolation | None
) -> tuple[float | None, Interpolation]:
    """Check how evaluation shall see photos.

    Args:
        crop_pct: Share of the short side.
        interpolation: How it is resized; None for ``bilinear``.

    Raises:
        ValueError: If one is out of range.
    """
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ValueError(f"`data.crop_pct` must be in (0, 1] or null, got {crop_pct}.")
    if interpolation not in (None, *_FILTERS):
        raise ValueError(
            f"`data.interpolation` must be null or one of {tuple(_FILTERS)}, got '{interpolation}'."
        )
    return crop_pct, interpolation or "bilinear"


def short_side(size: int, crop_pct: float | None) -> int:
    """Short side of an image in pixels before evaluation cuts its centre, see :func:`center_box`.

    Args:
        size: Side of the result.
        crop_pct: Share of the short side that is seen.
    """
    if crop_pct is None:
        return size if size <= SMALL else round(size * 256 / 224)
    return int(size / crop_pct + 1e-6)


def center_box(
    width: int, height: int, size: int, crop_pct: float | None = None
) -> tuple[float, float, float, float]:
    """Find the square of an image that evaluation looks at.

    It is what remains when the short side becomes ``size / crop_pct`` and the centre is cut. The
    long side is cut down to whole pixels and the offset rounded, as by torchvision's ``Resize`` and
    ``CenterCrop``; a given ``crop_pct`` also rounds the short side down, as timm does.

    Args:
        width: Image width.
        height: Image height.
        size: Side of the result.
        crop_pct: Share of the short side that is seen, in (0, 1]; None for all of it up to 64
            pixels, 224 / 256 above.

    Returns:
        Left, top, right and bottom in pixels of the image, for ``Image.resize(..., box=...)``.

    Example:
        >>> center_box(48, 32, 32)
        (8.0, 0.0, 40.0, 32.0)
        >>> center_box(512, 256, 224)
        (144.0, 16.0, 368.0, 240.0)
    """
    short = short_side(size, crop_pct)
    resized = [int(short * side / min(width, height)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in resized)
    x, y = width / resized[0], height / resized[1]  # pixels of the image in one of the resized one
    return left * x, top * y, min((left + size) * x, width), min((top + size) * y, height)


def resize_center(
    image: Image.Image,
    size: int,
    crop_pct: float | None = None,
    interpolation: Interpolation = "bilinear",
) -> Image.Image:
    """Cut and resize an image as evaluation sees it.

    Args:
        image: The image.
        size: Side of the result.
        crop_pct: See :func:`center_box`.
        interpolation: How it is resized.
    """
    whole = crop_pct == 1 or (crop_pct is None and size <= SMALL)
    if whole and image.size == (size, size):
        return image
    # Pillow's filters widen when shrinking, so this is antialiased. The gap lets it first shrink
    # large photos by whole factors, which is faster and differs by less than one grey level.
    return image.resize(
        (size, size),
        _FILTERS[interpolation],
        box=center_box(*image.size, size, crop_pct),
        reducing_gap=3.0,
    )


def to_tensor(image: Image.Image) -> Tensor:
    """Turn a gray or RGB image into a uint8 tensor ``(C, H, W)``.

    Args:
        image: An image of mode ``"L"`` or ``"RGB"``.
    """
    return torch.from_numpy(np.array(to_array(image)))  # a copy: Pillow's memory is read-only


def to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """View a gray or RGB image as an array ``(C, H, W)``.

    Args:
        image: An image of mode ``"L"`` or ``"RGB"``.
    """
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def header_size(path: str) -> tuple[int, int]:
    """Read an image's width and height from its header.

    Args:
        path: The file.

    Raises:
        BrokenImageError: If the file is missing or no image.
    """
    try:
        with open_image(path) as image:
            size: tuple[int, int] = image.size
            return size
    except Exception as error:  # a damaged file makes decoders raise almost anything
        raise BrokenImageError(path, f"{type(error).__name__}: {error}") from error
