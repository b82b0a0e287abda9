"""Colour operations on a batch, with one parameter per image.

Every function takes float images in [0, 1], ``(N, C, H, W)`` with C 1 or 3, and parameters ``(N,)``
on the CPU, and equals ``torchvision.transforms.v2.functional`` on each image alone. Images of one
channel have no colour: `color`, `hue` and `grayscale` return them unchanged.
"""

import torch
from torch import Tensor

from lightning_ssl.augment.base import per_image

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's ITU-R 601 weights; they sum to 0.9999


def blend(images: Tensor, other: Tensor, ratio: Tensor) -> Tensor:
    """Interpolate: ``ratio * images + (1 - ratio) * other``, clamped to [0, 1].

    Args:
        images: Images ``(N, C, H, W)``.
        other: What stands for ratio 0, broadcastable to ``images``.
        ratio: Weight of ``images``, ``(N,)`` on the CPU; above 1 extrapolates.
    """
    out = images * per_image(ratio, images)
    return out.add_(other * per_image(1 - ratio, images)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale by a factor >= 0 and clamp; 1 keeps the image, 0 is black."""
    return (images * per_image(factor, images)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of the image; factor >= 0, 1 keeps the image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return blend(images, _luma(mean) if images.shape[1] == 3 else mean, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image (saturation); factor >= 0, 1 keeps the image, 0 is grey."""
    return images if images.shape[1] == 1 else blend(images, _luma(images), factor)


def grayscale(images: Tensor) -> Tensor:
    """Replace the three channels by their luma."""
    return images if images.shape[1] == 1 else _luma(images).expand_as(images).contiguous()


def hue(images: Tensor, shift: Tensor) -> Tensor:
    r"""Rotate the hue in HSV space.

    With :math:`v = \max`, chroma :math:`c = \max - \min` and hue :math:`h \in [-1, 5)` in sixths of
    the circle, the rotated channels are :math:`v - c + c\,w(h)` with a
    piecewise linear weight in [0, 1] for each. This is HSV exactly, without the round trip through
    saturation and a table of six cases.

    Args:
        images: Images ``(N, C, H, W)``.
        shift: Rotation as a fraction of the circle, in [-0.5, 0.5], ``(N,)`` on the CPU.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    # Comparisons and selections that go through bool tensors are 20 times slower on a CPU than
    # arithmetic, as is aminmax over channels.
    high = torch.maximum(red, green).maximum(blue)
    low = torch.minimum(red, green).minimum(blue)
    chroma = high - low
    angle = _hue_angle(red, green, blue, high, chroma)
    angle.add_(per_image(shift.remainder(1) * 6, images)[:, 0])  # in [-1, 11)
    angle.sub_(angle.clone().ge_(5), alpha=6)  # in [-1, 5)
    # Of the hues at a distance of at most 3 on the circle, red is 0, green 2, blue 4; measured from
    # the opposite hue (3) for red and (1) for blue, no distance has to be wrapped around.
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    low.sub_(chroma)
    high.add_(chroma)
    for channel, (base, centre, sign) in enumerate(((low, 3, 1), (high, 2, -1), (low, 1, 1))):
        weight = angle.sub(centre).abs_().clamp_(1, 2)
        torch.addcmul(base, chroma, weight, value=sign, out=out[:, channel])
    return out.clamp_(0, 1)


def _hue_angle(red: Tensor, green: Tensor, blue: Tensor, high: Tensor, chroma: Tensor) -> Tensor:
    """Hue in sixths of the circle, in [-1, 5]; 0 where there is no colour."""
    is_red, is_green = high.clone().eq_(red), high.clone().eq_(green)
    numerator = torch.lerp(red - green, blue - red, is_green).lerp_(green - blue, is_red)
    start = is_green.mul_(-2).add_(4)  # 4 where blue is largest, 2 where green is
    start.addcmul_(start, is_red, value=-1)  # 0 where red is
    # 1e-20 only keeps 0/0 away.
    return start.addcmul_(numerator, chroma.clamp(min=1e-20).reciprocal_())


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unsqueeze(2).unbind(1)
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
