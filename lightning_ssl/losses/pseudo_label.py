"""Pseudo-labels above a confidence threshold."""

from torch import Tensor

from lightning_ssl.losses.basic import sharpen, weighted_cross_entropy


def confident(probs: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """Most probable class of each row, and whether its probability reaches the threshold.

    Args:
        probs: ``(B, C)``, rows sum to 1.
        threshold: In [0, 1], for all classes or of each class ``(C,)``.

    Returns:
        Classes ``(B,)``, int64, and mask ``(B,)``, bool.

    Example:
        >>> import torch
        >>> confident(torch.tensor([[0.7, 0.3], [0.3, 0.7]]), torch.tensor([0.8, 0.6]))
        (tensor([0, 1]), tensor([False,  True]))
    """
    confidence, label = probs.max(dim=1)
    if isinstance(threshold, Tensor) and threshold.ndim > 0:
        threshold = threshold[label]
    return label, confidence >= threshold


def counting(mask: Tensor, kept: Tensor | None) -> Tensor:
    """Rows that count: of some those that are kept.

    Args:
        mask: ``(B,)``, bool, or a weight of each row.
        kept: ``(B,)``, bool; None for all.
    """
    return mask if kept is None else mask * kept


def pseudo_label_loss(
    logits: Tensor,
    probs: Tensor,
    *,
    threshold: float | Tensor,
    temperature: float | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy against confident labels, averaged over the whole batch.

    .. math::
        \frac{1}{B} \sum_{b=1}^{B} \mathbb{1}[\max_c p_{bc} \ge \tau] \;
        H(\arg\max_c p_{bc}, \operatorname{softmax} z_b)

    or, with a temperature T, against :math:`\operatorname{sharpen}(p_b, T)`.

    Reference: Sohn et al., 2020, https://arxiv.org/abs/2001.07685, eq. 4.

    Args:
        logits: Predictions that learn, ``(B, C)``, any real; computed in float32 at least.
        probs: Probabilities that teach, ``(B, C)``, rows sum to 1; no gradient flows through them.
        threshold: Confidence :math:`\tau` in [0, 1], for all classes or of each class ``(C,)``.
        temperature: T of soft labels, above 0; None for hard ones.
        kept: Whether each row may count ``(B,)``, bool; None for all.

    Returns:
        Scalar loss in nats and the mask ``(B,)``, bool, of the rows that counted. The mean divides
        by all B rows, not by those that counted.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> probs = torch.tensor([[0.99, 0.01], [0.6, 0.4]])
        >>> loss, mask = pseudo_label_loss(logits, probs, threshold=0.95)
        >>> round(loss.item(), 4), mask.tolist()
        (0.3466, [True, False])
    """
    label, mask = confident(probs.detach(), threshold)
    mask = counting(mask, kept)
    target = label if temperature is None else sharpen(probs.detach(), temperature=temperature)
    return weighted_cross_entropy(logits, target, mask), mask
