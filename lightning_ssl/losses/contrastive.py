"""Contrastive losses: an image is told from the others of the batch."""

import torch
from torch import Tensor

from lightning_ssl.losses.basic import full_precision
from lightning_ssl.losses.neighbors import cosine


def nt_xent_loss(
    z: Tensor, keys: Tensor | None = None, *, temperature: float = 0.1, offset: int = 0
) -> Tensor:
    r"""SimCLR's loss: a view finds the other view of its image among all other views.

    .. math::
        -\frac{1}{2n} \sum_i \log \frac{e^{\cos(z_i, k_{pos(i)}) / \tau}}
        {\sum_{j \ne i} e^{\cos(z_i, k_j) / \tau}}

    Reference: Chen et al., 2020, https://arxiv.org/abs/2002.05709, eq. 1.

    Args:
        z: Embeddings of this process, ``(2n, D)``: first views, then second views, in one order.
        keys: Embeddings of all processes, ``(M, D)``, those of this one from row ``offset`` on;
            None for ``z``. Detached keys give suncet's gradient, which flows through ``z`` alone.
        temperature: :math:`\tau` > 0.
        offset: Row of ``keys`` that is row 0 of ``z``.

    Returns:
        Scalar in nats, float32 at least.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(nt_xent_loss(z, temperature=1.0).item(), 4)
        0.5514
    """
    logits, _ = _logits(z, keys, temperature, offset)
    rows = torch.arange(len(z), device=z.device)
    positive = offset + (rows + len(z) // 2) % len(z)
    return torch.nn.functional.cross_entropy(logits, positive)


def suncet_loss(
    z: Tensor,
    target: Tensor,
    keys: Tensor | None = None,
    key_target: Tensor | None = None,
    *,
    temperature: float = 0.1,
    offset: int = 0,
) -> Tensor:
    r"""Supervised noise-contrastive estimation: find any other image of the same class.

    .. math::
        -\frac{1}{B} \sum_i \log \frac{\sum_{j \ne i, y_j = y_i} e^{\cos(z_i, k_j) / \tau}}
        {\sum_{j \ne i} e^{\cos(z_i, k_j) / \tau}}

    A row that is alone in its class counts as 0.

    Reference: Assran et al., 2020, https://arxiv.org/abs/2006.10803, eq. 1.

    Args:
        z: Embeddings of this process, ``(B, D)``.
        target: Their classes ``(B,)``, int64.
        keys: Embeddings of all processes, ``(M, D)``, those of this one from row ``offset`` on;
            None for ``z``.
        key_target: Classes of the keys ``(M,)``; None for ``target``.
        temperature: :math:`\tau` > 0.
        offset: Row of ``keys`` that is row 0 of ``z``.

    Returns:
        Scalar in nats, float32 at least.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(suncet_loss(z, torch.tensor([0, 1, 0, 1]), temperature=1.0).item(), 4)
        0.5514
    """
    logits, own = _logits(z, keys, temperature, offset)
    key_target = target if key_target is None else key_target
    same = (target[:, None] == key_target) & ~own
    alone = ~same.any(dim=1)
    # A row without a partner keeps all its logits, or its gradient would be NaN.
    near = logits.masked_fill(~(same | (alone[:, None] & ~own)), -torch.inf)
    losses = logits.logsumexp(dim=1) - near.logsumexp(dim=1)
    return losses.masked_fill(alone, 0).mean()


def _logits(
    z: Tensor, keys: Tensor | None, temperature: float, offset: int
) -> tuple[Tensor, Tensor]:
    """Similarities to all keys, -inf to a row's own; and where a row meets itself."""
    keys = z if keys is None else keys
    rows = offset + torch.arange(len(z), device=z.device)
    own = rows[:, None] == torch.arange(len(keys), device=z.device)
    with full_precision(z):
        return (cosine(z, keys) / temperature).masked_fill(own, -torch.inf), own
