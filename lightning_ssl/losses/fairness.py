"""Self-adaptive fairness: confident predictions shall be as diverse as all of them have been."""

from torch import Tensor


def fairness_loss(
    mean: Tensor, histogram: Tensor, past_mean: Tensor, past_histogram: Tensor
) -> Tensor:
    r"""Negative cross-entropy between two distributions over classes.

    .. math::
        \sum_c N(\tilde p / \tilde h)_c \, \log N(\bar p / \bar h)_c, \qquad
        N(v) = v / \textstyle\sum_c v_c

    Less of it is more cross-entropy to the past. A quotient by 0 counts as 0.

    Reference: Wang et al., 2022, https://arxiv.org/abs/2205.07246, eq. 11 to 13; the constant in
    the logarithm and the quotients by 0 are of TorchSSL.

    Args:
        mean: Mean :math:`\bar p` of the predictions that learn, over those that are kept, ``(C,)``,
            up to a positive factor.
        histogram: Share :math:`\bar h` of each class among their hard labels, ``(C,)``, up to the
            same factor; zero if none is kept.
        past_mean: Running mean :math:`\tilde p` of all predictions, ``(C,)``, sums to 1; no
            gradient flows through it.
        past_histogram: Running share :math:`\tilde h` of their hard labels, ``(C,)``; likewise.

    Returns:
        Scalar in nats, at most 0; 0 if nothing is kept.

    Example:
        >>> import torch
        >>> even = torch.tensor([0.5, 0.5])
        >>> round(fairness_loss(torch.tensor([0.3, 0.3]), even, even, even).item(), 4)
        -0.6931
    """
    past = _normalized_quotient(past_mean.detach(), past_histogram.detach())
    now = _normalized_quotient(mean, histogram.detach())
    return (past * (now + 1e-12).log()).sum() * histogram.detach().any()


def _normalized_quotient(mean: Tensor, histogram: Tensor) -> Tensor:
    quotient = (mean / histogram.where(histogram > 0, 1)) * (histogram > 0)
    total = quotient.sum()
    return quotient / total.where(total > 0, 1)
