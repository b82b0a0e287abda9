"""Distribution alignment: predictions shall use the classes as often as they occur."""

from torch import Tensor

from lightning_ssl.losses.basic import promote


def align(probs: Tensor, target: Tensor, model: Tensor, *, eps: float = 1e-6) -> Tensor:
    r"""Multiply each class by how much rarer it is predicted than it occurs, and normalise.

    .. math::
        \operatorname{Normalize}\Big(p_{bc} \,
        \frac{p^{target}_c + \epsilon}{p^{model}_c + \epsilon}\Big)

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, sec. 3.1; the constant is
    of google-research/remixmatch.

    Args:
        probs: Predictions ``(B, C)`` in [0, 1], rows sum to 1.
        target: How often each class occurs, ``(C,)``, sums to 1.
        model: Mean prediction of each class, ``(C,)``, sums to 1: over batches, never over classes.
        eps: Keeps the quotient finite.

    Returns:
        ``(B, C)``, rows sum to 1.

    Example:
        >>> import torch
        >>> align(torch.tensor([[0.6, 0.4]]), torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4]))
        tensor([[0.5000, 0.5000]])
    """
    probs = promote(probs) * (target + eps) / (model + eps)
    return probs / probs.sum(dim=-1, keepdim=True)
