"""What stored features depend on, as plain values, and the key that is their digest."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.augment import Custom, Transform
from lightning_ssl.data.sources.images import FileImages, Images, ResidentImages
from lightning_ssl.records import NOT_PLAIN, plain

FORMAT = 1  # of the files, and of the draws and operations of `augment`
_OWN = "lightning_ssl."


def key_of(fields: Mapping[str, Any]) -> str:
    """Digest of plain values.

    Args:
        fields: What the features depend on.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Names of the values in which two nested dicts and lists differ.

    Args:
        one: Plain values.
        other: Others.
        path: Where in larger ones they stand.

    Example:
        >>> list(differing({"size": 32, "crop": {"p": 1}}, {"size": 32, "crop": {"p": 0.5}}))
        ['crop.p']
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from differing(one.get(name), other.get(name), f"{path}.{name}".strip("."))
    elif _holds_dicts(one) and _holds_dicts(other) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from differing(*pair, f"{path}.{place}".strip("."))
    elif one != other:
        yield path


def _holds_dicts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def describe_network(
    backbone: nn.Module, name: Any, options: Any, precision: str
) -> dict[str, Any]:
    """Fields of a network; where its weights came from is all the same.

    Args:
        backbone: The network.
        name: Its name; other than text for a module of the user's own.
        options: Its further arguments.
        precision: In which it computes.
    """
    known = {k: v for k, v in (options or {}).items() if not k.startswith("pretrained")}
    return {
        "backbone": name if isinstance(name, str) else _class_path(type(backbone)),
        "backbone_args": plain(known),
        "weights": _digest_state(backbone.state_dict()),
        "precision": precision,
    }


def _digest_state(state: Mapping[str, Tensor]) -> str:
    found = hashlib.blake2b(digest_size=12)
    for name, value in sorted(state.items()):
        found.update(repr((name, tuple(value.shape), str(value.dtype))).encode())
        values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(values.numpy().data)
    return found.hexdigest()


def digest_images(images: Images, root: str) -> str:
    """Tell lists of images apart: by path, size and time of the files, or by pixels in RAM.

    Args:
        images: The images.
        root: Folder that paths are relative to, so that it can be moved.
    """
    found = hashlib.blake2b(digest_size=12)
    if isinstance(images, ResidentImages):
        found.update(repr(tuple(images.pixels.shape)).encode())
        found.update(images.pixels.contiguous().numpy().reshape(-1).data)
        return found.hexdigest()
    assert isinstance(images, FileImages)
    for index, path in enumerate(images.paths):
        try:
            status = os.stat(path)
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # it is broken, which is found when it is decoded
            state = (-1, -1)
        found.update(repr((images.name_below(root, index), *state)).encode())
    return found.hexdigest()


def describe_view(name: str, transform: Transform) -> dict[str, Any]:
    """Fields of a view: its transforms with all their values.

    Args:
        name: The view.
        transform: What makes it.

    Raises:
        ValueError: If that holds a function of the user's own, of which two cannot be told apart.
    """
    described = _describe(transform)
    if described is NOT_PLAIN:
        raise ValueError(
            f"`data.views` must not give a function of your own for '{name}' with "
            "`data.cached_features`: nobody could tell when it has changed. Give transforms of "
            "lightning_ssl.augment, or train on images."
        )
    return {"format": FORMAT, "transform": described}


def _describe(value: Any) -> Any:
    """Plain values that tell one transform from another; NOT_PLAIN where that cannot be."""
    if isinstance(value, Custom):
        return NOT_PLAIN
    if isinstance(value, nn.Module):
        inner = {k: v for k, v in vars(value).items() if k not in _MODULE}
        inner |= {**dict(value.named_children()), **dict(value.named_buffers(recurse=False))}
        return _with_class(_class_path(type(value)), inner)
    if isinstance(value, partial):
        inner = {"function": value.func, "args": list(value.args), **value.keywords}
        return _with_class("partial", inner)
    if isinstance(value, Tensor):
        return _digest_state({"": value})
    if isinstance(value, list | tuple):
        items = [_describe(item) for item in value]
        return NOT_PLAIN if any(item is NOT_PLAIN for item in items) else items
    if callable(value):
        path = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '<')}"
        return path if path.startswith(_OWN) and "<" not in path else NOT_PLAIN
    return plain(value)


def _with_class(path: str, inner: Mapping[str, Any]) -> Any:
    values = {name: _describe(value) for name, value in inner.items()}
    hidden = any(value is NOT_PLAIN for value in values.values())
    return NOT_PLAIN if hidden else {"class": path, **values}


_MODULE = {*vars(nn.Module()), "takes_uint8"}


def _class_path(class_: type) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"
