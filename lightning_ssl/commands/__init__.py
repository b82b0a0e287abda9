"""Commands that are not trainer subcommands: one typed function per file."""

from collections.abc import Callable

from lightning_ssl.commands.compare import compare
from lightning_ssl.commands.moam import moam
from lightning_ssl.commands.probe import probe
from lightning_ssl.commands.project import project
from lightning_ssl.commands.pseudo_label import pseudo_label
from lightning_ssl.commands.quickstart import quickstart

COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "moam": moam,
    "probe": probe,
    "project": project,
    "pseudo-label": pseudo_label,
    "quickstart": quickstart,
}
