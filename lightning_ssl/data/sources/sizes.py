"""The side of images that networks see, from the headers of files."""

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.data.sources.decoding import SMALL, BrokenImageError, header_size
from lightning_ssl.data.sources.images import FileImages

_LARGE = 224
_LEAST = 8  # shorter sides are strips, not photos
_LOOKED_AT = 64  # headers of labelled images, and as many of others, spread over the list


def guess_size(images: FileImages) -> int:
    """Find the side of training images: the usual short side where it is at most 64, else 224.

    One file does not decide: headers from all over the list are read, and where they disagree the
    choice is said.

    Args:
        images: The training images.

    Raises:
        BrokenImageError: If none of the headers can be read.
        ValueError: If the usual short side is too small to be an image's.
    """
    sides = sorted(_short_sides(images))
    usual, _ = sides[(len(sides) - 1) // 2]
    size = usual if usual <= SMALL else _LARGE
    (shortest, first), (longest, last) = sides[0], sides[-1]
    span = f"from {shortest} ('{images.name(first)}') to {longest} ('{images.name(last)}') pixels"
    if size < _LEAST:
        raise ValueError(
            "`image_size` (--data.image_size) must be given: short sides of the training images "
            f"are {span}, the usual one {usual}."
        )
    # Photos of many sizes, all above the limit, are what 224 is for.
    if shortest <= SMALL and shortest != longest:
        rank_zero_warn(
            f"Short sides of the training images are {span}. All are brought to {size}; "
            "`image_size` (--data.image_size) chooses another size."
        )
    return size


def _short_sides(images: FileImages) -> list[tuple[int, int]]:
    """Short side and index of some images."""
    known = images.targets >= 0
    sides, broken = [], []
    for part in (known, ~known):
        for index in _spread(part.nonzero().flatten()):
            try:
                sides.append((min(header_size(images.paths[index])), index))
            except BrokenImageError:
                broken.append(index)
    if not sides:
        raise BrokenImageError(
            images.name(broken[0]),
            f"nor any of {len(broken)} training images, so the image size is unknown; give it as "
            "`image_size` (--data.image_size)",
        )
    return sides


def _spread(indices: Tensor) -> list[int]:
    count = min(len(indices), _LOOKED_AT)
    chosen: list[int] = indices[torch.arange(count) * len(indices) // max(1, count)].tolist()
    return chosen
