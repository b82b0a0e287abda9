"""What a backbone pools into features."""

from typing import Any

import torch
from torch import Tensor, nn


def features_and_map(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features, and the feature map that they are pooled from.

    Args:
        backbone: From :func:`~lightning_ssl.models.build_backbone`.
        images: Normalised images ``(B, C, H, W)``.

    Returns:
        Features ``(B, F)``, and the map ``(B, F, h, w)`` or, as timm's model has it, tokens
        ``(B, N, F)`` or channels last.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    model: Any = backbone
    if hasattr(model, "forward_features"):  # timm
        found = model.forward_features(images)
        return model.forward_head(found), found
    seen: list[Tensor] = []
    handle = model.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        features = model(images)
    finally:
        handle.remove()
    return features, seen[0]
