"""Metrics on held-out images."""

from lightning_ssl.evaluation.metrics import evaluation_metrics

__all__ = ("evaluation_metrics",)
