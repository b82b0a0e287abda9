"""vMF-SNE: embeddings whose neighbourhoods are those of other features."""

import math

import torch
from torch import Tensor

from lightning_ssl.losses.basic import full_precision, promote
from lightning_ssl.losses.neighbors import cosine

# Cosines of float32 have no differences for concentrations beyond, and below all rows are alike.
_CONCENTRATIONS = (1e-3, 1e6)
_ROUNDS = 40  # 2e-11 of the logarithm's range of 21
_SMALLEST = 1e-20


def vmf_neighbors(
    queries: Tensor, keys: Tensor, *, perplexity: float = 30.0, offset: int = 0
) -> tuple[Tensor, Tensor]:
    r"""How probable each row finds the others, with as many neighbours for each.

    .. math:: P_{ij} = \operatorname{softmax}_{j \ne i} (\kappa_i \cos(x_i, x_j)), \quad
        H(P_i) = \ln \text{perplexity}

    The concentration :math:`\kappa_i` is found by bisection of its logarithm within fixed bounds,
    so that nothing of an earlier step decides it. No gradient flows.

    Reference: https://arxiv.org/abs/2311.17093; its code starts each search from the mean of the
    step before.

    Args:
        queries: Rows of ``keys`` in question, ``(M, D)``, any real.
        keys: ``(N, D)``.
        perplexity: Effective number of neighbours, at least 1 and below N - 1.
        offset: Row of ``keys`` that the first query is; the others follow.

    Returns:
        :math:`P` ``(M, N)``, 0 at a query's own row, rows sum to 1; :math:`\kappa` ``(M,)``. Both
        float32 at least.

    Raises:
        ValueError: If there are too few keys.

    Example:
        >>> p, kappa = vmf_neighbors(torch.eye(4)[:, :3], torch.eye(4)[:, :3], perplexity=2.0)
        >>> p[0].tolist()
        [0.0, 0.3333333432674408, 0.3333333432674408, 0.3333333432674408]
    """
    if not 1 <= perplexity < len(keys) - 1:
        raise ValueError(
            f"`perplexity` must be at least 1 and below {len(keys) - 1}, the other views of a step "
            f"of all processes, got {perplexity}."
        )
    own = torch.arange(offset, offset + len(queries), device=queries.device)
    with torch.no_grad(), full_precision(queries):
        cosines = cosine(queries, keys)
        is_own = own[:, None] == torch.arange(len(keys), device=keys.device)
        # Relative to the nearest, so that nothing overflows.
        cosines = cosines.masked_fill(is_own, -math.inf)
        cosines = (cosines - cosines.amax(dim=1, keepdim=True)).masked_fill(is_own, 0)

        def weigh(kappa: Tensor) -> tuple[Tensor, Tensor]:
            weights = (kappa * cosines).exp_().masked_fill_(is_own, 0)
            return weights, weights.sum(dim=1, keepdim=True)

        low, high = (cosines.new_full((len(queries), 1), math.log(c)) for c in _CONCENTRATIONS)
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            kappa = middle.exp()
            weights, total = weigh(kappa)
            mean = (weights * cosines).sum(dim=1, keepdim=True) / total
            too_even = total.log() - kappa * mean > math.log(perplexity)
            low, high = torch.where(too_even, middle, low), torch.where(too_even, high, middle)
        kappa = ((low + high) / 2).exp()
        weights, total = weigh(kappa)
        return weights / total, kappa[:, 0]


def vmf_sne_loss(embeddings: Tensor, neighbors: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""Divergence of the embeddings' neighbourhoods from given ones, both made symmetric.

    .. math::
        \sum_{ij} P_{ij} \ln \frac{P_{ij}}{Q_{ij}}, \quad
        Q_{ij} \propto q_{ij} + q_{ji}, \quad
        q_{ij} = \operatorname{softmax}_{j \ne i} (\cos(z_i, z_j) / \tau), \quad
        P_{ij} \propto p_{ij} + p_{ji}

    Q is 1e-20 at least.

    Reference: https://arxiv.org/abs/2311.17093.

    Args:
        embeddings: Those that learn, ``(N, D)``, any real; the rows of all processes.
        neighbors: :math:`p`, ``(N, N)``, see :func:`vmf_neighbors`; no gradient flows through it.
        temperature: :math:`\tau` > 0, in units of the cosine.

    Returns:
        Scalar in nats, at least 0, float32 at least.

    Example:
        >>> p, _ = vmf_neighbors(torch.eye(4), torch.eye(4), perplexity=2.0)
        >>> abs(round(vmf_sne_loss(torch.eye(4), p).item(), 4))
        0.0
    """
    p = promote(neighbors.detach())
    with full_precision(embeddings):
        logits = cosine(embeddings, embeddings) / temperature
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        q = logits.masked_fill(own, -math.inf).softmax(dim=1)
        p, q = ((part + part.T) / (part.sum() * 2) for part in (p, q))
        losses: Tensor = torch.special.xlogy(p, p) - p * q.clamp_min(_SMALLEST).log()
        return losses.sum()
