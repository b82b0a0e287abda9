"""Backbones, heads and warm starts."""

from lightning_ssl.models.backbones import build_backbone
from lightning_ssl.models.heads import LinearHead, MLPHead
from lightning_ssl.models.weights import load_weights
from lightning_ssl.models.wide_resnet import WideResNet

__all__ = ["LinearHead", "MLPHead", "WideResNet", "build_backbone", "load_weights"]
