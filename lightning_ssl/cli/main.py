"""Entry point: dispatch to the trainer's subcommands and to the other commands."""

import io
import sys
from collections.abc import Callable, Sequence

from pytorch_lightning.cli import LightningCLI

from lightning_ssl.cli.errors import error_line, is_users
from lightning_ssl.cli.functions import run_function
from lightning_ssl.cli.hints import did_you_mean
from lightning_ssl.cli.paths import check_text
from lightning_ssl.cli.trainer import SSLCLI, prepare_process, run_trainer
from lightning_ssl.cli.trust import find_own_methods


def commands() -> dict[str, Callable[..., object]]:
    """Commands that are not trainer subcommands, by name."""
    # Not above: each of them imports `cli.trainer`, and with it this package's face.
    from lightning_ssl.commands.baselines import baselines
    from lightning_ssl.commands.compare import compare
    from lightning_ssl.commands.export import export
    from lightning_ssl.commands.features import features
    from lightning_ssl.commands.moam import moam
    from lightning_ssl.commands.probe import probe
    from lightning_ssl.commands.project import project
    from lightning_ssl.commands.pseudo_label import pseudo_label
    from lightning_ssl.commands.quickstart import quickstart
    from lightning_ssl.commands.report import report
    from lightning_ssl.commands.select import select
    from lightning_ssl.commands.vpet import vpet

    return {
        "baselines": baselines,
        "compare": compare,
        "export": export,
        "features": features,
        "moam": moam,
        "probe": probe,
        "project": project,
        "pseudo-label": pseudo_label,
        "quickstart": quickstart,
        "report": report,
        "select": select,
        "vpet": vpet,
    }


def run(args: Sequence[str]) -> SSLCLI | None:
    """Run a command and return the command line object, for use from Python.

    Args:
        args: Arguments as typed, without the program's name.

    Returns:
        The object that holds ``trainer``, ``model`` and ``datamodule``; None for a command that is
        not a trainer subcommand.

    Raises:
        ValueError: If there is no such command, or an argument is no text.
    """
    for arg in args:
        check_text(arg)
    known = commands()
    if args and not args[0].startswith("-") and args[0] not in known:
        trainer = (*LightningCLI.subcommands(), *known)
        if args[0] not in trainer:
            raise ValueError(
                f"The command must be one of {', '.join(trainer)}, got '{args[0]}'."
                f"{did_you_mean(args[0], trainer)}"
            )
    if not args or args[0] not in known:
        return run_trainer(args, further=tuple(known))
    prepare_process()
    run_function(known[args[0]], args[0], args[1:])
    return None


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Args:
        args: Arguments as typed; None for those of the process. ``--traceback`` anywhere among
            them shows where an error came from.

    Raises:
        SystemExit: With 2 after an error of the user's, with 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if args is None else args)
    traceback = "--traceback" in given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name or a table's line that the terminal's encoding lacks must not end the command.
            stream.reconfigure(errors="backslashreplace")
    find_own_methods()
    try:
        run([arg for arg in given if arg != "--traceback"])
    except Exception as error:
        if traceback or not is_users(error):
            raise
        print(error_line(error), file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, SystemExit) as stopped:
        # A trainer takes Ctrl-C for itself, and exits with 1 while it is handled.
        if not any(isinstance(e, KeyboardInterrupt) for e in (stopped, stopped.__context__)):
            raise
        raise SystemExit(130) from None  # as shells have it: 128 and the number of the signal
