"""Callbacks: averaged weights, checkpoints, predictions, progress."""

from lightning_ssl.callbacks.checkpoint import RunCheckpoint
from lightning_ssl.callbacks.checks import RunChecks
from lightning_ssl.callbacks.ema import EMA
from lightning_ssl.callbacks.prediction import PredictionWriter
from lightning_ssl.callbacks.progress import UpdateProgressBar

__all__ = ("EMA", "PredictionWriter", "RunCheckpoint", "RunChecks", "UpdateProgressBar")
