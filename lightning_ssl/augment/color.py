"""Colour operations on a batch, with one parameter per image.

Every function takes float images in [0, 1], ``(N, C, H, W)`` with C 1 or 3, and parameters ``(N,)``
on the CPU or the images' device, and equals ``torchvision.transforms.v2.functional`` on each image
alone. Images of one channel have no colour: `color`, `hue` and `grayscale` return them unchanged.
`hsv_noise` is not torchvision's.
"""

import torch
from torch import Tensor

from lightning_ssl.augment.base import move, per_image

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
    angle = _turn(_hue_angle(red, green, blue, high, chroma), shift)
    return _from_hue(angle, low, high, chroma).clamp_(0, 1)


def hsv_noise(
    images: Tensor, shift: Tensor, exponent: Tensor, scale: Tensor, offset: Tensor
) -> Tensor:
    r"""Rotate the hue, and bend saturation and value: :math:`c \leftarrow a\,c^p + b`, clamped.

    The colour noise of google-research/s4l in HSV space, exactly. A grey image gets a colour where
    ``offset`` raises its saturation; of images of one channel only the value changes.

    Args:
        images: Images ``(N, C, H, W)``.
        shift: Rotation of the hue as a fraction of the circle, ``(N,)`` on the CPU.
        exponent: :math:`p > 0` of saturation and value, ``(N, 2)`` on the CPU.
        scale: :math:`a` of saturation and value, ``(N, 2)`` on the CPU.
        offset: :math:`b` of saturation and value, ``(N, 2)`` on the CPU.
    """

    def bend(plane: Tensor, i: int) -> Tensor:
        p, a, b = (move(x[:, i], plane)[:, None, None] for x in (exponent, scale, offset))
        return plane.pow(p).mul_(a).add_(b).clamp_(0, 1)

    if images.shape[1] == 1:
        return bend(images[:, 0], 1)[:, None]
    red, green, blue = images.unbind(1)
    high = torch.maximum(red, green).maximum(blue)
    chroma = high - torch.minimum(red, green).minimum(blue)
    angle = _turn(_hue_angle(red, green, blue, high, chroma), shift)
    saturation = bend(chroma.div_(high.clamp(min=1e-20)), 0)
    high = bend(high, 1)
    chroma = saturation.mul_(high)
    return _from_hue(angle, high - chroma, high, chroma).clamp_(0, 1)


def _turn(angle: Tensor, shift: Tensor) -> Tensor:
    """Rotate hues in [-1, 5] by fractions of the circle; in place, back into [-1, 5)."""
    angle.add_(move(shift.remainder(1) * 6, angle)[:, None, None])  # in [-1, 11)
    return angle.sub_(angle.clone().ge_(5), alpha=6)


def _from_hue(angle: Tensor, low: Tensor, high: Tensor, chroma: Tensor) -> Tensor:
    """RGB ``(N, 3, H, W)`` of a hue, smallest and largest channel (destroyed), their difference."""
    # Of the hues at a distance of at most 3 on the circle, red is 0, green 2, blue 4; measured from
    # the opposite hue (3) for red and (1) for blue, no distance has to be wrapped around.
    n, height, width = angle.shape
    out = angle.new_empty(n, 3, height, width)
    low.sub_(chroma)
    high.add_(chroma)
    for channel, (base, centre, sign) in enumerate(((low, 3, 1), (high, 2, -1), (low, 1, 1))):
        weight = angle.sub(centre).abs_().clamp_(1, 2)
        torch.addcmul(base, chroma, weight, value=sign, out=out[:, channel])
    return out


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
