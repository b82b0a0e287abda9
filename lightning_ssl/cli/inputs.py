"""Images as a pretrained network wants them, where the user does not say otherwise."""

from typing import Any

from lightning_ssl.cli.checkpoint import DATA
from lightning_ssl.models import backbone_inputs


def follow_network(config: Any) -> None:
    """Give the data the size, crop, interpolation, mean and deviation of pretrained weights.

    Args:
        config: Options of a subcommand as parsed; what those of the data leave open is filled in.
    """
    method, data = config.model.get("init_args") or {}, config.data.get("init_args") or {}
    name, options = method.get("backbone"), method.get("backbone_args") or {}
    if config.data.get("class_path") != DATA or not isinstance(name, str):
        return
    if not options.get("pretrained"):
        return
    for key, value in backbone_inputs(name, options, data["in_channels"]).items():
        chosen = key in ("mean", "std") and data["normalize"] != "dataset"
        if data[key] is None and not chosen:
            data[key] = value
