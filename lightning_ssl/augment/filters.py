"""Neighbourhood filters and noise on a batch, with one parameter per image.

Float images in [0, 1], ``(N, C, H, W)``; parameters ``(N,)`` on the CPU or, but for
`gaussian_blur`, on the images' device.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.augment.base import in_chunks, move, per_image
from lightning_ssl.augment.color import blend


def smooth(images: Tensor) -> Tensor:
    """Apply PIL's ``ImageFilter.SMOOTH``: (1 1 1, 1 5 1, 1 1 1) / 13, border pixels kept."""
    if min(images.shape[-2:]) < 3:
        return images
    width = images.shape[3]
    out = images.clone(memory_format=torch.contiguous_format)
    # Sums of neighbours over the flat memory, which runs over rows and images; what that makes
    # wrong are border pixels, which are not used.
    flat = out.view(-1)
    rows = flat[: -2 * width] + flat[width:-width]
    rows += flat[2 * width :]
    total = rows[:-2] + rows[1:-1]
    total += rows[2:]
    total += flat[width + 1 : -width - 1] * 4
    inner = torch.empty_like(out)
    torch.mul(total, 1 / 13, out=inner.view(-1)[width + 1 : -width - 1])
    out[..., 1:-1, 1:-1] = inner[..., 1:-1, 1:-1]
    return out


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image; factor >= 0, 0 is smooth, 1 keeps the image."""
    if min(images.shape[-2:]) < 3:
        return images
    return blend(images, smooth(images), factor)


def pil_blur(images: Tensor) -> Tensor:
    """Apply PIL's ``ImageFilter.BLUR``: the mean of the 16 pixels at distance 2, border kept."""
    if min(images.shape[-2:]) < 5:
        return images
    n, c, h, w = images.shape
    ring = torch.ones(5, 5)
    ring[1:-1, 1:-1] = 0
    inner = functional.conv2d(
        images.reshape(n * c, 1, h, w), move(ring.view(1, 1, 5, 5) / 16, images)
    )
    out = images.clone(memory_format=torch.contiguous_format)
    out[..., 2:-2, 2:-2] = inner.view(n, c, h - 4, w - 4)
    return out


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Blur with torchvision's Gaussian kernel of ``2 * radius + 1`` taps, reflect padding.

    PIL's ``GaussianBlur`` of the same radius approximates this by three box filters.

    Args:
        images: Images ``(N, C, H, W)``.
        sigma: Standard deviation in pixels, ``(N,)``, above 0.
        radius: Taps on either side of the centre, cut to the image's side less 1; 6 is three
            standard deviations of SimCLR's largest sigma, 2.0.
    """

    def blur(part: Tensor, width: Tensor) -> Tensor:
        for dim in (2, 3):
            part = _blur_along(part, width, min(radius, part.shape[dim] - 1), dim)
        return part

    return in_chunks(blur, images, sigma)


def _blur_along(images: Tensor, sigma: Tensor, radius: int, dim: int) -> Tensor:
    distance = torch.arange(radius + 1)
    weight = (-0.5 * (distance / sigma.view(-1, 1)) ** 2).exp()
    weight /= 2 * weight.sum(1, keepdim=True) - 1  # the centre counts once, the others twice
    taps = [per_image(tap, images) for tap in weight.unbind(1)]
    pad = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
    padded = functional.pad(images, pad, mode="reflect")
    side = images.shape[dim]
    out = images * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        pair = padded.narrow(dim, radius - i, side) + padded.narrow(dim, radius + i, side)
        out.add_(pair.mul_(tap))
    return out


def gaussian_noise(images: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Add noise and clamp to [0, 1].

    Args:
        images: Images ``(N, C, H, W)``.
        std: Standard deviation in units of the image, ``(N,)``.
        noise: Standard normal values ``(N, C, H, W)``.
    """
    return (images + move(noise, images) * per_image(std, images)).clamp_(0, 1)
