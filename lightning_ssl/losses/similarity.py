"""SimMatch's two ways between classes and similarities to labelled images."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_ssl.losses.basic import full_precision, promote


def aggregate(similarity: Tensor, target: Tensor, num_classes: int) -> Tensor:
    r"""Probabilities of classes: the similarities to the images of each class, added up.

    .. math:: \sum_{k: y_k = c} \operatorname{softmax}_k(a_{bk})

    Reference: Zheng et al., 2022, https://arxiv.org/abs/2203.06915, sec. 3.

    Args:
        similarity: Similarity a to each labelled image, over the temperature, ``(B, N)``, any real.
        target: Classes of the labelled images ``(N,)``, int64; -1 counts as class 0.
        num_classes: Number of classes C.

    Returns:
        ``(B, C)``, rows sum to 1, float32 at least.

    Example:
        >>> similarity, target = torch.zeros(1, 4), torch.tensor([0, 1, 1, 1])
        >>> aggregate(similarity, target, 2).tolist()
        [[0.25, 0.75]]
    """
    with full_precision(similarity):
        shares = promote(similarity).softmax(dim=1)
        return shares @ one_hot(target.clamp(min=0), num_classes).to(shares)


def unfold(similarity: Tensor, probs: Tensor, target: Tensor) -> Tensor:
    r"""Similarities that agree with the predicted classes.

    .. math:: \frac{s_{bk} p_{b y_k}}{\sum_l s_{bl} p_{b y_l}}, \quad
        s_b = \operatorname{softmax}(a_b)

    Reference: Zheng et al., 2022, https://arxiv.org/abs/2203.06915, sec. 3.

    Args:
        similarity: Similarity a to each labelled image, over the temperature, ``(B, N)``, any real.
        probs: Predictions ``(B, C)``, rows sum to 1.
        target: Classes of the labelled images ``(N,)``, int64; -1 counts as class 0.

    Returns:
        ``(B, N)``, rows sum to 1, float32 at least.

    Example:
        >>> similarity, target = torch.zeros(1, 3), torch.tensor([0, 1, 1])
        >>> probs = unfold(similarity, torch.tensor([[0.5, 0.5]]), target)
        >>> [round(value, 4) for value in probs[0].tolist()]
        [0.3333, 0.3333, 0.3333]
    """
    probs = promote(probs)
    # As logarithms, because all products may be too small to be told from 0.
    log_probs = probs.clamp(min=torch.finfo(probs.dtype).tiny).log()
    return (promote(similarity) + log_probs.index_select(1, target.clamp(min=0))).softmax(dim=1)
