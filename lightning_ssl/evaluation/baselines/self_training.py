"""Logistic regression that learns from its own surest predictions."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_ssl.evaluation.baselines.logistic import choose_strength, fit_logistic
from lightning_ssl.evaluation.baselines.pool import Pool, Transduced

SHARES = (0.2, 0.4, 0.6, 0.8)


def self_training(
    pool: Pool, *, shares: Sequence[float] = SHARES, copies: int = 5, c: float | None = None
) -> Iterator[Transduced]:
    """Logistic regression, refit in rounds on its surest predictions and on the labels.

    In each round the unlabelled rows that the last fit is surest of become labels, equally many of
    each class, and a new fit starts from them and from the true labels. :func:`most_confident` says
    which.

    Args:
        pool: The features.
        shares: Share of the unlabelled rows that become labels in each round, in (0, 1].
        copies: How often a true label counts.
        c: Inverse strength of the penalty, above 0; None for that of
            :func:`lightning_ssl.evaluation.baselines.logistic.choose_strength`.

    Yields:
        The probabilities after each round, float64.
    """
    support, target, classes = pool.support, pool.target, pool.num_classes
    unlabeled = pool.unlabeled
    if c is None:
        c = choose_strength(support, target)
    probe = fit_logistic(support, target, classes, c)
    for share in shares:
        probs = probe.probabilities(pool.features[unlabeled])
        count = round(share * len(unlabeled) / len(pool.classes))
        places, guesses = most_confident(probs, pool.classes, count)
        features = torch.cat([support.repeat(copies, 1), pool.features[unlabeled[places]]])
        probe = fit_logistic(features, torch.cat([target.repeat(copies), guesses]), classes, c)
        yield Transduced(probe.probabilities(pool.features), probe.probabilities(pool.test))


def most_confident(probs: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose the rows that are most probable for each class among those predicted as it.

    Args:
        probs: Probabilities ``(U, C)``.
        classes: Which classes are chosen for, int64.
        count: Rows of each class; all of them, where fewer are predicted as it.

    Returns:
        Rows ``(K,)``, int64, and their classes ``(K,)``, int64; of equally probable ones the first.
    """
    confidence, guess = probs.max(dim=1)
    order = confidence.argsort(descending=True, stable=True)
    chosen = torch.cat([order[guess[order] == c][:count] for c in classes])
    return chosen, guess[chosen]
