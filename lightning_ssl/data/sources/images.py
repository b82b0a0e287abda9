"""Lists of images by integer index: in RAM, or in files that are decoded when asked for."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.data.sources.decoding import (
    SMALL,
    BrokenImageError,
    Interpolation,
    center_box,
    convert_mode,
    header_size,
    open_image,
    resize_center,
    to_array,
    to_tensor,
    turn_upright,
)
from lightning_ssl.data.sources.packed import PackedStrings
from lightning_ssl.files import printable

__all__ = [
    "BrokenImageError",
    "FileImages",
    "Images",
    "ResidentImages",
    "center_box",
    "resize_center",
    "to_tensor",
]

_CHUNK = 64  # images one task of the thread pool decodes; a task costs about as much as one image


class Images(ABC):
    """Images by integer index."""

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """Classes ``(N,)``, int64, -1 where no label is known."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the images; never reads them."""

    def seen(self, crop_pct: float | None, interpolation: Interpolation) -> "Images":
        """The same images, as evaluation shall see them; those in RAM are seen whole.

        Args:
            crop_pct: Share of the short side of a photo, see :class:`FileImages`.
            interpolation: How it is resized.
        """
        return self

    def name(self, index: int) -> str:
        """Name an image for messages and result files: its path, or its index as text.

        Args:
            index: Which image.
        """
        return str(index)

    def name_below(self, folder: str, index: int) -> str:
        """Name an image for files that lie elsewhere: its path below a folder, or its name.

        Args:
            folder: The folder.
            index: Which image.
        """
        return self.name(index)


class ResidentImages(Images):
    """Images of one size in RAM.

    Args:
        pixels: Images ``(N, C, H, W)``, uint8.
        targets: Classes ``(N,)``, int64, -1 where no label is known.
        names: What to call the images; None for their indices.
    """

    def __init__(self, pixels: Tensor, targets: Tensor, names: Sequence[str] | None = None) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(
                f"`pixels` must be uint8 of shape (N, C, H, W), got {pixels.dtype} of shape "
                f"{tuple(pixels.shape)}."
            )
        if targets.shape != (len(pixels),):
            raise ValueError(
                f"`targets` must have one entry per image, shape ({len(pixels)},), got "
                f"{tuple(targets.shape)}."
            )
        self._data: tuple[Tensor, Tensor] | None = (pixels, targets.to(torch.int64))
        self._length = len(pixels)
        self._names = names

    @classmethod
    def deferred(cls, length: int, read: Callable[[], tuple[Tensor, Tensor]]) -> "ResidentImages":
        """Make images that are read when first looked at.

        Args:
            length: How many images there are, known beforehand.
            read: Returns pixels and targets.
        """
        images = cls.__new__(cls)
        images._data, images._length, images._names = None, length, None
        images._read = read
        return images

    _read: Callable[[], tuple[Tensor, Tensor]]

    def _load(self) -> tuple[Tensor, Tensor]:
        if self._data is None:
            pixels, targets = self._read()
            if len(pixels) != self._length:
                raise ValueError(
                    f"The files hold {len(pixels)} images, but this data set has {self._length}."
                )
            self._data = (pixels, targets.to(torch.int64))
        return self._data

    @property
    def pixels(self) -> Tensor:
        """Images ``(N, C, H, W)``, uint8."""
        return self._load()[0]

    @property
    def targets(self) -> Tensor:
        """Classes ``(N,)``, int64, -1 where no label is known."""
        return self._load()[1]

    def __len__(self) -> int:
        """Count the images."""
        return self._length

    def name(self, index: int) -> str:
        """Name an image: as its file was, or by its index.

        Args:
            index: Which image.
        """
        return str(index) if self._names is None else printable(self._names[index])


class FileImages(Images):
    """Images in files, decoded when asked for.

    Args:
        paths: The files.
        targets: Classes ``(N,)``, int64, -1 where no label is known.
        channels: 3 for RGB (gray is repeated), 1 for gray (colour is converted).
        exif_orientation: Whether photos are turned as their EXIF data say.
        crop_pct: Share of the short side that evaluation sees, in (0, 1]; None for all of it up to
            64 pixels, 224 / 256 above.
        interpolation: How evaluation resizes: ``bilinear`` or ``bicubic``.
    """

    def __init__(
        self,
        paths: Iterable[str],
        targets: Tensor,
        channels: int = 3,
        exif_orientation: bool = False,
        crop_pct: float | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.paths: Sequence[str] = PackedStrings(paths)
        self.channels = channels
        self.exif_orientation = exif_orientation
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self._targets = targets.to(torch.int64)
        if targets.shape != (len(self.paths),):
            raise ValueError(
                f"`targets` must have one entry per file, shape ({len(self.paths)},), got "
                f"{tuple(targets.shape)}."
            )

    @property
    def targets(self) -> Tensor:
        """Classes ``(N,)``, int64, -1 where no label is known."""
        return self._targets

    def __len__(self) -> int:
        """Count the files."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Give a file's path as text.

        Args:
            index: Which image.
        """
        return printable(self.paths[index])

    def name_below(self, folder: str, index: int) -> str:
        """Give a file's path below a folder, see :meth:`Images.name_below`."""
        prefix = printable(os.path.join(folder, ""))
        return self.name(index).removeprefix(prefix).replace(os.sep, "/")

    def decode(self, index: int, least_side: int | None = None) -> Image.Image:
        """Read one image at its own size.

        Args:
            index: Which image.
            least_side: Sides in pixels that are enough, as a JPEG is read faster at a half, a
                quarter or an eighth; None for its own.

        Returns:
            The image in mode ``"RGB"`` for 3 channels, ``"L"`` for 1.

        Raises:
            BrokenImageError: If the file is missing, truncated or no image.
        """
        path = self.paths[index]
        try:
            with open_image(path) as image:
                if least_side is not None:
                    image.draft(None, (least_side, least_side))
                return self.convert(image)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes decoders raise almost anything
            raise BrokenImageError(path, f"{type(error).__name__}: {error}") from error

    def convert(self, image: Image.Image) -> Image.Image:
        """Bring an open image upright, if asked for, and to the number of channels.

        Args:
            image: The image.
        """
        upright = turn_upright(image) if self.exif_orientation else image
        return convert_mode(upright, self.channels)

    def seen(self, crop_pct: float | None, interpolation: Interpolation) -> "FileImages":
        """The same images, as evaluation shall see them; see :meth:`Images.seen`."""
        images = copy(self)
        images.crop_pct, images.interpolation = crop_pct, interpolation
        return images

    def center(self, photo: Image.Image, size: int) -> Image.Image:
        """Cut and resize a decoded image as evaluation sees it.

        Args:
            photo: The image.
            size: Side of the result.
        """
        return resize_center(photo, size, self.crop_pct, self.interpolation)

    def load(
        self, size: int, num_threads: int | None = None, replace_ok: Tensor | None = None
    ) -> ResidentImages:
        """Read all images into RAM, cut and resized as evaluation does it.

        Args:
            size: Side of the images in RAM.
            num_threads: Decoding threads; None for the number of processors, or for one where the
                first image is tiny: those spend their time in Python, where threads only wait for
                each other.
            replace_ok: Mask ``(N,)`` of the images that, when broken, are replaced by the next
                readable one of the mask (the unlabelled ones, so that no labelled or validation
                image stands in); their target becomes -1. None for no image.

        Returns:
            The images, named by their files.

        Raises:
            BrokenImageError: If an image is broken that may not be replaced, or all are.
        """
        pixels = torch.empty((len(self), self.channels, size, size), dtype=torch.uint8)
        broken = self._decode_all(pixels.numpy(), num_threads, replace_ok)
        targets = self.targets
        if broken:
            targets = targets.clone()
            assert replace_ok is not None
            self._replace(pixels, targets, broken, replace_ok)
        return ResidentImages(pixels, targets, self.paths)

    def _decode_all(
        self, out: npt.NDArray[np.uint8], num_threads: int | None, replace_ok: Tensor | None
    ) -> list[int]:
        def fill(start: int) -> list[int]:
            broken = []
            for index in range(start, min(start + _CHUNK, len(self))):
                try:
                    out[index] = to_array(self.center(self.decode(index), out.shape[-1]))
                except BrokenImageError:
                    if replace_ok is None or not replace_ok[index]:
                        raise
                    broken.append(index)
            return broken

        pool = ThreadPoolExecutor(num_threads or (1 if self._is_tiny() else os.cpu_count()))
        try:
            return [i for part in pool.map(fill, range(0, len(self), _CHUNK)) for i in part]
        finally:
            pool.shutdown(cancel_futures=True)

    def _is_tiny(self) -> bool:
        try:
            return len(self) > 0 and max(header_size(self.paths[0])) <= 2 * SMALL
        except BrokenImageError:
            return False

    def _replace(
        self, pixels: Tensor, targets: Tensor, broken: list[int], replace_ok: Tensor
    ) -> None:
        readable = replace_ok.clone()
        readable[broken] = False
        good = torch.nonzero(readable).flatten()
        if len(good) == 0:
            count = len(broken)
            raise BrokenImageError(self.paths[broken[0]], f"so are all {count} images of its list")
        rows = torch.tensor(broken)
        pixels[rows] = pixels[good[torch.searchsorted(good, rows) % len(good)]]
        targets[rows] = -1
        rank_zero_warn(
            f"{len(broken)} of {len(self)} images could not be read and were replaced by their "
            f"neighbours in the list (they are unlabelled). The first: "
            f"{', '.join(self.name(i) for i in broken[:5])}."
        )
