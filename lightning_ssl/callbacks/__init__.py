"""Callbacks: averaged weights, checkpoints, embeddings, metrics, predictions, progress, reports."""

from lightning_ssl.callbacks.checkpoint import RunCheckpoint
from lightning_ssl.callbacks.checks import RunChecks
from lightning_ssl.callbacks.ema import EMA
from lightning_ssl.callbacks.embeddings import Embeddings
from lightning_ssl.callbacks.metrics_file import MetricsFile
from lightning_ssl.callbacks.prediction import PredictionWriter
from lightning_ssl.callbacks.progress import UpdateProgressBar
from lightning_ssl.callbacks.projection import ProjectionPlot
from lightning_ssl.callbacks.report import Report
from lightning_ssl.callbacks.termination import Termination

__all__ = (
    "EMA",
    "Embeddings",
    "MetricsFile",
    "PredictionWriter",
    "ProjectionPlot",
    "Report",
    "RunCheckpoint",
    "RunChecks",
    "Termination",
    "UpdateProgressBar",
)
