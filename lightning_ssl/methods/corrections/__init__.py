"""Corrections for imbalanced classes: objects that a method has, with one interface."""

from lightning_ssl.methods.corrections.alignment import Alignment
from lightning_ssl.methods.corrections.balanced_head import ABCHead, BalancedClassifier
from lightning_ssl.methods.corrections.base import AskFeatures, Correction
from lightning_ssl.methods.corrections.build import CorrectionName, add_correction
from lightning_ssl.methods.corrections.logit_adjustment import LogitAdjustment
from lightning_ssl.methods.corrections.progressive_alignment import ProgressiveAlignment

__all__ = (
    "ABCHead",
    "Alignment",
    "AskFeatures",
    "BalancedClassifier",
    "Correction",
    "CorrectionName",
    "LogitAdjustment",
    "ProgressiveAlignment",
    "add_correction",
)
