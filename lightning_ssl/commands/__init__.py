"""Commands that are not trainer subcommands: one typed function per file."""

from collections.abc import Callable

from lightning_ssl.commands.project import project
from lightning_ssl.commands.quickstart import quickstart

COMMANDS: dict[str, Callable[..., None]] = {"project": project, "quickstart": quickstart}
