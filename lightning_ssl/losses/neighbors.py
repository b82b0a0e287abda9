"""Soft nearest neighbours: classify images by the labelled images they lie close to."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.losses.basic import full_precision, promote


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between each row of one matrix and each row of another.

    Args:
        first: ``(M, D)``, any real; a row of zeros stays zero.
        second: ``(N, D)``.

    Returns:
        ``(M, N)`` in [-1, 1], float32 at least.
    """
    with full_precision(first):
        return functional.normalize(promote(first)) @ functional.normalize(promote(second)).T


def smooth_labels(target: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    r"""One-hot rows that give a share :math:`\varepsilon` to all classes that are present.

    With K different classes in ``target`` a row holds :math:`1 - \varepsilon + \varepsilon / K` at
    its class, :math:`\varepsilon / K` at the other present ones and 0 at those that are absent.

    Args:
        target: Classes ``(N,)``, int64 in ``[0, num_classes)``.
        num_classes: Number of columns C.
        smoothing: Share :math:`\varepsilon` in [0, 1].

    Returns:
        ``(N, C)``, rows sum to 1, in the default floating type, float32 at least. The device is
        never waited for.

    Example:
        >>> smooth_labels(torch.tensor([0, 2]), 3, smoothing=0.5).tolist()
        [[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]
    """
    one_hot = promote(functional.one_hot(target, num_classes).to(torch.get_default_dtype()))
    present = one_hot.amax(dim=0)
    return (1 - smoothing) * one_hot + smoothing * present / present.sum()


def soft_nearest_neighbors(
    queries: Tensor, support: Tensor, labels: Tensor, *, temperature: float = 0.1
) -> Tensor:
    r"""Probabilities of classes as the support's labels weighted by similarity.

    .. math:: \pi(q) = \operatorname{softmax}_j(\cos(q, s_j) / \tau) \, Y

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, eq. 1.

    Args:
        queries: Embeddings to classify, ``(M, D)``, any real; normalised here.
        support: Embeddings of labelled images, ``(N, D)``; normalised here.
        labels: Label of each support, ``(N, C)``, rows sum to 1.
        temperature: :math:`\tau` > 0, in units of the cosine.

    Returns:
        ``(M, C)``, float32 at least, rows sum to 1.

    Example:
        >>> support, labels = torch.eye(2), torch.eye(2)
        >>> probs = soft_nearest_neighbors(torch.tensor([[1.0, 0.0]]), support, labels)
        >>> round(probs[0, 1].item(), 7)
        4.54e-05
    """
    similarity = cosine(queries, support)
    with full_precision(queries):
        return (similarity / temperature).softmax(dim=1) @ labels.to(similarity)
