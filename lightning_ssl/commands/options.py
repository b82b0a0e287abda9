"""Options of commands that run other commands."""

import io
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import yaml


def read_options(run: Callable[[Sequence[str]], object], command: Sequence[str]) -> dict[str, Any]:
    """Read the options of a command without running it.

    Args:
        run: What runs it.
        command: The command as typed, without the program's name.

    Returns:
        Its options with all their defaults.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run([*command, "--print_config"])
    except SystemExit as stopped:
        if stopped.code:
            raise
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def split_options(text: str, name: str) -> list[str]:
    """Split a text of options as a shell does.

    Args:
        text: The text.
        name: What it is called in messages.

    Raises:
        ValueError: If it cannot be split.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name} must be options as typed, got {text!r}: {error}.") from None


def keep_method(method: str, options: Sequence[str]) -> list[str]:
    """Name a method first, and again after each config, which may name another one.

    What both have, such as network and optimizer, goes over to the method; options that follow are
    its own.

    Args:
        method: Name of the method.
        options: Options of ``fit``.

    Example:
        >>> keep_method("VAT", ["-c", "fixmatch", "--model.xi", "6"])
        ['--model', 'VAT', '-c', 'fixmatch', '--model', 'VAT', '--model.xi', '6']
    """
    out = ["--model", method]
    for option in options:
        out.append(option)
        if out[-2] in ("-c", "--config") or option.startswith(("-c=", "--config=")):
            out += ["--model", method]
    return out
