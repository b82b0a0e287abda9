"""Commands that are typed functions: their options come from the signature."""

import os
from collections.abc import Callable, Sequence
from inspect import signature

from jsonargparse import auto_cli

from lightning_ssl.cli.configs import check_config, check_yaml
from lightning_ssl.cli.hints import did_you_mean
from lightning_ssl.cli.paths import options, take_literally


def run_function(function: Callable[..., None], name: str, args: Sequence[str]) -> None:
    """Call a function with options as typed.

    Args:
        function: The command.
        name: What it is called on the command line.
        args: Its options.
    """
    arguments = signature(function).parameters.items()
    own = {argument for argument, _ in arguments}
    texts = {argument for argument, value in arguments if value.annotation in (str, str | None)}
    literal = (texts | {"config"}).__contains__

    def is_known(option: str) -> bool:
        return option.split(".")[0].removesuffix("+") in own | {
            "config",
            "print_config",
            "help",
            "h",
        }

    for option in options(args, literal, is_known):
        if option.name and not is_known(option.name):
            raise ValueError(
                f"`{name}` has the options {', '.join(f'--{known}' for known, _ in arguments)}, "
                f"got '{option.typed[0]}'.{did_you_mean(option.name, own, '--')}"
            )
        if option.name == "config" and os.path.isfile(option.value or ""):
            check_config(str(option.value))
        elif option.value is not None and option.name not in texts:
            check_yaml(option.value, f"`--{option.name}`")
    auto_cli(
        function,
        args=take_literally(args, literal, is_known),
        as_positional=False,
        prog=f"lightning-ssl {name}",
        exit_on_error=False,
        allow_abbrev=False,
    )
