"""From jsonargparse's nested reports to the one message a user needs."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_args

import torch
from jsonargparse import ArgumentError
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer

from lightning_ssl.cli.arguments import classes
from lightning_ssl.cli.checkpoint import LINKED
from lightning_ssl.cli.hints import did_you_mean
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.sources.named import DATASETS
from lightning_ssl.methods import SSLModule

USER_ERRORS = (
    ArgumentError,
    ValueError,
    OSError,
    FloatingPointError,
    MisconfigurationException,
)

# What allocators of the CPU say in errors of no class of their own.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory")

_NOISE = re.compile(
    r"\s*(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"(- )?Expected a <class 'NoneType'>|Given value type: .*|"
    r"Given value: (NestedArg|Namespace|\{).*)"
)

# Up to the name of the last exception in the report of a loader's worker.
_WORKER = re.compile(r"\ACaught .*^ [^\n]*\n[\w.]+: ", re.DOTALL | re.MULTILINE)
_MISSPELLED = re.compile(
    r".*class_path '(.+?)':.*?"  # the innermost class comes last
    r"(?:Option '|arguments: --|Group '([\w.]+)' does not accept option ')([\w.]+)",
    re.DOTALL,
)
_LIST = re.compile(r"Parser key \"([\w.]+)\":\s*Expected a <class 'list'>. Got value: (.*)\s*\Z")
_UNKNOWN = re.compile(r"unrecognized arguments: --([\w.]+)")


def parameters(class_: Any) -> list[str]:
    """Names of the arguments of a class and its parents.

    Args:
        class_: The class.
    """
    return list(_arguments(class_))


def _arguments(class_: Any) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for parent in class_.__mro__:
        for name, argument in signature(parent.__init__).parameters.items():
            found.setdefault(name, argument)
    return {n: argument for n, argument in found.items() if n not in ("self", "args", "kwargs")}


def check_nulls(group: str, config: Any, class_: Any, linked: Sequence[str]) -> None:
    """Refuse null for an argument that has none; the parser lets it pass.

    Args:
        group: ``model`` or ``data``.
        config: Parsed, with ``init_args``.
        class_: Class that they are for; None if it is not known.
        linked: Arguments that are filled in later.

    Raises:
        ValueError: If there is such an argument.
    """
    given = config.get("init_args") or {}
    for name, argument in {} if class_ is None else _arguments(class_).items():
        type_ = argument.annotation
        known = type_ not in (Any, object, Parameter.empty) and not isinstance(type_, str)
        # `None` itself is a choice of a `Literal`.
        nullable = argument.default is None or any(
            choice in (None, type(None)) for choice in get_args(type_)
        )
        if known and not nullable and name not in linked and given.get(name, 0) is None:
            kind = getattr(type_, "__name__", str(type_).replace("typing.", ""))
            raise ValueError(f"`{group}.{name}` must be of type {kind}, got null.")


def is_users(error: Exception) -> bool:
    """Whether an error comes from what the user asked for.

    Args:
        error: What was raised.
    """
    return isinstance(error, USER_ERRORS) or _is_of_memory(error)


def _is_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def error_line(error: Exception) -> str:
    """What is said of an error of the user's.

    Args:
        error: One for which :func:`is_users` holds.
    """
    return f"error: {explain(error, classes())}"


def explain(error: Exception, known: dict[str, Any]) -> str:
    """The message of an error, without the parts that say nothing.

    Args:
        error: What was raised.
        known: Class path to class, for those whose options can be misspelled.
    """
    # Our own error is the cause of what jsonargparse reports about it.
    reports = ("Does not validate", "Call to compute_fn")
    while str(error).startswith(reports) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error)
    if _is_of_memory(error):
        return (
            "The memory does not hold this: smaller `data.batch_size`, "
            "`data.unlabeled_batch_size`, `data.eval_batch_size`, `data.image_size` or "
            f"`model.backbone` need less ({text.splitlines()[0] if text else 'out of memory'})."
        )
    if text.startswith("Caught ") and "worker process" in text:
        return _WORKER.sub("", text).strip()
    if "Does not validate against" in text:
        lines = [line for line in text.splitlines() if not _NOISE.fullmatch(line)]
        text = " ".join(line.strip(" -") for line in lines)
    if "required: dataset" in text:
        return f"`data.dataset` (--data.dataset) must be one of {', '.join(DATASETS)}, got none."
    if text.startswith("Expected more than 1 value per channel when training"):
        return f"`data.batch_size` must be at least 2 in each process, for BatchNorm. {text}."
    wanted = _LIST.search(text)
    if wanted is not None:
        key, value = wanted.groups()
        return f"`{key}` (--{key}) must be a list, such as [{value}], got {value}."
    if isinstance(error, ArgumentError):
        text = " ".join(text.split())
    unknown = _UNKNOWN.search(text)
    if unknown is not None and "class_path" not in text:
        return text + "." + did_you_mean(unknown[1], _flags(), "--")
    return text + _suggest(text, known)


def _flags() -> list[str]:
    """Options of the trainer's subcommands by name."""
    groups = {"trainer": Trainer, "data": SSLDataModule, "model": SSLModule}
    return [
        *("config", "run_dir", "ckpt_path", "seed_everything", "model", "data", "verbose"),
        *("predictions.path", "predictions.embeddings", "weights_only", "print_config"),
        *(f"{group}.{name}" for group, class_ in groups.items() for name in _arguments(class_)),
    ]


def _suggest(text: str, known: dict[str, Any]) -> str:
    found = _MISSPELLED.search(text)
    if found is None or found[1] not in known:
        return ""
    arguments = _arguments(known[found[1]])
    wrong = f"{found[2]}.{found[3]}" if found[2] else found[3]
    group, dot, _ = wrong.partition(".")
    why = getattr(known[found[1]], "no_correction", None)
    if why and group in ("imbalance", "imbalance_args"):
        return f": a method {why} takes no correction for imbalanced classes."
    if dot and group in arguments:
        allowed = [f"{group}.{name}" for name in _fields(arguments[group])]
        if not allowed:
            return ""
    else:
        # What comes from the data is refused on the command line.
        wrong, allowed = group, [name for name in arguments if name not in LINKED]
    return f".{did_you_mean(wrong, allowed)} Allowed: {', '.join(allowed)}."


def _fields(argument: Parameter) -> list[str]:
    """Names of the fields of an argument that is a dataclass."""
    # An annotation may be a string, or a union with None.
    types = (argument.annotation, *get_args(argument.annotation), type(argument.default))
    return next(([f.name for f in fields(type_)] for type_ in types if is_dataclass(type_)), [])
