"""Command line ``lightning-ssl``: choose a method and data by class name, run a subcommand."""

from lightning_ssl.cli.main import main, run
from lightning_ssl.cli.trainer import SSLCLI

__all__ = ("SSLCLI", "main", "run")
