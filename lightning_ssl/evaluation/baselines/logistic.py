"""Logistic regression on the labelled rows."""

import torch
from torch import Tensor

from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.evaluation.probe import LinearProbe, deal_out, logistic_regression

STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def logistic(pool: Pool, *, c: float | None = None) -> Transduced:
    """Multinomial logistic regression with a squared penalty, on standardised features.

    Args:
        pool: The features.
        c: Inverse strength of the penalty, above 0; None for that of :func:`choose_strength`.

    Returns:
        The probabilities, float64.
    """
    if c is None:
        c = choose_strength(pool.support, pool.target)
    probe = fit_logistic(pool.support, pool.target, pool.num_classes, c)
    return Transduced(probe.probabilities(pool.features), probe.probabilities(pool.test))


def fit_logistic(features: Tensor, target: Tensor, num_classes: int, c: float) -> LinearProbe:
    """Fit :func:`lightning_ssl.evaluation.probe.logistic_regression` where classes may be missing.

    Args:
        features: ``(N, F)``.
        target: Classes ``(N,)``, int64 in ``[0, num_classes)``, two of them at least.
        num_classes: Number of classes C.
        c: Inverse strength of the penalty, above 0.

    Returns:
        The classifier of C classes, float64 and on the features' device; those that are missing
        have the bias minus infinity, probability 0.
    """
    classes, places = target.unique(return_inverse=True)
    found = logistic_regression(features, places, c)
    weight = found.weight.new_zeros(num_classes, features.shape[1])
    bias = found.bias.new_full((num_classes,), -torch.inf)
    weight[classes.cpu()], bias[classes.cpu()] = found.weight, found.bias
    return LinearProbe(weight.to(features.device), bias.to(features.device))


def choose_strength(features: Tensor, target: Tensor) -> float:
    """Find the penalty with which left-out labelled rows are classified best.

    Cross-validation in up to five parts, the rows of each class dealt out in turn, over the inverse
    strengths 0.001, 0.01, 0.1 and 1; of equally good ones the smallest.

    Args:
        features: Features of the labelled rows ``(L, F)``.
        target: Their classes ``(L,)``, int64, two of them at least.

    Returns:
        One of them; 0.01 where a class has a single row.
    """
    counts = torch.bincount(target)
    folds = min(5, int(counts[counts > 0].min()))
    if folds < 2:
        return 0.01
    part = deal_out(target, folds)
    right = [0.0] * len(STRENGTHS)
    for fold in range(folds):
        kept, left = part != fold, part == fold
        for number, strength in enumerate(STRENGTHS):
            probe = fit_logistic(features[kept], target[kept], len(counts), strength)
            right[number] += probe.accuracy(features[left], target[left]) * int(left.sum())
    # Rounded, as the sums of shares are not whole.
    return STRENGTHS[max(range(len(STRENGTHS)), key=lambda number: round(right[number]))]
