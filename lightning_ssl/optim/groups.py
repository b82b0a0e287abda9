"""Parameter groups: what decays, and how fast each layer learns."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def parameter_groups(
    module: nn.Module,
    scales: Mapping[nn.Parameter, float] | None = None,
    shortcut_norms: bool = False,
) -> list[dict[str, Any]]:
    """Split trainable parameters into kernels, which decay, and the rest, which do not.

    Kernels are parameters with two or more dimensions: convolution and linear weights, and also a
    transformer's position embedding and class token. Biases and norms have one.

    Args:
        module: Its parameters with ``requires_grad``, in the order of ``module.parameters()``;
            a shared parameter counts once.
        scales: Fractions of the learning rate in (0, 1]; 1 for parameters it does not name.
        shortcut_norms: Whether the weights of the norms in torchvision's shortcuts,
            ``downsample.1.weight``, decay, too: facebookresearch/suncet leaves out what is called
            ``bn``, which those are not.

    Returns:
        Groups for :func:`build_optimizer`, none empty: at most two of each scale, the largest scale
        first. ``decayed`` says which is which, also where the decay is 0, and ``lr_scale`` is the
        fraction.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        shortcut = shortcut_norms and name.endswith("downsample.1.weight")
        scale, decayed = (scales or {}).get(parameter, 1.0), parameter.ndim > 1 or shortcut
        new: dict[str, Any] = {"params": [], "decayed": decayed, "lr_scale": scale}
        if not decayed:
            new["weight_decay"] = 0.0
        groups.setdefault((scale, decayed), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]
