"""Rotation as a task: four turned copies of each image, and which turn it was."""

import torch
from torch import Tensor

from lightning_ssl.losses.basic import cross_entropy


def four_rotations(images: Tensor) -> Tensor:
    """Turn each image by 0, 90, 180 and 270 degrees counter-clockwise.

    Args:
        images: Square images ``(B, C, S, S)``.

    Returns:
        Images ``(4 * B, C, S, S)``; row ``4 * i + k`` is image i after k quarter turns, which is
        ``torch.rot90(images[i], k, (-2, -1))``.

    Raises:
        ValueError: If the images are not square.

    Example:
        >>> four_rotations(torch.tensor([[[[1, 2], [3, 4]]]]))[1].tolist()
        [[[2, 4], [1, 3]]]
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"`images` must be square, got {tuple(images.shape[-2:])}.")
    turned = [torch.rot90(images, k, (-2, -1)) for k in range(4)]
    return torch.stack(turned, dim=1).flatten(0, 1)


def rotation_loss(logits: Tensor, logits_labeled: Tensor) -> Tensor:
    r"""Cross-entropy of the turn, averaged over both streams with equal weight.

    .. math::
        \frac{1}{2} \Big[ \frac{1}{4U} \sum_{i, k} H(k, q(u_{ik})) +
        \frac{1}{4B} \sum_{i, k} H(k, q(x_{ik})) \Big]

    Reference: Zhai et al., 2019, https://arxiv.org/abs/1905.03670, sec. 3; the task is that of
    Gidaris et al., 2018, https://arxiv.org/abs/1803.07728.

    Args:
        logits: Predicted turn of the unlabelled copies, ``(4 * U, 4)``, in the order of
            :func:`four_rotations`.
        logits_labeled: The same of the labelled copies, ``(4 * B, 4)``.

    Returns:
        Scalar in nats, float32 at least; log 4 for a network that knows nothing.

    Example:
        >>> round(rotation_loss(torch.zeros(8, 4), 100 * torch.eye(4)).item(), 4)
        0.6931
    """
    one, other = (cross_entropy(z, rotation_labels(z)) for z in (logits, logits_labeled))
    return (one + other) / 2


def rotation_labels(copies: Tensor) -> Tensor:
    """Quarter turns 0, 1, 2, 3, 0, 1, … of rows in the order of :func:`four_rotations`.

    Args:
        copies: Anything with a row for each copy, ``(4 * B, ...)``.

    Returns:
        Int64 ``(4 * B,)`` on the same device.
    """
    return torch.arange(4, device=copies.device).repeat(len(copies) // 4)
