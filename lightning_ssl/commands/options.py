"""Options of commands that run other commands."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import yaml


def read_options(command: Sequence[str]) -> dict[str, Any]:
    """Read the options of a command without running it.

    Args:
        command: The command as typed, without the program's name.

    Returns:
        Its options with all their defaults.
    """
    from lightning_ssl.cli import run  # the command line knows the commands

    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run([*command, "--print_config"])
    except SystemExit as stopped:
        if stopped.code:
            raise
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config
