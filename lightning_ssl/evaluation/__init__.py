"""Metrics and classifiers that know no method."""

from lightning_ssl.evaluation.metrics import evaluation_metrics
from lightning_ssl.evaluation.neighbors import (
    SoftNearestNeighborAccuracy,
    SoftNearestNeighbors,
    classify_by_neighbors,
)

__all__ = (
    "SoftNearestNeighborAccuracy",
    "SoftNearestNeighbors",
    "classify_by_neighbors",
    "evaluation_metrics",
)
