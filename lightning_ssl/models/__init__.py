"""Backbones, heads and warm starts."""

from lightning_ssl.models.adapters import (
    base_state,
    digest_of,
    is_adapted,
    merge_adapters,
    set_mode,
)
from lightning_ssl.models.backbones import build_backbone
from lightning_ssl.models.heads import LinearHead, MLPHead, PredictionHead, ProjectionHead
from lightning_ssl.models.layers import layer_scales
from lightning_ssl.models.maps import features_and_map
from lightning_ssl.models.network import build_network, pass_together
from lightning_ssl.models.paws_wide_resnet import PAWSWideResNet
from lightning_ssl.models.preact_resnet import PreActResNet50
from lightning_ssl.models.pretrained import backbone_inputs, is_packaged, weights_licence
from lightning_ssl.models.resnet_v2 import ResNet20V2
from lightning_ssl.models.statistics import evaluating, keep_statistics
from lightning_ssl.models.weights import load_weights
from lightning_ssl.models.wide_resnet import WideResNet

__all__ = [
    "LinearHead",
    "MLPHead",
    "PAWSWideResNet",
    "PreActResNet50",
    "PredictionHead",
    "ProjectionHead",
    "ResNet20V2",
    "WideResNet",
    "backbone_inputs",
    "base_state",
    "build_backbone",
    "build_network",
    "digest_of",
    "evaluating",
    "features_and_map",
    "is_adapted",
    "is_packaged",
    "keep_statistics",
    "layer_scales",
    "load_weights",
    "merge_adapters",
    "pass_together",
    "set_mode",
    "weights_licence",
]
