"""Softmax, sharpening, cross-entropy and squared error in float32 at least."""

import torch
from torch import Tensor
from torch.nn import functional


def promote(values: Tensor) -> Tensor:
    """Raise half precision to float32; float32 and float64 stay what they are.

    Below 32 bits confidences near 1 round to 1 and logarithms of small probabilities are lost.

    Args:
        values: Any floating-point tensor.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(values: Tensor) -> torch.autocast:
    """Switch autocast off, which would multiply matrices in half precision.

    Args:
        values: Says on which kind of device.
    """
    return torch.autocast(values.device.type, enabled=False)


def softmax(logits: Tensor) -> Tensor:
    """Probabilities of classes.

    Args:
        logits: ``(..., C)``, any real.

    Returns:
        Probabilities ``(..., C)``, float32 at least, rows sum to 1.
    """
    return promote(logits).softmax(dim=-1)


def sharpen(probs: Tensor, *, temperature: float = 0.25) -> Tensor:
    r"""Raise to the power 1/T and normalise: :math:`p_k^{1/T} / \sum_j p_j^{1/T}`.

    Args:
        probs: ``(..., C)`` in [0, 1].
        temperature: T above 0; below 1 it sharpens, 1 changes nothing.

    Returns:
        ``(..., C)``, rows sum to 1.

    Example:
        >>> sharpen(torch.tensor([0.5, 0.5, 0.0]), temperature=0.25).tolist()
        [0.5, 0.5, 0.0]
    """
    probs = promote(probs)
    # Relative to the largest, or many even classes would all vanish at a low temperature.
    powers = (probs / probs.detach().amax(dim=-1, keepdim=True)) ** (1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    r"""Mean cross-entropy against classes.

    .. math:: -\frac{1}{B} \sum_b \log \operatorname{softmax}(z_b)_{y_b}

    Args:
        logits: ``(B, C)``, any real.
        target: Classes ``(B,)``, int64 in ``[0, C)``.

    Returns:
        Scalar in nats, float32 at least.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
        1.3863
    """
    return functional.cross_entropy(promote(logits), target)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Cross-entropy of each row times its weight, averaged over all rows.

    .. math:: \frac{1}{B} \sum_{b=1}^{B} w_b H(t_b, \operatorname{softmax} z_b)

    The mean divides by B, however many weights are 0.

    Args:
        logits: Predictions that learn, ``(B, C)``, any real.
        target: Classes ``(B,)``, int64 in ``[0, C)``, or probabilities ``(B, C)``; no gradient
            flows through them.
        weight: Weight of each row ``(B,)``, at least 0, or bool; no gradient flows through it;
            None for 1.

    Returns:
        Scalar in nats, float32 at least.

    Example:
        >>> target, weight = torch.tensor([1, 0]), torch.tensor([0.5, 0.0])
        >>> round(weighted_cross_entropy(torch.zeros(2, 2), target, weight).item(), 4)
        0.1733
    """
    logits, target = promote(logits), target.detach()
    if target.is_floating_point():
        target = target.to(logits.dtype)
    losses = functional.cross_entropy(logits, target, reduction="none")
    return (losses if weight is None else losses * weight.detach()).mean()


def squared_error(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Squared error of probabilities, averaged over rows and over classes.

    .. math:: \frac{1}{B C} \sum_b \lVert t_b - \operatorname{softmax} z_b \rVert_2^2

    Reference: Berthelot et al., 2019, https://arxiv.org/abs/1905.02249, eq. 4; a loss that sums
    over the classes needs a weight C times smaller.

    Args:
        logits: Predictions that learn, ``(B, C)``, any real.
        target: Probabilities ``(B, C)``; no gradient flows through them.
        weight: Weight of each row ``(B,)``, as in :func:`weighted_cross_entropy`; None for 1.

    Returns:
        Scalar, without weights in [0, 2 / C], float32 at least.

    Example:
        >>> round(squared_error(torch.zeros(1, 4), torch.eye(4)[:1]).item(), 4)
        0.1875
    """
    errors = (softmax(logits) - target.detach()).square().mean(dim=1)
    return (errors if weight is None else errors * weight.detach()).mean()
