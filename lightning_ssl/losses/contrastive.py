"""Contrastive losses: an image is told from the others of the batch."""

import torch
from torch import Tensor

from lightning_ssl.losses.basic import full_precision, promote
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


def soft_suncet_loss(
    z: Tensor,
    labels: Tensor,
    keys: Tensor | None = None,
    *,
    temperature: float = 0.1,
    offset: int = 0,
) -> Tensor:
    r"""SuNCEt's loss for labels that are not all on one class, as facebookresearch/suncet has it.

    .. math::
        -\frac{1}{B} \sum_i \sum_c Y_{ic} \log
        \frac{\sum_{j \ne i} e^{\cos(z_i, k_j) / \tau} Y_{jc}}
        {\sum_{j \ne i} e^{\cos(z_i, k_j) / \tau}}

    Args:
        z: Embeddings of this process, ``(B, D)``.
        labels: Labels of the keys ``(M, C)``, rows sum to 1, such as :func:`smooth_labels` makes;
            those of ``z`` are in the rows from ``offset`` on.
        keys: See :func:`suncet_loss`, like the other arguments.
        temperature: :math:`\tau` > 0.
        offset: Row of ``keys`` that is row 0 of ``z``.

    Returns:
        Scalar in nats, float32 at least.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(soft_suncet_loss(z, torch.eye(2).repeat(2, 1), temperature=1.0).item(), 4)
        0.5514
    """
    logits, _ = _logits(z, keys, temperature, offset)
    with full_precision(z):
        probs = logits.softmax(dim=1) @ labels.to(logits)
    own = labels[offset : offset + len(z)].to(logits)
    # A class that is nowhere has probability and label 0.
    return -(own * probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(dim=1).mean()


def pseudo_label_graph(
    probs: Tensor, key_probs: Tensor | None = None, *, threshold: float = 0.8, offset: int = 0
) -> Tensor:
    r"""CoMatch's graph: how alike pseudo-labels are, an image being wholly like itself.

    .. math::
        W_{ij} = \frac{\hat W_{ij}}{\sum_k \hat W_{ik}}, \qquad
        \hat W_{ii} = 1, \quad \hat W_{ij} = q_i q_j \; \mathbb{1}[q_i q_j \ge T]

    Reference: Li et al., 2021, https://arxiv.org/abs/2011.11183, sec. 3.

    Args:
        probs: Pseudo-labels q of this process's images ``(B, C)``, rows sum to 1.
        key_probs: Those of all processes ``(M, C)``; None for ``probs``.
        threshold: T in [0, 1].
        offset: Row of ``key_probs`` that is row 0 of ``probs``.

    Returns:
        ``(B, M)``, rows sum to 1, float32 at least.

    Example:
        >>> probs = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.1, 0.9]])
        >>> [round(value, 4) for value in pseudo_label_graph(probs)[0].tolist()]
        [0.5556, 0.4444, 0.0]
    """
    key_probs = probs if key_probs is None else key_probs
    with full_precision(probs):
        weights = promote(probs) @ promote(key_probs).T
    weights = weights.where(weights >= threshold, 0).masked_fill(
        _itself(probs, key_probs, offset), 1
    )
    return weights / weights.sum(dim=1, keepdim=True)


def _itself(rows: Tensor, keys: Tensor, offset: int) -> Tensor:
    """Where a row meets itself among the keys, ``(B, M)``, bool."""
    index = offset + torch.arange(len(rows), device=rows.device)
    return index[:, None] == torch.arange(len(keys), device=rows.device)


def _logits(
    z: Tensor, keys: Tensor | None, temperature: float, offset: int
) -> tuple[Tensor, Tensor]:
    """Similarities to all keys, -inf to a row's own; and where a row meets itself."""
    keys = z if keys is None else keys
    own = _itself(z, keys, offset)
    with full_precision(z):
        return (cosine(z, keys) / temperature).masked_fill(own, -torch.inf), own
