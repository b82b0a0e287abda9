"""Probabilities of classes as labels."""

from torch import Tensor
from torch.nn import functional

from lightning_ssl.losses.basic import promote


def soft_label_loss(logits: Tensor, probs: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of each view's prediction from the labels, summed over views.

    .. math::
        \frac{1}{B} \sum_{v=1}^{V} \sum_{b=1}^{B} \sum_c
        t_{bc} (\log t_{bc} - \log \operatorname{softmax}(z_{vb})_c)

    Of a label that is certain this is the cross-entropy. Its gradient is always that of the
    cross-entropy; unlike that it is 0 where the labels are met.

    Reference: the student of V-PET, https://arxiv.org/abs/2503.09707.

    Args:
        logits: Predictions that learn, ``(V, B, C)``, any real.
        probs: Labels t ``(B, C)``, rows sum to 1; no gradient flows through them.

    Returns:
        Scalar in nats, at least 0, float32 at least.

    Example:
        >>> import torch
        >>> round(soft_label_loss(torch.zeros(2, 1, 4), torch.eye(4)[:1]).item(), 4)
        2.7726
    """
    log_p = promote(logits).log_softmax(dim=-1)
    target = probs.detach().to(log_p).expand_as(log_p)
    return functional.kl_div(log_p, target, reduction="sum") / logits.shape[1]
