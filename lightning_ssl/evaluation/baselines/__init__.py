"""Classifiers of frozen features that need seconds: the floor under every trained method."""

from collections.abc import Iterator

from lightning_ssl.evaluation.baselines.class_means import class_means
from lightning_ssl.evaluation.baselines.logistic import logistic
from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.evaluation.baselines.propagation import propagation
from lightning_ssl.evaluation.baselines.self_training import self_training
from lightning_ssl.evaluation.baselines.soft_neighbors import soft_neighbors
from lightning_ssl.evaluation.baselines.transclip import transclip


def run_baselines(pool: Pool) -> Iterator[tuple[str, Transduced]]:
    """Run all of them with their default options, the fastest first.

    Args:
        pool: The features.

    Yields:
        Names and what was found, as each is ready; a name for each round of self-training.
    """
    yield "class means", class_means(pool)
    yield "soft nearest neighbours", soft_neighbors(pool)
    yield "logistic regression", logistic(pool)
    yield "label propagation", propagation(pool)
    yield "TransCLIP without text", transclip(pool)
    for number, found in enumerate(self_training(pool), 1):
        yield f"self-training, round {number}", found


__all__ = (
    "Pool",
    "Transduced",
    "class_means",
    "logistic",
    "propagation",
    "run_baselines",
    "self_training",
    "soft_neighbors",
    "transclip",
)
