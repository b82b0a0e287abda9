"""Fairness: confident predictions shall not narrow down to a few classes."""

import torch
from torch import Tensor

from lightning_ssl.losses.basic import promote


def fairness_loss(probs: Tensor, histogram: Tensor, past: Tensor, past_histogram: Tensor) -> Tensor:
    r"""Negative cross-entropy between what was predicted and what is, each over its histogram.

    .. math::
        \sum_c N\Big(\frac{\tilde p}{\tilde h}\Big)_c \log N\Big(\frac{\bar p}{\bar h}\Big)_c,
        \qquad N(v) = \frac{v}{\sum_c v_c}, \quad \frac{v}{0} := 0

    It is added to a loss: minimised, it makes the two distributions differ.

    Reference: Wang et al., 2023, https://arxiv.org/abs/2205.07246, eq. 11; the constant in the
    logarithm is that of its code.

    Args:
        probs: Mean or sum of the predictions that count, :math:`\bar p` up to a factor, ``(C,)``.
        histogram: How many of them are most probably of each class, :math:`\bar h` up to a factor,
            ``(C,)``; no gradient flows through it. Where all are 0 the loss is 0.
        past: Moving average :math:`\tilde p` ``(C,)``; no gradient flows through it.
        past_histogram: Moving average :math:`\tilde h` ``(C,)``.

    Returns:
        Scalar in nats, at most 0, float32 at least.

    Example:
        >>> even, one = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> round(fairness_loss(one, even, even, even).item(), 4)
        -1.204
    """
    now = _normalized(promote(probs), histogram)
    before = _normalized(promote(past).detach(), past_histogram.detach())
    loss = (before * (now + 1e-12).log()).sum()
    return torch.where((histogram > 0).any(), loss, 0 * loss)


def _normalized(probs: Tensor, histogram: Tensor) -> Tensor:
    used = histogram > 0
    quotient = torch.where(used, probs / torch.where(used, histogram, 1), 0)
    return quotient / quotient.sum().clamp(min=torch.finfo(quotient.dtype).tiny)
