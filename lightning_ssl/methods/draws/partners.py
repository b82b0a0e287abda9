"""What is drawn for mixing images with chosen partners."""

import torch
from torch import Tensor

from lightning_ssl.losses import Box, kept_share, resize_mix
from lightning_ssl.methods.draws.mixup import draw_beta

SCOPE = (0.1, 0.8)  # sides of a box as fractions, https://arxiv.org/abs/2012.11101


def draw_partners(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Draw for each row one of those it may be mixed with, each with the same probability.

    Args:
        allowed: Which of M rows each of N rows may take, ``(N, M)``, bool.

    Returns:
        Partners ``(N,)``, int64, and whether there was one ``(N,)``, bool; where not, the partner
        is row 0.
    """
    count = allowed.sum(dim=1)
    # Few numbers, drawn on the host and sent without waiting: the same on any device.
    drawn = torch.rand(len(allowed), dtype=torch.float64).to(allowed.device, non_blocking=True)
    chosen = torch.minimum((drawn * count).long(), count - 1)
    return (allowed.cumsum(dim=1) <= chosen[:, None]).sum(dim=1), count > 0


def draw_box(side: int, alpha: float) -> Box:
    r"""Draw where an image is pasted: a centre anywhere, a side that follows a distribution.

    The side is :math:`0.1 + 0.7 \sqrt{\beta}` of the image's, :math:`\beta \sim
    \mathrm{Beta}(\alpha, \alpha)`; what is beyond the border is cut off.

    Reference: hhrd9/regmixmatch.

    Args:
        side: Of the image, in pixels.
        alpha: :math:`\alpha`, above 0.

    Returns:
        The box; empty where its side is below 2 pixels.
    """
    drawn = draw_beta(alpha, 1).sqrt().item()  # on the host
    half = int(side * (SCOPE[0] + drawn * (SCOPE[1] - SCOPE[0]))) // 2
    y, x = torch.randint(side, (2,)).tolist()
    return max(y - half, 0), max(x - half, 0), min(y + half, side), min(x + half, side)


def paste(
    images: Tensor,
    target: Tensor,
    lent_images: Tensor,
    lent_target: Tensor,
    found: Tensor,
    *,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Paste partners into images, all at one place, and mix the targets by the share of pixels.

    Args:
        images: Images that get a part of another ``(N, C, S, S)``.
        target: Their probabilities ``(N, K)``.
        lent_images: Partners ``(N, C, S, S)``.
        lent_target: Their probabilities ``(N, K)``.
        found: Whether there is a partner ``(N,)``, bool; where not, all stays as it is.
        alpha: See :func:`draw_box`.

    Returns:
        Mixed images ``(N, C, S, S)`` and targets ``(N, K)``.
    """
    box = draw_box(images.shape[-1], alpha)
    share = kept_share(box, images)
    mixed = resize_mix(images, lent_images, box), share * target + (1 - share) * lent_target
    return select_rows(found, mixed, (images, target))


def select_rows(
    mask: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Take rows of two tensors from ``first`` where the mask ``(N,)`` says so, else ``second``."""
    one, other = (
        torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(first, second, strict=True)
    )
    return one, other
