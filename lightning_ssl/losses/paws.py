"""PAWS: views of an image agree on its class, and the classes share the batch."""

from typing import Literal

import torch
from torch import Tensor

from lightning_ssl.losses.basic import full_precision, promote, sharpen

_SMALLEST = 1e-4
"""Target probabilities below it count as 0, as in facebookresearch/suncet; no paper has it."""


PAWSTarget = Literal["swapped", "mean"]


def paws_targets(
    probs: Tensor, *, temperature: float = 0.25, target: PAWSTarget = "swapped"
) -> tuple[Tensor, Tensor]:
    r"""What each large view, and every small one, shall predict.

    The target of a large view is the mean of the other large views' sharpened predictions; that of
    the small views the mean over all large ones. With ``mean`` it is the sharpened mean of all
    large views' predictions, for every view. Entries below 1e-4 are then set to 0, without
    normalising again.

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, sec. 3; the cut is of
    facebookresearch/suncet. ``mean`` is PAWS-MixMatch of https://arxiv.org/abs/2311.17093.

    Args:
        probs: Predictions for the large views, ``(V, B, C)`` with V at least 2, rows sum to 1; no
            gradient flows through them.
        temperature: Of the sharpening, above 0; 1 changes nothing.
        target: ``swapped`` or ``mean``.

    Returns:
        Targets of the large views ``(V, B, C)`` and of the small ones ``(B, C)``.

    Example:
        >>> large, small = paws_targets(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]))
        >>> large.tolist(), small.tolist()
        ([[[0.5, 0.5]], [[1.0, 0.0]]], [[0.75, 0.25]])
    """
    if target == "mean":
        mean = _cut(sharpen(promote(probs.detach()).mean(dim=0), temperature=temperature))
        return mean.expand_as(probs), mean
    sharp = sharpen(probs.detach(), temperature=temperature)
    views = len(sharp)
    others = 1 - torch.eye(views, dtype=sharp.dtype, device=sharp.device)
    with full_precision(sharp):
        large = torch.einsum("vw,wbc->vbc", others / (views - 1), sharp)
    return _cut(large), _cut(sharp.mean(dim=0))


def _cut(targets: Tensor) -> Tensor:
    return targets.masked_fill(targets < _SMALLEST, 0)


def paws_loss(probs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Mean cross-entropy of predicted probabilities against soft targets.

    .. math:: -\frac{1}{R} \sum_r w_r \sum_k t_{rk} \log p_{rk}

    A class whose target is 0 counts nothing, whatever its probability, and passes no gradient.

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, eq. 2; the weights are of
    Mo et al., 2023, https://arxiv.org/abs/2302.14483.

    Args:
        probs: Predictions that learn, ``(R, C)`` in [0, 1].
        targets: ``(R, C)`` in [0, 1]; no gradient flows through them.
        weights: Weight of each row ``(R,)``, at least 0; None for 1.

    Returns:
        Scalar in nats.

    Example:
        >>> probs = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> round(paws_loss(probs, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item(), 4)
        0.3466
    """
    targets = targets.detach()
    losses = -(targets * _safe_log(promote(probs), targets > 0)).sum(dim=1)
    return (losses if weights is None else losses * weights.detach()).mean()


def me_max_loss(mean_probs: Tensor) -> Tensor:
    r"""Negative entropy of the mean prediction, which keeps all images from one class.

    .. math:: \sum_k \bar p_k \log \bar p_k

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, eq. 2.

    Args:
        mean_probs: Mean over a batch of sharpened predictions, ``(C,)``, sums to 1.

    Returns:
        Scalar in nats, in [-log C, 0].

    Example:
        >>> round(me_max_loss(torch.tensor([0.5, 0.5, 0.0])).item(), 4)
        -0.6931
    """
    return (mean_probs * _safe_log(mean_probs, mean_probs > 0)).sum()


def _safe_log(probs: Tensor, counts: Tensor) -> Tensor:
    """Logarithm where it counts and 0 elsewhere, without a NaN in the gradient of 0."""
    return torch.where(counts, probs, 1.0).log()
