"""Entropy of predictions."""

from torch import Tensor

from lightning_ssl.losses.basic import promote


def entropy(logits: Tensor) -> Tensor:
    r"""Mean entropy of the predictions, with gradient: minimised it makes them confident.

    .. math:: -\frac{1}{B} \sum_b \sum_c p_{bc} \log p_{bc}, \quad p_b = \operatorname{softmax} z_b

    Reference: Grandvalet & Bengio, 2004, "Semi-supervised learning by entropy minimization"; as a
    term beside VAT in Miyato et al., 2017, https://arxiv.org/abs/1704.03976.

    Args:
        logits: ``(B, C)``, any real.

    Returns:
        Scalar in nats, in [0, log C], float32 at least.

    Example:
        >>> import torch
        >>> round(entropy(torch.tensor([[0.0, 0.0], [50.0, 0.0]])).item(), 4)
        0.3466
    """
    log_probs = promote(logits).log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1).mean()
