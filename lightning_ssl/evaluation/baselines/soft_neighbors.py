"""Soft nearest neighbours among the labelled rows."""

import torch
from torch import Tensor

from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.evaluation.neighbors import classify_by_neighbors
from lightning_ssl.losses import cosine

TEMPERATURES = (0.02, 0.05, 0.1, 0.2)


def soft_neighbors(pool: Pool, *, temperature: float | None = None) -> Transduced:
    """Classes of the labelled rows, weighted by similarity.

    Formula: :func:`lightning_ssl.losses.soft_nearest_neighbors`.

    Args:
        pool: The features.
        temperature: Above 0, in units of the cosine; None for that of :func:`choose_temperature`.

    Returns:
        The probabilities.
    """
    if temperature is None:
        temperature = choose_temperature(pool.support, pool.target, pool.num_classes)
    train, test = (
        classify_by_neighbors(
            rows, pool.support, pool.target, pool.num_classes, temperature=temperature
        )
        for rows in (pool.features, pool.test)
    )
    return Transduced(train, test)


def choose_temperature(support: Tensor, target: Tensor, num_classes: int) -> float:
    r"""Find the temperature that makes labelled rows most likely to each other.

    The smallest mean of :math:`-\log \pi(x_i)_{y_i}`, each row classified by all others, over 0.02,
    0.05, 0.1 and 0.2.

    Args:
        support: Features of the labelled rows ``(L, F)``.
        target: Their classes ``(L,)``, int64 in ``[0, num_classes)``.
        num_classes: Number of classes.

    Returns:
        One of them; 0.1 where no class has two rows. Rows that are alone in their class are left
        out, because no temperature makes them likely.
    """
    counts = torch.bincount(target, minlength=num_classes)
    rows = (counts[target] > 1).nonzero().flatten()
    if not len(rows):
        return 0.1
    losses = [0.0] * len(TEMPERATURES)
    for part in rows.split(256):
        cosines = cosine(support[part], support).double()
        cosines[torch.arange(len(part)), part] = -torch.inf
        same = target[part, None] == target
        for number, temperature in enumerate(TEMPERATURES):
            logs = (cosines / temperature).log_softmax(dim=1)
            losses[number] -= float(logs.masked_fill(~same, -torch.inf).logsumexp(dim=1).sum())
    return TEMPERATURES[losses.index(min(losses))]
