"""Geometric operations on a batch, with one parameter per image.

Images ``(N, C, H, W)``, floats in [0, 1]; parameters ``(N,)`` on the CPU or, but for quarter turns
and flips, on the images' device. Rotation, shear and translation sample the nearest pixel, as PIL's
``Image.transform`` and torchvision do unless told otherwise, and fill with black, as PIL, TorchSSL
and USB do; google-research/fixmatch, whose images are transparent there, has grey.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.augment.base import apply_slots, move


def affine(images: Tensor, matrix: Tensor, fill: float = 0.0) -> Tensor:
    """Resample with one affine map per image, nearest pixel.

    Args:
        images: Images ``(N, C, H, W)``.
        matrix: ``(N, 2, 3)``, from output to input coordinates ``(x, y, 1)``, in pixels from the
            image's centre (torchvision's inverse matrix).
        fill: Value of pixels from outside the image.
    """
    height, width = images.shape[-2:]
    # grid_sample counts in units of half a side; dividing after the map is torchvision's order.
    theta = matrix / move(torch.tensor([[width / 2], [height / 2]]), matrix)
    a, b, c = move(theta, images)[..., None, None].unbind(2)  # each (N, 2, 1, 1): for x and for y
    x = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    y = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    # Coordinates lie as two planes (N, 2, H, W), which are quicker to make than pairs.
    grid = (a * x + (b * y[:, None] + c)).permute(0, 2, 3, 1)
    source = images - fill if fill else images
    out = functional.grid_sample(source, grid, "nearest", "zeros", align_corners=False)
    return out.add_(fill) if fill else out


def rotate_matrix(degrees: Tensor, height: int, width: int) -> Tensor:
    """Matrix for :func:`affine`: rotation about the centre, counter-clockwise in degrees."""
    angle = degrees.double().deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)


def shear_x_matrix(level: Tensor, height: int, width: int) -> Tensor:
    """Matrix for :func:`affine`: input x = x + level * y, about the top left corner as in PIL."""
    level = level.double()
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return torch.stack([one, level, level * height / 2, zero, one, zero], 1).view(-1, 2, 3)


def shear_y_matrix(level: Tensor, height: int, width: int) -> Tensor:
    """Matrix for :func:`affine`: input y = y + level * x, about the top left corner as in PIL."""
    level = level.double()
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return torch.stack([one, zero, zero, level, one, level * width / 2], 1).view(-1, 2, 3)


def translate_x_matrix(fraction: Tensor, height: int, width: int) -> Tensor:
    """Matrix for :func:`affine`: to the right by a fraction of the width."""
    fraction = fraction.double()
    one, zero = torch.ones_like(fraction), torch.zeros_like(fraction)
    return torch.stack([one, zero, -fraction * width, zero, one, zero], 1).view(-1, 2, 3)


def translate_y_matrix(fraction: Tensor, height: int, width: int) -> Tensor:
    """Matrix for :func:`affine`: downwards by a fraction of the height."""
    fraction = fraction.double()
    one, zero = torch.ones_like(fraction), torch.zeros_like(fraction)
    return torch.stack([one, zero, zero, zero, one, -fraction * height], 1).view(-1, 2, 3)


def rotate(images: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Rotate about the centre, counter-clockwise in degrees."""
    return affine(images, rotate_matrix(degrees, *images.shape[-2:]), fill)


def shear_x(images: Tensor, level: Tensor, fill: float = 0.0) -> Tensor:
    """Shift each row by ``level`` times its distance from the top (radians for small levels)."""
    return affine(images, shear_x_matrix(level, *images.shape[-2:]), fill)


def shear_y(images: Tensor, level: Tensor, fill: float = 0.0) -> Tensor:
    """Shift each column by ``level`` times its distance from the left."""
    return affine(images, shear_y_matrix(level, *images.shape[-2:]), fill)


def translate_x(images: Tensor, fraction: Tensor, fill: float = 0.0) -> Tensor:
    """Move to the right by a fraction of the width."""
    return affine(images, translate_x_matrix(fraction, *images.shape[-2:]), fill)


def translate_y(images: Tensor, fraction: Tensor, fill: float = 0.0) -> Tensor:
    """Move downwards by a fraction of the height."""
    return affine(images, translate_y_matrix(fraction, *images.shape[-2:]), fill)


def cutout(
    images: Tensor, side: Tensor, centre: Tensor, fill: float | Sequence[float] = 0.5
) -> Tensor:
    """Paint a square, clipped at the border; see also :func:`cutout_`.

    Args:
        images: Images ``(N, C, H, W)``.
        side: Side of the square in pixels, int64 ``(N,)``; 0 paints nothing.
        centre: Row and column of the centre, int64 ``(N, 2)``; the square starts ``side // 2``
            before it.
        fill: Its value, or one for each channel; the default is the grey of FixMatch.
    """
    return cutout_(images.clone(), side, centre, fill)


def cutout_(
    images: Tensor, side: Tensor, centre: Tensor, fill: float | Sequence[float] = 0.5
) -> Tensor:
    """Do what :func:`cutout` does in place."""
    return paint_(images, centre - (side // 2)[:, None], side[:, None].expand(-1, 2), fill)


def paint_(images: Tensor, first: Tensor, length: Tensor, fill: float | Sequence[float]) -> Tensor:
    """Paint a rectangle in place, clipped at the border.

    Args:
        images: Images ``(N, C, H, W)``.
        first: Its first row and column, int64 ``(N, 2)``.
        length: How many rows and columns it has, int64 ``(N, 2)``.
        fill: Its value, or one for each channel.
    """
    sides = zip(first.unbind(1), length.unbind(1), images.shape[-2:], strict=True)
    rows, columns = (move(_interval(start, count, side), images) for start, count, side in sides)
    paint = rows[:, None, :, None] * columns[:, None, None, :]
    colour = move(torch.tensor(fill).view(-1, 1, 1), images)
    return images.mul_(1 - paint).addcmul_(paint, colour)


def _interval(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Indicator ``(N, size)`` of ``[first, first + length)``, float."""
    position = torch.arange(size, device=first.device) - first[:, None]
    return ((position >= 0) & (position < length[:, None])).float()


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Turn by ``turns`` times 90 degrees counter-clockwise: ``torch.rot90`` of each image.

    Args:
        images: Square images ``(N, C, S, S)``, float or uint8.
        turns: Int64 ``(N,)`` in {0, 1, 2, 3}, on the CPU.

    Raises:
        ValueError: If the images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"`images` must be square, got {tuple(images.shape[-2:])}.")
    functions = [None, *(lambda x, rows, slot, k=k: torch.rot90(x, k, (2, 3)) for k in (1, 2, 3))]
    return apply_slots(images, turns[:, None], functions)


def horizontal_flip_(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror, in place, the images whose row of ``flip``, bool ``(N,)`` on the CPU, is True."""
    rows = move(flip.nonzero().flatten(), images)  # found on the host
    return images.index_copy_(0, rows, images.index_select(0, rows).flip(3))
