"""Arguments as typed: names made full, and mistakes that the parser would not explain."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_args

from pytorch_lightning import LightningDataModule

from lightning_ssl.cli.checkpoint import LINKED, known_to_checkpoint
from lightning_ssl.cli.configs import find_config, run_folder_of
from lightning_ssl.methods import SSLModule
from lightning_ssl.optim import Optimizer, Schedule

WORDS = (None, "best", "last", "hpc")
"""`ckpt_path` where it is no file."""

_GROUPS = {"optimizer": Optimizer, "schedule": Schedule}
_NULLABLE = [
    f.name for group in _GROUPS.values() for f in fields(group) if type(None) in get_args(f.type)
]
_FIELD = re.compile(rf"(--model\.(?:{'|'.join(_GROUPS)}))\.({'|'.join(_NULLABLE)})")


def expand(args: Sequence[str]) -> list[str]:
    """Replace config names by paths and put what a checkpoint knows before everything else.

    Args:
        args: Arguments as typed, the subcommand first.

    Returns:
        Arguments that Lightning's command line understands.

    Raises:
        ValueError: If the parser would misunderstand one of them, or report it badly.
    """
    out = _with_run_folders(_map_values(args, ("-c", "--config"), find_config))
    _map_values(args, ("--model",), _check_method)
    for arg in out:
        _check_linked(arg.partition("=")[0])
        _check_field(arg.partition("=")[0])
    _check_order(out)
    out = _without_fields_of_null(out)
    split = [part for arg in out for part in arg.split("=", 1)]
    checkpoint = split[split.index("--ckpt_path") + 1] if "--ckpt_path" in split[:-1] else None
    if checkpoint not in WORDS:
        known = known_to_checkpoint(checkpoint, predict=out[0] == "predict")
        out[1:1] = ["--config", json.dumps(known)]
    return out


def _with_run_folders(args: Sequence[str]) -> list[str]:
    """Say after a run folder's own config which folder it is; a later ``--run_dir`` wins."""
    out: list[str] = []
    for arg in args:
        out.append(arg)
        if len(out) > 1 and out[-2] in ("-c", "--config"):
            folder = run_folder_of(arg)
            out += [] if folder is None else ["--run_dir", folder]
    return out


def _check_field(flag: str) -> None:
    """Refuse prefixes of field names, which jsonargparse takes for the fields themselves."""
    for name, group in _GROUPS.items():
        prefix, dot, field = flag.partition(f"--model.{name}.")
        known = [f.name for f in fields(group)]
        if dot and not prefix and field not in known:
            near = get_close_matches(field, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"`model.{name}` has the fields {', '.join(known)}, got '{field}'.{hint}"
            )


def _check_linked(flag: str) -> None:
    """Refuse what the data say and would overwrite in silence."""
    name = flag.removeprefix("--model.").removeprefix("init_args.")
    if name != flag and name in LINKED:
        raise ValueError(f"`model.{name}` must not be given: it comes from the data.")


def _check_order(args: Sequence[str]) -> None:
    """Refuse options of a method that is named after them; the parser takes them for no one's."""
    flags = [arg.partition("=")[0] for arg in args]
    if "--ckpt_path" in flags:
        return  # which says what the method is, and comes first
    sources = ("--model", "-c", "--config")
    first = next((i for i, flag in enumerate(flags) if flag in sources), len(flags))
    early = next((flag for flag in flags[:first] if flag.startswith("--model.")), None)
    if early not in (None, "--model.class_path", "--model.help"):
        raise ValueError(
            f"`--model` or `-c` must come before the method's options, got {early} first."
        )


def _without_fields_of_null(args: Sequence[str]) -> list[str]:
    """Pass a field's null with its group, as the parser takes no null for a field alone."""
    out: list[str] = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        if not equals and out and _FIELD.fullmatch(out[-1]):
            flag, value = out[-1], arg
        found = _FIELD.fullmatch(flag)
        if found and value == "null":
            if not equals:
                out.pop()
            out += [found[1], f"{{{found[2]}: null}}"]
        else:
            out.append(arg)
    return out


def _map_values(
    args: Sequence[str], flags: tuple[str, ...], change: Callable[[str], str]
) -> list[str]:
    """Change the values of some flags, given as ``--flag value`` or ``--flag=value``."""
    out: list[str] = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        if out and out[-1] in flags:
            out.append(change(arg))
        elif equals and flag in flags:
            out += [flag, change(value)]
        else:
            out.append(arg)
    return out


def _check_method(name: str) -> str:
    """Say which methods exist, where one is misspelled."""
    # A set: methods of several bases are met on several ways.
    names = sorted({c.__name__ for c in _subclasses(SSLModule) if not c.__abstractmethods__})
    if "." not in name and name not in names:
        raise ValueError(f"`model` must be one of {', '.join(names)}, got '{name}'.")
    return name


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
