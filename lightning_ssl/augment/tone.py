"""Tone operations on a batch: solarize, posterize, equalize and their kin.

Float images in [0, 1], ``(N, C, H, W)``; parameters ``(N,)`` on the CPU or the images' device. They
equal ``torchvision.transforms.v2.functional`` on float images. `posterize` and `equalize` quantise
by definition; `solarize` compares with a threshold, so that on images of 8 bits any threshold
between two neighbouring levels does the same.
"""

import torch
from torch import Tensor

from lightning_ssl.augment.base import per_image


def invert(images: Tensor) -> Tensor:
    """Return ``1 - images``."""
    return 1 - images


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at or above a threshold.

    Args:
        images: Images ``(N, C, H, W)``.
        threshold: In units of the image, ``(N,)``; above 1 nothing is inverted. An 8-bit threshold
            t is ``t / 255``.
    """
    # x + [x >= t] (1 - 2 x), because selection through a bool tensor is far slower on a CPU.
    above = images.clone().ge_(per_image(threshold, images))
    return torch.addcmul(images, above, torch.rsub(images, 1, alpha=2))


def solarize_add(images: Tensor, addition: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Add to the values below a threshold, clamped to [0, 1] (AutoAugment's SolarizeAdd).

    Args:
        images: Images ``(N, C, H, W)``.
        addition: In units of the image, ``(N,)``.
        threshold: Values below it are changed.
    """
    raised = images.add(per_image(addition, images)).clamp_(0, 1)
    return torch.lerp(images, raised, images.clone().lt_(threshold))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep ``2**bits`` levels: ``floor(images * 2**bits) / 2**bits``.

    The definition quantises. On images of 8 bits the levels are those of PIL times 255/256.

    Args:
        images: Images ``(N, C, H, W)``.
        bits: Number of bits, ``(N,)``, in [0, 8]; fractions are cut off.
    """
    levels = per_image(bits.floor().exp2(), images)
    return images.mul(levels).floor_().clamp_(min=0).minimum(levels - 1).div_(levels)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to [0, 1]; a constant channel is kept."""
    low = images.amin(dim=(2, 3), keepdim=True)
    span = images.amax(dim=(2, 3), keepdim=True) - low
    flat = span == 0
    low, span = low.masked_fill(flat, 0), span.masked_fill(flat, 1)
    return images.sub(low).div_(span).clamp_(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image, by PIL's table of 256 entries.

    The definition works on 8 bits: floats are quantised by torchvision's rule
    ``floor(255.999 * x)`` first.
    """
    level = images.mul(255.999).to(torch.uint8).flatten(2).long()
    histogram = torch.zeros(*level.shape[:2], 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, level, histogram.new_ones(1).expand(level.shape))
    total = histogram.cumsum(2, dtype=torch.int32)
    # PIL leaves the brightest occupied level out of the count.
    brightest = histogram.gather(2, total.argmax(2, keepdim=True))
    step = (level.shape[2] - brightest).div_(255, rounding_mode="floor")
    before = torch.nn.functional.pad(total[..., :-1], (1, 0))
    table = before.add_(step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    # step 0 (fewer than 255 darker pixels) keeps the channel, quantised.
    identity = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step == 0, identity, table).to(images.dtype).div_(255)
    return table.gather(2, level).view(images.shape)
