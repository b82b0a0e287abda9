"""Hard pseudo-labels above a confidence threshold."""

from torch import Tensor
from torch.nn import functional

from lightning_ssl.losses.basic import promote


def pseudo_label_loss(logits: Tensor, probs: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy against confident hard labels, averaged over the whole batch.

    .. math::
        \frac{1}{B} \sum_{b=1}^{B} \mathbb{1}[\max_c p_{bc} \ge \tau] \;
        H(\arg\max_c p_{bc}, \operatorname{softmax} z_b)

    Reference: Sohn et al., 2020, https://arxiv.org/abs/2001.07685, eq. 4.

    Args:
        logits: Predictions that learn, ``(B, C)``, any real; computed in float32 at least.
        probs: Probabilities that teach, ``(B, C)``, rows sum to 1; no gradient flows through them.
        threshold: Confidence :math:`\tau` in [0, 1].

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
    confidence, pseudo_label = probs.detach().max(dim=1)
    mask = confidence >= threshold
    loss = functional.cross_entropy(promote(logits), pseudo_label, reduction="none")
    return (loss * mask).mean(), mask
