"""Commands that are typed functions: their options come from the signature."""

from collections.abc import Callable, Sequence

from jsonargparse import auto_cli


def run_function(function: Callable[..., None], name: str, args: Sequence[str]) -> None:
    """Call a function with options as typed.

    Args:
        function: The command.
        name: What it is called on the command line.
        args: Its options.
    """
    auto_cli(
        function,
        args=list(args),
        as_positional=False,
        prog=f"lightning-ssl {name}",
        exit_on_error=False,
        allow_abbrev=False,
    )
