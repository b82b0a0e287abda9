"""Arguments as typed: names made full, and mistakes that the parser would not explain."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import yaml
from pytorch_lightning import LightningDataModule

from lightning_ssl.cli.checkpoint import LINKED, known_to_checkpoint
from lightning_ssl.cli.configs import check_yaml, find_config, run_folder_of
from lightning_ssl.cli.hints import did_you_mean
from lightning_ssl.cli.paths import Option, is_path, options, take_literally
from lightning_ssl.methods import SSLModule
from lightning_ssl.optim import Optimizer, Schedule

WORDS = (None, "best", "last", "hpc")
"""`ckpt_path` where it is no file."""

_GROUPS = {"optimizer": Optimizer, "schedule": Schedule}
_NULLABLE = [
    f.name for group in _GROUPS.values() for f in fields(group) if type(None) in get_args(f.type)
]
_FIELD = re.compile(rf"(model\.(?:{'|'.join(_GROUPS)}))\.({'|'.join(_NULLABLE)})")


def expand(args: Sequence[str]) -> list[str]:
    """Replace config names by paths and put what a checkpoint knows before everything else.

    Args:
        args: Arguments as typed, the subcommand first.

    Returns:
        Arguments that Lightning's command line understands.

    Raises:
        ValueError: If the parser would misunderstand one of them, or report it badly.
    """
    given = list(options(args))
    for option in given:
        if option.value is not None and not is_path(option.name):
            check_yaml(option.value, f"`--{option.name}`")
        _check_linked(option.name)
        _check_field(option.name)
        if option.name == "model" and option.value is not None:
            _check_method(option.value)
    names = {option.name for option in given}
    sources = {"model", "model.class_path", "config", "ckpt_path", "h", "print_config"}
    asks = not args or args[0].startswith("-") or any(name.endswith("help") for name in names)
    if not asks and sources.isdisjoint(names):
        raise ValueError(
            "A method and data are needed: `--model` with --data.dataset, `-c` with a config of "
            "each (such as -c fixmatch -c cifar10), or `--ckpt_path` of a run, got none of them."
        )
    _check_order([option.name for option in given])
    out = _without_fields_of_null(_with_shipped_configs(take_literally(args)))
    checkpoint = next((o.value for o in reversed(given) if o.name == "ckpt_path"), None)
    if checkpoint not in (*WORDS, "null"):
        backbone = next((o.value for o in reversed(given) if o.name == "model.backbone"), None)
        path, predict = os.path.expanduser(checkpoint), out[0] == "predict"
        known = known_to_checkpoint(path, predict, _named_methods(given), backbone)
        out[1:1] = ["--config", json.dumps(known)]
    return out


def _named_methods(given: Sequence[Option]) -> list[str]:
    """Class paths of methods that flags and configs give."""
    named = []
    for option in given:
        if option.value is None:
            continue
        if option.name in ("model", "model.class_path"):
            named.append(option.value)
        elif option.name == "config":
            path = find_config(option.value)
            is_file = os.path.isfile(path)
            named.append(_method_of(Path(path).read_text(encoding="utf-8") if is_file else path))
    return named


def _method_of(text: str) -> str:
    """Class path of the method of a config; empty where there is none."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        return ""  # the parser says what is wrong
    method = config.get("model") if isinstance(config, dict) else None
    return str(method.get("class_path", "") if isinstance(method, dict) else method)


def _check_field(option: str) -> None:
    """Refuse prefixes of field names, which jsonargparse takes for the fields themselves."""
    for name, group in _GROUPS.items():
        prefix, dot, field = option.partition(f"model.{name}.")
        known = [f.name for f in fields(group)]
        if dot and not prefix and field not in known:
            hint = did_you_mean(field, known)
            raise ValueError(
                f"`model.{name}` has the fields {', '.join(known)}, got '{field}'.{hint}"
            )


def _check_linked(option: str) -> None:
    """Refuse what the data say and would overwrite in silence."""
    name = option.removeprefix("model.").removeprefix("init_args.")
    if name != option and name in LINKED:
        raise ValueError(f"`model.{name}` must not be given: it comes from the data.")


def _check_order(names: Sequence[str]) -> None:
    """Refuse options of a method that is named after them; the parser takes them for no one's."""
    if "ckpt_path" in names:
        return  # which says what the method is, and comes first
    first = next((i for i, name in enumerate(names) if name in ("model", "config")), len(names))
    early = next((name for name in names[:first] if name.startswith("model.")), None)
    if early not in (None, "model.class_path", "model.help"):
        raise ValueError(
            f"`--model` or `-c` must come before the method's options, got --{early} first."
        )


def _with_shipped_configs(args: Sequence[str]) -> list[str]:
    """Replace names of configs by their paths; a run folder's own also says which folder it is."""
    out: list[str] = []
    for option in options(args):
        if option.name != "config" or option.value is None:
            out += option.typed
            continue
        path = find_config(str(option.value))
        folder = run_folder_of(path)
        out += ("--config", path)
        out += [] if folder is None else take_literally(["--run_dir", folder])
    return out


def _without_fields_of_null(args: Sequence[str]) -> list[str]:
    """Pass a field's null with its group, as the parser takes no null for a field alone."""
    out: list[str] = []
    for option in options(args):
        found = _FIELD.fullmatch(option.name)
        if found and option.value == "null":
            out += (f"--{found[1]}", f"{{{found[2]}: null}}")
        else:
            out += option.typed
    return out


def _check_method(name: str) -> None:
    """Say which methods exist, where one is misspelled."""
    # A set: methods of several bases are met on several ways.
    names = sorted({c.__name__ for c in _subclasses(SSLModule) if not c.__abstractmethods__})
    if "." not in name and name not in names:
        raise ValueError(
            f"`model` must be one of {', '.join(names)}, got '{name}'.{did_you_mean(name, names)}"
        )


def _subclasses(parent: Any) -> list[Any]:
    return [c for child in parent.__subclasses__() for c in (child, *_subclasses(child))]


def classes() -> dict[str, Any]:
    """Methods and datamodules by the paths that they can be given by."""
    found = {}
    for class_ in _subclasses(SSLModule) + _subclasses(LightningDataModule):
        parts = class_.__module__.split(".")
        for end in range(1, len(parts) + 1):
            found[".".join((*parts[:end], class_.__qualname__))] = class_
    return found
