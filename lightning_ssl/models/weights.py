"""Warm start: take the weights of a checkpoint file, and say what did not fit."""

import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_ssl.models.adapters import is_added, plain_name
from lightning_ssl.models.suncet import rename_suncet

# What DistributedDataParallel and torch.compile put before every key.
_WRAPPERS = ("module.", "_orig_mod.")
# Where files keep a state dict; `teacher` and `student` are of DINO, of which the former is used.
_NESTED = ("state_dict", "model", "teacher", "student")
_NETWORK = "backbone."
_NAMED = 5  # tensors that a message names


def load_weights(
    module: nn.Module,
    path: str | PathLike[str],
    *,
    strict: bool = True,
    prefix: str = "",
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> list[str]:
    """Load the weights of a checkpoint file into a module.

    Nothing is loaded when an error is raised.

    Args:
        module: Takes the weights.
        path: Weights by ``torch.save`` or as safetensors: a Lightning checkpoint, a state dict, one
            below ``state_dict``, ``model``, ``teacher`` or ``student``, or a checkpoint of the
            original PAWS code (with an ``encoder``), whose tensors get the names ``backbone``,
            ``projection``, ``prediction`` and ``classifier``. ``module.`` and ``_orig_mod.`` before
            every key are removed. Weights of a network alone, as timm, torchvision and DINO publish
            them, go to the ``backbone`` of the module; what else they hold, such as their own
            classifier, is left out and named.
        strict: Whether every tensor of the module and of the file must fit, of a network alone
            every tensor of the ``backbone``; if not, those that fit by name and shape are loaded
            and the rest is named in a warning.
        prefix: Use only the file's keys that begin with it, without it, such as ``backbone.``.
        adapt: Turns what is used of the file into what is compared with the module.

    Returns:
        Names of the tensors that were loaded.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, nothing fits, or, with ``strict``, something does not.
    """
    state = _read(Path(path))
    # Adapters move the weights of a network to other names, and start anew unless the file has any.
    names = {plain_name(key): key for key in module.state_dict() if not is_added(key)}
    names |= {key: key for key in module.state_dict() if is_added(key) and key in state}
    held = module.state_dict()
    own = {name: held[key] for name, key in names.items() if isinstance(held[key], Tensor)}
    state = {plain_name(key): value for key, value in state.items()}
    theirs = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    alone = _of_network_alone(own, theirs)
    if alone:
        theirs = {f"{_NETWORK}{key}": value for key, value in theirs.items()}
        own = {key: value for key, value in own.items() if key.startswith(_NETWORK)}
    elif adapt is not None:
        theirs = adapt(theirs)
    shared = [key for key in own if key in theirs]
    fitting = [key for key in shared if own[key].shape == theirs[key].shape]
    report = _report(own, theirs, set(fitting))
    if not fitting:
        raise ValueError(f"Nothing in `weights` {str(path)!r} fits {_name(module)}.{report}")
    whole = alone and len(fitting) == len(own)
    if report and strict and not whole:
        raise ValueError(f"`weights` {str(path)!r} do not fit {_name(module)}.{report}")
    if report:
        warnings.warn(
            f"Loaded {len(fitting)} of {len(own)} tensors of {_name(module)} "
            f"from {str(path)!r}.{report}",
            stacklevel=2,
        )
    module.load_state_dict({names[key]: theirs[key] for key in fitting}, strict=False)
    return fitting


def _of_network_alone(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether a file has the names of a module's network without its prefix."""
    inside = sum(f"{_NETWORK}{key}" in own for key in theirs)
    return inside > sum(key in own for key in theirs)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a checkpoint file, got {str(path)!r}.")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        # It begins with the length of its header, which is JSON.
        if start[8:] == b"{":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind raises anything, KeyError for one
        raise ValueError(
            f"`weights` must be a checkpoint that torch.load opens with weights_only=True, or a "
            f"file of safetensors, got {str(path)!r}: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    parts = content if isinstance(content, Mapping) else {}
    is_suncet = isinstance(parts.get("encoder"), Mapping) and "state_dict" not in parts
    nested = ("encoder",) if is_suncet else _NESTED
    state = next((parts[key] for key in nested if isinstance(parts.get(key), Mapping)), parts)
    tensors = {
        key: value
        for key, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        found = tuple(content) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            "`weights` must be a file with a 'state_dict' or an 'encoder', or a state dict itself, "
            f"got {str(path)!r} with {found}."
        )
    tensors = _unwrap(tensors)
    return rename_suncet(tensors) if is_suncet else tensors


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _report(own: dict[str, Tensor], theirs: dict[str, Tensor], fitting: set[str]) -> str:
    """One line per kind of misfit, empty if all is well."""
    lines = {
        "missing in the file": [key for key in own if key not in theirs],
        "unexpected in the file": [key for key in theirs if key not in own],
        "of another shape": [
            f"{key} {tuple(theirs[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in theirs and key not in fitting
        ],
    }
    return "".join(f"\n  {kind}: {_some(keys)}" for kind, keys in lines.items() if keys)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{', '.join(keys[:_NAMED])}{more}"


def _name(module: nn.Module) -> str:
    return type(module).__name__
