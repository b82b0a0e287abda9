"""What a checkpoint knows, as a config that every flag can overrule."""

import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.callbacks.stored import check_network, check_options, without_downloads
from lightning_ssl.cli.trust import check_class, check_names
from lightning_ssl.methods import SSLModule

TRAINED_ON = ("num_labeled", "num_unlabeled", "class_counts", "image_side")
LINKED = ("num_classes", *TRAINED_ON, "in_channels", "image_std")
DATA = "lightning_ssl.data.SSLDataModule"
_VERSION = "pytorch-lightning_version"  # which Lightning asks for first


def known_to_checkpoint(
    path: str, predict: bool, named: Sequence[str] = (), backbone: str | None = None
) -> dict[str, Any]:
    """Config of the method and the data of a checkpoint.

    Args:
        path: The checkpoint.
        predict: Whether images are to be predicted; of the data only their form is then taken.
        named: Class paths of methods that the user gave, whose code may run.
        backbone: Network that the user gave in place of the checkpoint's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or one that would run code or ask a hub.
    """
    checkpoint = open_checkpoint(path)
    known: dict[str, Any] = {"seed_everything": checkpoint.get("seed", 0)}
    if "method" in checkpoint:
        arguments = _arguments(checkpoint, "hyper_parameters")
        init_args = {name: value for name, value in arguments.items() if name not in LINKED}
        check_class(checkpoint["method"], named)
        check_options(init_args, checkpoint["method"])
        check_names(init_args, named)
        init_args = without_downloads(init_args)
        if backbone is None:
            check_network(init_args)
        else:
            init_args["backbone"] = backbone  # which the parser would read before the flag
        known["model"] = {"class_path": checkpoint["method"], "init_args": init_args}
    record = checkpoint.get(DATA.rpartition(".")[2])
    if record is not None:
        form = ("classes", "image_size", "in_channels", "mean", "std")
        later = {name: record[name] for name in ("crop_pct", "interpolation") if name in record}
        data: dict[str, Any] = {"dataset": "folder"}
        if not predict:
            data = _arguments(checkpoint, "datamodule_hyper_parameters")
            data.pop("views", None)  # never recorded, and of classes
            check_options(data, "")
            data["seed"] = record["seed"]
        known["data"] = {
            "class_path": DATA,
            "init_args": {
                **data,
                **{name: record[name] for name in form},
                **later,
                "exif_orientation": record.get("exif_orientation", False),
            },
        }
    return known


def restore_method(known: Mapping[str, Any], path: str, **options: Any) -> SSLModule:
    """Build the method of a checkpoint, with its averaged weights.

    Args:
        known: What :func:`known_to_checkpoint` said of it.
        path: The checkpoint.
        **options: Arguments of the method in place of the checkpoint's.

    Returns:
        The method in evaluation mode, on the CPU.

    Raises:
        ValueError: If it lacks the method or the data, or its method cannot be imported.
    """
    if not {"model", "data"} <= set(known):
        raise ValueError(
            "`ckpt_path` must be a checkpoint of a method that was trained on an SSLDataModule, "
            f"got '{path}'."
        )
    class_path = known["model"]["class_path"]
    module, _, name = class_path.rpartition(".")
    try:
        method = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`ckpt_path` is of the method '{class_path}', which cannot be found."
        ) from error
    if not (isinstance(method, type) and issubclass(method, SSLModule)):
        raise ValueError(f"`ckpt_path` must be of a method, got one of '{class_path}'.")
    restored: SSLModule = method.load_from_checkpoint(path, map_location="cpu", **options)
    return restored.eval()


def trained_on(path: str) -> dict[str, Any]:
    """Sizes of the data that a checkpoint's method was trained on, as far as it takes them.

    Args:
        path: The checkpoint.
    """
    arguments = _arguments(open_checkpoint(path), "hyper_parameters")
    return {name: arguments[name] for name in TRAINED_ON if name in arguments}


def follow_record(data: Any, path: str) -> bool:
    """Let a run that goes on from its folder see its images as it did.

    Defaults may have changed since it began: which size, which order of classes, which side is up.

    Args:
        data: Options of the data as parsed, with ``init_args``; what they leave open is filled in.
        path: The checkpoint.

    Returns:
        Whether its network may have said how images look, as in runs of today.
    """
    record = open_checkpoint(path).get(DATA.rpartition(".")[2])
    if data.get("class_path") != DATA or record is None:
        return False
    given = data["init_args"]
    for name in ("classes", "image_size"):
        if given.get(name) is None:
            given[name] = record.get(name)
    if given.get("exif_orientation") is None:
        given["exif_orientation"] = record.get("exif_orientation", False)
    return "crop_pct" in record


def open_checkpoint(path: str) -> dict[str, Any]:
    """Open a checkpoint without unpickling.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`ckpt_path` must be a checkpoint file, 'best', 'last' or 'hpc', got '{path}'."
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`ckpt_path` '{path}' is no checkpoint: not a file of torch.save")
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:  # a damaged file makes the reader raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"`ckpt_path` '{path}' is no checkpoint: {reason}") from error
    _check(path, checkpoint)
    return checkpoint


def _check(path: str, checkpoint: Any) -> None:
    """Refuse what has no weights, and records that are not as ours."""
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        kind = type(checkpoint).__name__
        found = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else f"a {kind}"
        raise ValueError(
            f"`ckpt_path` '{path}' is no checkpoint: it must be a dict with `state_dict`, got "
            f"{found[:200] or 'an empty one'}."
        )
    groups = ("hyper_parameters", "datamodule_hyper_parameters", DATA.rpartition(".")[2])
    for key in groups:
        if not isinstance(checkpoint.get(key, {}), dict):
            raise _damaged(path, f"`{key}` must be a dict, got {checkpoint[key]!r}")
        if not all(isinstance(name, str) for name in checkpoint.get(key, {})):
            raise _damaged(path, f"`{key}` must have names as keys")
    for key, right, what in (
        ("seed", type(checkpoint.get("seed", 0)) is int, "an integer"),
        ("method", isinstance(checkpoint.get("method", ""), str), "a class path"),
        (_VERSION, _is_version(checkpoint.get(_VERSION)), "the version that wrote it"),
        (
            "started_from",
            isinstance(checkpoint.get("started_from"), str | None),
            "a file or null",
        ),
        ("temperature", _is_positive(checkpoint.get("temperature", 1.0)), "a number above 0"),
        ("labeled_features", _are_rows(checkpoint.get("labeled_features")), "features of images"),
        ("metrics", _are_metrics(checkpoint.get("metrics", {})), "numbers by name"),
    ):
        if not right:
            raise _damaged(path, f"`{key}` must be {what}, got {checkpoint.get(key)!r:.200}")
    if groups[-1] in checkpoint:
        _check_record(path, checkpoint[groups[-1]])


def _is_positive(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < math.inf


def _are_metrics(value: Any) -> bool:
    numbers = isinstance(value, dict) and all(isinstance(v, float) for v in value.values())
    return numbers and all(isinstance(name, str) for name in value)


def _are_rows(value: Any) -> bool:
    rows = isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()
    return value is None or (rows and len(value) > 0)


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"\d+\.\d+", value) is not None


def _check_record(path: str, record: dict[str, Any]) -> None:
    def numbers(value: Any) -> bool:
        size = record.get("in_channels")
        plain = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        return plain and len(value) == size and all(math.isfinite(v) for v in value)

    def names(value: Any) -> bool:
        texts = isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
        return texts and len(set(value)) == len(value)

    def indices(value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim == 1 and value.dtype == torch.int64

    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "classes": (names, "a list of names, each once"),
        "image_size": (lambda v: type(v) is int and v > 0, "a positive integer"),
        "in_channels": (lambda v: type(v) is int and v in (1, 3), "1 or 3"),
        "mean": (numbers, "a list of a number for each channel"),
        "std": (
            lambda v: numbers(v) and min(v) > 0,
            "a list of a positive number for each channel",
        ),
        "seed": (lambda v: type(v) is int, "an integer"),
        "labeled": (indices, "a list of indices"),
        "val": (indices, "a list of indices"),
        "views": (lambda v: isinstance(v, list), "a list"),
    }
    upright = record.get("exif_orientation", False)  # which older records lack
    if not isinstance(upright, bool):
        raise _damaged(path, f"`exif_orientation` of the data must be a bool, got {upright!r:.200}")
    for name, (right, what) in rules.items():
        if name not in record:
            raise _damaged(path, f"its record of the data lacks `{name}`")
        if not right(record[name]):
            raise _damaged(path, f"`{name}` of the data must be {what}, got {record[name]!r:.200}")


def _damaged(path: str, reason: str) -> ValueError:
    return ValueError(f"`ckpt_path` '{path}' is damaged: {reason}.")


def _arguments(checkpoint: dict[str, Any], key: str) -> dict[str, Any]:
    """Constructor arguments, without what the command line adds to them."""
    arguments = checkpoint.get(key, {})
    return {name: value for name, value in arguments.items() if not name.startswith("_")}
