"""MixUp: weighted means of images and of their targets."""

from torch import Tensor


def mixup(values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    r"""Mix each row with another one: :math:`\lambda_n v_n + (1 - \lambda_n) v_{\pi(n)}`.

    Reference: Zhang et al., 2018, https://arxiv.org/abs/1710.09412, eq. 1; a weight of each row
    as in google-research/mixmatch.

    Args:
        values: Images ``(N, C, H, W)``, or anything else with N rows, such as probabilities.
        partner: Row that each row is mixed with, int64 ``(N,)``. Images and targets need the same.
        weight: :math:`\lambda_n` of the row itself, ``(N,)`` in [0, 1].

    Returns:
        Mixed rows, of the shape and dtype of ``values``.

    Example:
        >>> import torch
        >>> rows, partner = torch.tensor([[1.0], [3.0]]), torch.tensor([1, 0])
        >>> mixup(rows, partner, torch.tensor([0.75, 1.0])).tolist()
        [[1.5], [3.0]]
    """
    return values[partner].lerp(values, weight.to(values.dtype).view(-1, *[1] * (values.ndim - 1)))
