"""Metrics and classifiers that know no method."""

from lightning_ssl.evaluation.metrics import count_right, evaluation_metrics
from lightning_ssl.evaluation.neighbors import (
    SoftNearestNeighborAccuracy,
    SoftNearestNeighbors,
    classify_by_neighbors,
)

__all__ = (
    "SoftNearestNeighborAccuracy",
    "SoftNearestNeighbors",
    "classify_by_neighbors",
    "count_right",
    "evaluation_metrics",
)
