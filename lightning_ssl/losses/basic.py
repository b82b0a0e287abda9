"""Softmax and cross-entropy in float32 at least."""

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
