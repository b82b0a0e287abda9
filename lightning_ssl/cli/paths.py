"""Paths as typed: each is taken to the letter, whatever it holds."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from lightning_ssl.files import printable

PATHS = (
    "ckpt_path",
    "config",
    "features_dir",
    "output",
    "root",
    "run_dir",
    "predictions.path",
    "trainer.default_root_dir",
    *(f"data.{name}" for name in ("root", "labels_file", "pseudo_labels", "features_dir")),
    "model.weights",
)

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*\+?(=.*)?", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_./]")
_SHORT = {"-c": "--config"}


def check_text(arg: str) -> None:
    """Refuse an argument that no YAML can hold, and the parser would report at length.

    Args:
        arg: As the system gives it.

    Raises:
        ValueError: If its bytes are no text in the encoding of the locale.
    """
    try:
        arg.encode()
    except UnicodeEncodeError:
        locale = sys.getfilesystemencoding()
        way = "rename it" if locale == "utf-8" else "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        raise ValueError(
            f"Arguments must be text in the encoding of the locale, {locale}, got "
            f"'{printable(arg)}': {way}."
        ) from None


def is_path(name: str) -> bool:
    """Whether an option of a command is a file or a folder.

    Args:
        name: The option without its dashes.
    """
    return name.replace(".init_args.", ".") in PATHS


class Option(NamedTuple):
    """A part of a command.

    Attributes:
        typed: The arguments that it was.
        name: Without dashes; empty where it is no option.
        value: None where it has none.
    """

    typed: tuple[str, ...]
    name: str = ""
    value: str | None = None


def options(
    args: Sequence[str],
    literal: Callable[[str], bool] = is_path,
    known: Callable[[str], bool] | None = None,
) -> Iterator[Option]:
    """Split arguments into options with their values.

    Only what begins like a flag is one, so that an equals sign inside a path cuts nothing, and the
    value of a path may begin with a dash.

    Args:
        args: Arguments as typed.
        literal: Whether an option, by its name, takes any text for its value.
        known: Whether a name is an option's; None for any name. What is none is text.
    """
    position = 0
    while position < len(args):
        arg = args[position]
        flag, equals, value = arg.partition("=")
        name = _SHORT.get(flag, flag).lstrip("-")
        position += 1
        if not _FLAG.fullmatch(arg):
            yield Option((arg,))
        elif equals:
            yield Option((arg,), name, value)
        elif position < len(args) and _is_value(args[position], literal(name), known):
            yield Option((arg, args[position]), name, args[position])
            position += 1
        else:
            yield Option((arg,), name)


def _is_value(arg: str, literal: bool, known: Callable[[str], bool] | None) -> bool:
    if not arg.startswith("-"):
        return True
    # `-1` is a number; `-c` and `--flag` are what one may forget a value in front of.
    if not literal or arg in (*_SHORT, "-h"):
        return False
    name = arg.partition("=")[0].lstrip("-")
    return arg[:2] != "--" or not _FLAG.fullmatch(arg) or not (known is None or known(name))


def take_literally(
    args: Sequence[str],
    literal: Callable[[str], bool] = is_path,
    known: Callable[[str], bool] | None = None,
) -> list[str]:
    """Write options so that the parser, which reads values as YAML, takes paths as they are.

    Args:
        args: Arguments as typed.
        literal: Whether an option, by its name, takes any text for its value.
        known: See :func:`options`.

    Returns:
        The same options; ``~`` is the home folder in paths, as for a shell that saw them alone.
    """
    out: list[str] = []
    for option in options(args, literal, known):
        if option.value in (None, "", "null") or not literal(option.name):
            out += option.typed
        elif is_path(option.name):
            out += _as_path(option.name, os.path.expanduser(option.value))
        else:
            out.append(f"--{option.name}={option.value}")
    return out


def _as_path(name: str, path: str) -> tuple[str, ...]:
    if name != "config":
        if not os.path.isabs(path) and not _PLAIN.match(path):
            path = os.path.join(".", path)  # which is neither a number nor a sign of YAML's
        if _is_mapping(path):
            nested: Any = path
            for part in reversed(name.split(".")):
                nested = {part: nested}
            return "--config", json.dumps(nested)  # where a colon in a text is one
    return (f"--{name}={path}",)


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False  # and the parser takes it as text
