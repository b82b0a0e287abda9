"""What each stage of a backbone knows, as vectors of bounded length."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool1d, adaptive_max_pool2d

_STEMS = ("stem", "maxpool", "conv1")


def stage_features(
    backbone: nn.Module, images: Tensor, max_features: int = 9000
) -> dict[str, Tensor]:
    """Outputs of the stages of a backbone, and its pooled features.

    A map with more values than allowed is max-pooled to the largest square that fits, as in
    https://arxiv.org/abs/1901.09005; tokens likewise, along their sequence.

    Args:
        backbone: From :func:`~lightning_ssl.models.build_backbone`.
        images: Normalised images ``(B, C, H, W)``.
        max_features: Largest number of values of a stage; one per channel always remains.

    Returns:
        Name of the stage to its values ``(B, F)``, from the input to the output: ``stem``,
        ``stage1``, … or the names of timm, and last ``features``.

    Raises:
        ValueError: If the backbone has no stages that can be told, or one returns several tensors.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, channels: int | None) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(
                    "`backbone` must have stages that return one tensor each, got a "
                    f"{type(output).__name__} from {type(backbone).__name__}'s {name!r}."
                )
            # Here and now: a layer that follows may work in place.
            found[name] = _pool(output, channels, max_features)

        return hook

    handles = [
        module.register_forward_hook(keep(name, channels))
        for name, (module, channels) in _stages(backbone).items()
    ]
    try:
        features = backbone(images.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    return {**found, "features": features}


def _stages(backbone: nn.Module) -> Mapping[str, tuple[nn.Module, int | None]]:
    """Stages by name, with their channels where those may come last."""
    info: Any = getattr(backbone, "feature_info", None)
    if info is not None:  # timm
        return {i["module"]: (backbone.get_submodule(i["module"]), i["num_chs"]) for i in info}
    children = dict(backbone.named_children())
    stem = next((children[name] for name in _STEMS if name in children), None)
    if stem is None:
        raise ValueError(
            f"`backbone` must be of timm or have a child named one of {_STEMS}, got "
            f"{type(backbone).__name__} with {tuple(children)}."
        )
    # Some of our own networks hold their stages in a sequence; others, like torchvision, do not.
    sequence = children.get("groups") or children.get("stages")
    if isinstance(sequence, nn.Sequential):
        stages = [*sequence]
    else:
        stages = [module for name, module in children.items() if name.startswith("layer")]
    named = {"stem": stem} | {f"stage{i}": stage for i, stage in enumerate(stages, start=1)}
    return {name: (module, None) for name, module in named.items()}


def _pool(output: Tensor, channels: int | None, max_features: int) -> Tensor:
    if output.ndim == 2:
        return output
    if channels is not None and output.shape[1] != channels:  # tokens, or channels that come last
        output = output.movedim(-1, 1)
    fitting = max(1, max_features // output.shape[1])
    if output.ndim == 3:
        if output.shape[2] > fitting:
            output = adaptive_max_pool1d(output, fitting)
    elif output.shape[2] * output.shape[3] > fitting:
        output = adaptive_max_pool2d(output, math.isqrt(fitting))
    return output.flatten(1)
