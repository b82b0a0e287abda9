"""The nearest class mean."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.losses import cosine, promote


def class_means(pool: Pool, *, temperature: float = 0.1) -> Transduced:
    r"""Softmax over the cosines to the classes' means.

    .. math:: p(x) = \operatorname{softmax}_c(\hat{x} \cdot \hat{\mu}_c / \tau), \quad
        \mu_c = \sum_{i: y_i = c} \hat{x}_i

    Args:
        pool: The features.
        temperature: :math:`\tau` > 0, in units of the cosine.

    Returns:
        The probabilities.
    """
    means = pool.labels.T.to(promote(pool.features)) @ functional.normalize(promote(pool.support))
    absent = (pool.labels.sum(dim=0) == 0).to(means.device)

    def classify(rows: Tensor) -> Tensor:
        logits = cosine(rows, means) / temperature
        return logits.masked_fill(absent, -torch.inf).softmax(dim=1)

    return Transduced(classify(pool.features), classify(pool.test))
