"""Values that a checkpoint can hold, and the check that a run goes on with those it began with."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOT_PLAIN = object()
"""What :func:`plain` makes of a value that no checkpoint can hold."""


def plain(value: Any) -> Any:
    """A value as a checkpoint holds it, so that the file opens without unpickling objects.

    NumPy's numbers and arrays become Python's, paths become text, dataclasses and other mappings
    become dicts, also inside of others.

    Args:
        value: Any value.

    Returns:
        None, a number, a text, a tensor, or a list, tuple or dict of them; :data:`NOT_PLAIN` for
        any other object. An entry that is not plain is left out of a dict.
    """
    if value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {k: v for k, v in _plain_items(value) if v is not NOT_PLAIN}
    if isinstance(value, list | tuple | set | frozenset | range):
        items = [plain(item) for item in value]
        if any(item is NOT_PLAIN for item in items):
            return NOT_PLAIN
        return tuple(items) if isinstance(value, tuple) else items
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return plain(convert(value))
    is_object = is_dataclass(value) and not isinstance(value, type)
    return plain(asdict(value)) if is_object else NOT_PLAIN


def _plain_items(value: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    return ((plain(key), plain(item)) for key, item in value.items())


# Numbers and texts of classes of their own, as NumPy's, come last.
_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    ((np.ndarray, np.generic), lambda value: value.tolist()),
    (os.PathLike, os.fspath),
    (Enum, lambda value: value.value),
    *((kind, kind) for kind in (int, float, str)),
)


def check_same(group: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """See that a run goes on with the options it began with.

    Args:
        group: ``model``, ``data`` or ``trainer``.
        recorded: Plain options of the checkpoint.
        given: Plain options now; only those that both have are compared.

    Raises:
        ValueError: For the first one that differs.
    """
    for name, before in recorded.items():
        if name not in given or _same(before, given[name]):
            continue
        now = given[name]
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            inner = {**now, **before}
            name = next(f"{name}.{k}" for k in inner if not _same(before.get(k), now.get(k)))
            key = name.rpartition(".")[2]
            before, now = before.get(key), now.get(key)
        raise ValueError(
            f"`{group}.{name}` must be {_text(before)}, as when the run began, to go on from "
            f"`ckpt_path`, got {_text(now)}. For a new run that starts from its weights give "
            "--model.weights in place of --ckpt_path."
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):  # as on the command line
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
