"""Resampling of one box per image as two matrix products, exact for every filter of PIL."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.augment.base import in_chunks, move, to_float


def _triangle(x: Tensor) -> Tensor:
    return x.abs_().neg_().add_(1).clamp_(min=0)


def _box(x: Tensor) -> Tensor:
    return ((x >= -0.5) & (x < 0.5)).to(x.dtype)  # PIL looks from the pixel to the centre


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = ((1.5 * x - 2.5) * x) * x + 1  # a = -0.5, as in PIL
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _hamming(x: Tensor) -> Tensor:
    window = 0.54 + 0.46 * torch.cos(math.pi * x)
    return torch.where(x.abs() < 1, torch.sinc(x) * window, 0)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0)


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": _triangle,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
    "box": _box,
    "hamming": _hamming,
}
METHODS = ("lanczos", "bicubic", "bilinear", "box", "hamming", "nearest")
"""What CTAugment's rescale chooses from, in the order of the reference code."""


_MATMUL_SIDE = 64
"""Above this side the products, whose cost per pixel grows with the side, lose to sampling."""


def weights(start: Tensor, length: Tensor, source: int, size: int, method: str) -> Tensor:
    """Build the matrices that resample an interval of each image's rows or columns.

    Args:
        start: First source pixel of the interval, float ``(N,)``, on the images' device.
        length: Its length in pixels, float ``(N,)``.
        source: Number of source pixels.
        size: Number of output pixels.
        method: One of :data:`METHODS`. Where the interval is longer than the output, the filter is
            widened (antialias), as in PIL and torchvision.

    Returns:
        Matrices ``(N, size, source)`` whose rows sum to 1 and are 0 outside the interval.
    """
    device, dtype = start.device, start.dtype
    # Centres of the source pixels from the start of the interval, (N, source).
    pixel = torch.arange(source, device=device, dtype=dtype) + 0.5 - start[:, None]
    scale = (length / size)[:, None]
    centre = (torch.arange(size, device=device, dtype=dtype) + 0.5) * scale  # (N, size)
    inside = ((pixel > 0) & (pixel < length[:, None])).to(dtype)[:, None]
    if method == "nearest":
        table = (centre.floor()[:, :, None] + 0.5 == pixel[:, None]).to(dtype)
    else:
        widen = scale.clamp(min=1)
        table = FILTERS[method]((centre / widen)[:, :, None] - (pixel / widen)[:, None])
    table = table.mul_(inside)
    total: Tensor = table.sum(2, keepdim=True)
    return table.mul_(total.reciprocal_())


def resized_crop(
    images: Tensor, box: Tensor, size: tuple[int, int], method: str = "bilinear"
) -> Tensor:
    """Crop one box per image and resize it: torchvision's ``resized_crop`` with antialias.

    Pixels outside the box have no influence, as after a real crop.

    Args:
        images: Images ``(N, C, H, W)``, float or uint8.
        box: Top, left, height, width in pixels, int64 ``(N, 4)``, on the CPU.
        size: Height and width of the result.
        method: One of :data:`METHODS`.

    Returns:
        Floats in [0, 1], ``(N, C, *size)``.
    """
    if method == "bilinear" and max(size) > _MATMUL_SIDE:
        shrinks = (box[:, 2:] > torch.tensor(size)).any(1)  # on the host
        if not shrinks.any():
            return in_chunks(lambda x, b: _enlarge(x, b, size), images, box)
    return in_chunks(lambda x, b: _resample(x, b, size, method), images, box)


def _resample(images: Tensor, box: Tensor, size: tuple[int, int], method: str) -> Tensor:
    scale = 255 if images.dtype == torch.uint8 else 1
    floats = to_float(images, scale=False).contiguous()
    n, channels, height, width = floats.shape
    top, left, high, wide = move(box.double(), floats).unbind(1)
    rows = weights(top, high, height, size[0], method).div_(scale)
    columns = weights(left, wide, width, size[1], method)
    out = floats.view(n, channels * height, width).bmm(columns.transpose(1, 2))
    out = rows[:, None] @ out.view(n, channels, height, size[1])
    return out.clamp_(0, 1) if method in ("bicubic", "lanczos") else out


def _enlarge(images: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear sampling, which is the same where no box is larger than the result."""
    floats = to_float(images)
    height, width = floats.shape[-2:]
    top, left, high, wide = move(box.double(), floats)[:, :, None].unbind(1)
    y, x = (torch.arange(s, device=floats.device, dtype=floats.dtype) + 0.5 for s in size)
    # Source positions, kept between the centres of the box's outer pixels, as after a real crop.
    y = (y * (high / size[0]) - 0.5).clamp_(min=0).minimum(high - 1) + top
    x = (x * (wide / size[1]) - 0.5).clamp_(min=0).minimum(wide - 1) + left
    across, down = ((2 * x + 1) / width - 1)[:, None], ((2 * y + 1) / height - 1)[:, :, None]
    planes = torch.stack([v.expand(-1, *size) for v in (across, down)], 1)
    grid = planes.permute(0, 2, 3, 1)
    return functional.grid_sample(floats, grid, "bilinear", "border", align_corners=False)


def rescale(images: Tensor, level: Tensor, method: Tensor) -> Tensor:
    """Crop a margin on all sides and resize back (CTAugment, with margins as in FixMatch's code).

    Args:
        images: Float images ``(N, C, H, W)``.
        level: In [0, 1], ``(N,)``, on the CPU or the images' device: the margin is ``level / 4`` of
            the side, rounded to pixels.
        method: Index into :data:`METHODS`, int64 ``(N,)``, likewise.
    """
    level, method = move(level, images), move(method, images)

    def along(side: int) -> Tensor:
        margin = level * 0.25 * side
        first = margin.round()
        length = (side - margin).round() - first
        # All six, as on a device only the device knows which one an image needs.
        tables = torch.stack([weights(first, length, side, side, name) for name in METHODS])
        return tables[method, torch.arange(len(method), device=method.device)]

    rows, columns = (along(side) for side in images.shape[-2:])
    out = images @ columns[:, None].transpose(2, 3)
    return (rows[:, None] @ out).clamp_(0, 1)
