"""TransCLIP without text: classes as Gaussians, neighbours that agree, a prior that holds."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.evaluation.neighbors import classify_by_neighbors, nearest_rows
from lightning_ssl.losses import promote

_SCALE = 50  # of the Gaussians against neighbours and prior, in the original's code
_ROUNDS, _STEPS = 10, 5  # of the Gaussians; of the assignments in each


class _Gaussians(NamedTuple):
    """Means of the classes ``(C, F)``, and one variance of each column ``(F,)``."""

    mean: Tensor
    variance: Tensor

    def logits(self, rows: Tensor) -> Tensor:
        """Logarithms of the densities, up to what all classes have in common."""
        precise = self.mean / self.variance
        return rows @ precise.T - (self.mean * precise).sum(dim=1) / 2


def transclip(
    pool: Pool,
    *,
    gamma: float = 0.002,
    prior_weight: float = 0.5,
    temperature: float = 0.05,
    neighbors: int = 3,
) -> Transduced:
    r"""Assignments of the unlabelled rows that fit Gaussian classes, their neighbours and a prior.

    .. math:: z_i \propto \hat{y}_i^\lambda \exp\Big( -\tfrac{1}{2 \cdot 50}
        \sum_d \frac{(x_{id} - \mu_{cd})^2}{\sigma_d^2}
        + \tfrac{1}{2k} \sum_j (w_{ij} + w_{ji}) z_j \Big)

    five times, then the means and the variance that all classes share from unlabelled rows of
    weight :math:`z_{ic} / n_q` and labelled ones of weight :math:`50 \gamma / n_s`; ten times over,
    and the assignments once more. Rows and means have unit norm, w is the cosine to the k nearest
    unlabelled rows, labelled rows take part with their label. The prior :math:`\hat{y}` is soft
    nearest neighbours, in place of CLIP's text. The start is the prior, the labelled means, and
    variances 1/F.

    New rows take one step with what was found, their k nearest among all training rows counting as
    if these had found them, too.

    Reference: Zanella, Gérin and Ben Ayed, 2024, https://arxiv.org/abs/2406.01837. Their code puts
    labelled rows first in w and last in z, so that neighbours are mixed up where there are labels;
    here they agree.

    Args:
        pool: The features.
        gamma: Weight of the labelled rows in the Gaussians, at least 0.
        prior_weight: :math:`\lambda` above 0.
        temperature: Of the prior, above 0, in units of the cosine.
        neighbors: k; all others, where there are fewer.

    Returns:
        The probabilities, float64.
    """
    features, test = (functional.normalize(promote(x)).double() for x in (pool.features, pool.test))
    queries, support = features[pool.unlabeled], features[pool.rows]
    labels = pool.labels.double()

    def prior(rows: Tensor) -> Tensor:
        return classify_by_neighbors(
            rows, support, pool.target, pool.num_classes, temperature=temperature
        )

    count = min(neighbors, len(queries) - 1)
    every = torch.arange(len(queries), device=queries.device)
    cosines, near = nearest_rows(queries, queries, count, own=every)
    from_labels = _send(*nearest_rows(support, queries, count), labels, len(queries))

    def agreement(z: Tensor) -> Tensor:
        found = _collect(cosines, near, z) + _send(cosines, near, z, len(queries)) + from_labels
        return found / (2 * count)

    z = prior(queries)
    log_prior = prior_weight * z.log()
    variance = torch.full_like(queries[0], 1 / queries.shape[1])
    gaussians = _Gaussians(functional.normalize(labels.T @ support), variance)
    rows = torch.cat([queries, support])
    weight = _SCALE * gamma / len(support) * labels
    for number in range(_ROUNDS + 1):
        fixed = log_prior + gaussians.logits(queries) / _SCALE
        for _ in range(_STEPS):
            z = (fixed + agreement(z)).softmax(dim=1)
        if number < _ROUNDS:
            gaussians = _fit(rows, torch.cat([z / len(queries), weight]))

    train = torch.empty(len(features), pool.num_classes, dtype=z.dtype, device=z.device)
    train[pool.unlabeled], train[pool.rows] = z, labels
    found = _collect(*nearest_rows(test, features, count), train) / count
    logits = prior_weight * prior(test).log() + gaussians.logits(test) / _SCALE + found
    return Transduced(train, logits.softmax(dim=1))


def _collect(cosines: Tensor, near: Tensor, z: Tensor) -> Tensor:
    """What each row finds at its neighbours, by their cosine."""
    return torch.einsum("nk,nkc->nc", cosines, z[near])


def _send(cosines: Tensor, near: Tensor, z: Tensor, size: int) -> Tensor:
    """What each of ``size`` rows gets from those whose neighbour it is, by their cosine."""
    sent = cosines[:, :, None] * z[:, None, :]
    return z.new_zeros(size, z.shape[1]).index_add(0, near.flatten(), sent.flatten(0, 1))


def _fit(rows: Tensor, weight: Tensor) -> _Gaussians:
    """Means and variance of rows ``(N, F)`` that belong to each class by a weight ``(N, C)``."""
    sums = weight.T @ rows
    mean = functional.normalize(sums)
    mass = weight.sum(dim=0)
    squares = weight.sum(dim=1) @ rows**2 - 2 * (sums * mean).sum(dim=0) + mass @ mean**2
    # A column that is zero everywhere says nothing.
    return _Gaussians(mean, (squares / mass.sum()).clamp_min(torch.finfo(rows.dtype).eps))
