"""Distance between the features of two views of an image."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_ssl.losses.basic import promote


def distance_loss(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    r"""Cosine of the angle between the two views' features, where it is positive.

    .. math:: \frac{1}{B} \sum_{b=1}^{B} w_b \max\{0, \cos(f_b, g_b)\}

    It pushes apart what the classifier holds together. The mean divides by all B rows.

    Reference: Fan et al., 2021, https://arxiv.org/abs/2112.05825.

    Args:
        first: Features of one view, ``(B, D)``, any real.
        second: Features of the other, ``(B, D)``.
        weight: Weight of each row ``(B,)``, at least 0, or bool; no gradient flows through it.

    Returns:
        Scalar, at least 0, float32 at least.

    Example:
        >>> import torch
        >>> first, second = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0]] * 2)
        >>> round(distance_loss(first, second, torch.tensor([True, False])).item(), 4)
        0.3536
    """
    cosines = cosine_similarity(promote(first), promote(second), dim=1)
    return (cosines.clamp(min=0) * weight.detach()).mean()
