"""How far images are from all that have a label."""

import torch
from torch import Tensor

from lightning_ssl.evaluation.neighbors import nearest_rows


def nearest_label_scores(features: Tensor, support: Tensor) -> Tensor:
    r"""Cosine to the nearest labelled image: :math:`s(u) = \max_j \cos(x_u, x_j)`. Low is far.

    Reference: nearest neighbours with k = 1 as in https://arxiv.org/abs/2311.17093.

    Args:
        features: ``(M, F)``, any finite real.
        support: Features of the labelled images ``(L, F)``.

    Returns:
        ``(M,)`` in [-1, 1], float32 at least.

    Example:
        >>> scores = nearest_label_scores(torch.tensor([[3.0, 4.0], [0.0, -1.0]]), torch.eye(2))
        >>> [round(score, 4) for score in scores.tolist()]
        [0.8, 0.0]
    """
    return nearest_rows(features, support, 1)[0][:, 0]


def outlier_threshold(support: Tensor, share: float = 0.05) -> float:
    """Score below which the share of the labelled images would lie, each compared with the others.

    Args:
        support: Features of the labelled images ``(L, F)``, two of them at least.
        share: In [0, 1].

    Returns:
        The quantile of their scores, interpolated linearly.

    Raises:
        ValueError: If there are fewer images.
    """
    if len(support) < 2:
        raise ValueError(f"`support` must have two rows at least, got {len(support)}.")
    own = torch.arange(len(support), device=support.device)
    scores = nearest_rows(support, support, 1, own=own)[0][:, 0]
    return float(scores.double().quantile(share))
