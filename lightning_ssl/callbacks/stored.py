"""What a checkpoint, which may be anyone's, must not decide: which code runs, what is fetched."""

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml
from lightning_fabric.utilities.cloud_io import get_filesystem
from pytorch_lightning import LightningModule

from lightning_ssl.models import is_packaged

# Whose classes do nothing but compute.
_PARTS = ("torch.nn.", "lightning_ssl.augment.", "lightning_ssl.optim.")

# What timm reads weights from; those of the checkpoint come after and would replace them.
_SOURCES = ("pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
_PLACES = ("source", "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename")


def without_downloads(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a method that build its network without other weights, from a file or the web.

    Args:
        options: Its constructor's arguments; those that it lacks are not added.
    """
    out = dict(options)
    if out.get("weights") is not None:
        out["weights"] = None
    network = out.get("backbone_args")
    if isinstance(network, Mapping):
        kept = {name: value for name, value in network.items() if name not in _SOURCES}
        # Adapters need the weights that they adapt; those of a package are on this machine.
        if kept.get("pretrained") and not (out.get("adapter") and is_packaged(out.get("backbone"))):
            kept["pretrained"] = False
        if isinstance(kept.get("pretrained_cfg"), Mapping):
            form = kept["pretrained_cfg"].items()
            kept["pretrained_cfg"] = {n: value for n, value in form if n not in _PLACES}
        out["backbone_args"] = kept
    return out


def check_network(options: Mapping[str, Any]) -> None:
    """Refuse a network whose very shape is read from a hub or a folder.

    Args:
        options: Arguments of a method's constructor, from a checkpoint.

    Raises:
        ValueError: If its ``backbone`` is such a one.
    """
    name = options.get("backbone")
    if isinstance(name, str) and ":" in name:
        raise ValueError(
            f"`ckpt_path` is of the network '{name}', which is described by a hub or a folder and "
            f"must be named by you: give --model.backbone {name}, or in Python `backbone`."
        )


def open_for(
    method: type[LightningModule], path: Any, given: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """See that a checkpoint is of a method, before this is built from it.

    Args:
        method: The class.
        path: A file, an address or an open file.
        given: Options of Lightning's ``load_from_checkpoint``, which say how to open it, and
            arguments of the method in place of the checkpoint's.

    Returns:
        What the checkpoint is to be loaded from, and ``given`` with the arguments that the
        checkpoint must not decide.

    Raises:
        ValueError: If another method wrote it, or it would run code or ask a hub.
    """
    source = path
    if isinstance(path, str) and "://" in path:
        with get_filesystem(path).open(path, "rb") as file:
            source = io.BytesIO(file.read())
    is_file = isinstance(source, str | os.PathLike)
    checkpoint = torch.load(
        source, map_location="cpu", weights_only=given.get("weights_only", True), mmap=is_file
    )
    if hasattr(source, "seek"):
        source.seek(0)
    check_is_of(method, checkpoint)
    recorded = checkpoint.get(method.CHECKPOINT_HYPER_PARAMS_KEY, {})
    check_options(recorded, f"{method.__module__}.{method.__qualname__}")
    safe = {**without_downloads(recorded), **given}
    check_network({name: value for name, value in safe.items() if name not in given})
    changed = {name: v for name, v in safe.items() if name in given or v is not recorded[name]}
    return source, changed


def check_is_of(method: type[LightningModule], checkpoint: Mapping[str, Any]) -> None:
    """See that a checkpoint is of a method.

    Args:
        method: The class.
        checkpoint: What was loaded.

    Raises:
        ValueError: If another method wrote it.
    """
    own = method.__name__
    found = str(checkpoint.get("method", own)).rpartition(".")[2]
    if found != own:
        raise ValueError(
            f"`ckpt_path` must be a checkpoint of {own}, got one of {found}. "
            "To start from its network use `model.weights`."
        )


def check_options(options: Any, method: str) -> None:
    """Refuse options that would make objects of any class: the parser would build what they name.

    Args:
        options: Of a checkpoint, nested.
        method: Class path of its method, which has been checked.

    Raises:
        ValueError: If there is such a class.
    """
    package = method.partition(".")[0]
    allowed = _PARTS if package in ("", "lightning_ssl") else (*_PARTS, f"{package}.")
    for found in _class_paths(options):
        if not found.startswith(allowed):
            raise ValueError(
                "`ckpt_path` must hold options of plain values or of classes of "
                f"{', '.join(name.rstrip('.') for name in allowed)}, got the class '{found}'."
            )


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        value = _as_config(value)
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _class_paths(item)


def _as_config(text: str) -> Any:
    """What the parser may read a text as: YAML, or a file of it."""
    try:
        if os.path.isfile(text) and os.path.getsize(text) < 2**20:
            with open(text, encoding="utf-8", errors="replace") as file:
                found = yaml.safe_load(file)
        else:
            found = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError):
        return None
    return None if isinstance(found, str) else found
