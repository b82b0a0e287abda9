"""Distribution alignment: predictions shall use the classes as often as they occur."""

from torch import Tensor

from lightning_ssl.losses.basic import promote

_EPSILON = 1e-6  # keeps the quotient finite for a class that is never predicted


def align(probs: Tensor, target: Tensor, model: Tensor) -> Tensor:
    r"""Multiply each class by how much rarer it is predicted than it occurs, and normalise.

    .. math::
        \operatorname{Normalize}\Big(p_{bc} \,
        \frac{p^{target}_c + \epsilon}{p^{model}_c + \epsilon}\Big)

    with :math:`\epsilon = 10^{-6}`, of google-research/remixmatch. A factor of all of
    :math:`p^{model}` or all of :math:`p^{target}` cancels, but for what it does to the share of
    :math:`\epsilon`.

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, sec. 3.1.

    Args:
        probs: Predictions ``(B, C)`` in [0, 1], rows sum to 1.
        target: How often each class occurs, ``(C,)``, at least 0.
        model: Mean prediction of each class over batches, never over classes, ``(C,)``, at least 0.

    Returns:
        ``(B, C)``, rows sum to 1.

    Example:
        >>> import torch
        >>> align(torch.tensor([[0.6, 0.4]]), torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4]))
        tensor([[0.5000, 0.5000]])
    """
    probs = promote(probs) * (target + _EPSILON) / (model + _EPSILON)
    return probs / probs.sum(dim=-1, keepdim=True)
