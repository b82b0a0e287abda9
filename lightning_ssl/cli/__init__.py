"""Command line ``lightning-ssl``: choose a method and data by class name, run a subcommand."""

from lightning_ssl.cli.trainer import SSLCLI, error_line, main, run

__all__ = ("SSLCLI", "error_line", "main", "run")
