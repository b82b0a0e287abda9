"""RoPAWS: predictions that also weigh unlabelled neighbours and doubt what is far from labels."""

import math

import torch
from torch import Tensor

from lightning_ssl.losses.basic import full_precision
from lightning_ssl.losses.neighbors import cosine


def ropaws_probs(
    queries: Tensor,
    support: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    prior_temperature: float = 3.0,
    label_ratio: float = 5.0,
) -> tuple[Tensor, Tensor]:
    r"""Probabilities of classes by kernel densities over labelled and unlabelled images.

    With cosines :math:`A` to the support and :math:`U` among the queries (none to itself),

    .. math::
        [C_L | C_U] = \operatorname{diag}(\omega)
        \operatorname{softmax}([A / \tau + \ln r \,|\, U / \tau]), \quad
        \omega_i = e^{(\max_j A_{ij} - 1) / \tau_{prior}}, \quad P = (I - C_U)^{-1} C_L Y

    :math:`r` is ``label_ratio`` times M / N. A row of P sums to the belief that its image is of a
    known class; the rest is spread evenly over the classes that have a label.

    Reference: Mo et al., 2023, https://arxiv.org/abs/2302.14483, sec. 3; facebookresearch/suncet
    pull request 37, which takes other sizes for M and N, see docs/methods/ropaws.md.

    Args:
        queries: Embeddings of one view of the unlabelled images of all processes, ``(M, D)``.
        support: Embeddings of labelled images, ``(N, D)``.
        labels: Label of each support, ``(N, C)``, rows sum to 1.
        temperature: :math:`\tau` > 0.
        prior_temperature: :math:`\tau_{prior}` > 0: the larger, the less is doubted.
        label_ratio: Weight of all labelled images together relative to all unlabelled ones.

    Returns:
        Probabilities ``(M, C)``, rows sum to 1, and beliefs ``(M,)`` in [0, 1]; float32 at least.

    Example:
        >>> support, labels = torch.eye(2), torch.eye(2)
        >>> probs, known = ropaws_probs(torch.tensor([[0.0, 2.0]]), support, labels)
        >>> round(probs[0, 1].item(), 4), known.item()
        (1.0, 1.0)
    """
    to_support, to_queries = cosine(queries, support), cosine(queries, queries)
    with full_precision(queries):
        labels = labels.to(to_support)
        ratio = label_ratio * len(queries) / len(support)
        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        near = (to_queries / temperature).masked_fill(own, -torch.inf)
        logits = torch.cat([to_support / temperature + math.log(ratio), near], dim=1)
        prior = ((to_support.amax(dim=1, keepdim=True) - 1) / prior_temperature).exp()
        labeled, unlabeled = (logits.softmax(dim=1) * prior).split(
            [len(support), len(queries)], dim=1
        )
        # `solve` would make the host wait to learn that a matrix with rows below 1 is regular.
        known_mass = torch.linalg.solve_ex(own.to(unlabeled) - unlabeled, labeled @ labels)[0]
        belief = known_mass.sum(dim=1).clamp(max=1)  # rounding may lead beyond
        present = (labels.amax(dim=0) > 0).to(labels)
        rest = (1 - belief)[:, None] * present / present.sum()
    return known_mass + rest, belief
