"""Commands that are typed functions: their options come from the signature."""

import os
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

from docstring_parser import parse
from jsonargparse import ArgumentParser

from lightning_ssl.cli.configs import check_config, check_yaml
from lightning_ssl.cli.hints import did_you_mean
from lightning_ssl.cli.paths import Option, options, take_literally

_OF_FIT = ("model", "data", "trainer", "config", "seed_everything")
"""Options that a command with `fit_options` takes as `fit` does."""


def run_function(function: Callable[..., object], name: str, args: Sequence[str]) -> None:
    """Call a function with options as typed.

    Args:
        function: The command. A parameter that is positional only is a list of what is typed
            without a name.
        name: What it is called on the command line.
        args: Its options.
    """
    arguments = {
        argument: value
        for argument, value in signature(function).parameters.items()
        if argument != "fit_options"
    }
    passed: dict[str, Any] = {}
    if "fit_options" in signature(function).parameters:
        args, passed["fit_options"] = _split(args)
    listed = [n for n, a in arguments.items() if a.kind is Parameter.POSITIONAL_ONLY]
    own = set(arguments) - set(listed)
    texts = {
        argument for argument, value in arguments.items() if value.annotation in (str, str | None)
    }
    lists = {name for name, value in arguments.items() if value.annotation == list[str] | str}

    def is_known(option: str) -> bool:
        return option.split(".")[0].removesuffix("+") in own | {
            "config",
            "print_config",
            "help",
            "h",
        }

    texts |= lists - {o.name for o in options(args, lists.__contains__, is_known) if _is_list(o)}
    literal = (texts | {"config"}).__contains__
    for option in options(args, literal, is_known):
        if option.name and not is_known(option.name):
            further = f" and those of fit, {', '.join(_OF_FIT)}," if passed else ""
            raise ValueError(
                f"`{name}` has the options {', '.join(f'--{n}' for n in arguments if n in own)}"
                f"{further or ','} got '{option.typed[0]}'.{did_you_mean(option.name, own, '--')}"
            )
        if option.name == "config" and os.path.exists(option.value or ""):
            check_config(str(option.value))
        elif option.value is not None and option.name not in texts:
            check_yaml(option.value, f"`--{option.name}`")
    parser = ArgumentParser(
        prog=f"lightning-ssl {name}",
        exit_on_error=False,
        allow_abbrev=False,
        description=(function.__doc__ or "").partition("\n\n    Args:")[0],
        epilog="And --data.…, --model.…, -c and --seed_everything as for fit." if passed else None,
    )
    parser.add_argument("--config", action="config", help="Path to a configuration file.")
    for argument in listed:
        parser.add_argument(argument, nargs="+", type=str, help=_help(function, argument))
    parser.add_function_arguments(function, as_group=False, skip={"fit_options", *listed})
    config = parser.parse_args(take_literally(args, literal, is_known))
    config.pop("config", None)
    values = dict(**parser.instantiate(config))
    positional = [values.pop(argument) for argument in listed]
    function(*positional, **values, **passed)


def _help(function: Callable[..., object], argument: str) -> str | None:
    """What a function's docstring says of an argument."""
    found = parse(function.__doc__ or "").params
    return next((param.description for param in found if param.arg_name == argument), None)


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those that are passed on to `fit`."""
    own: list[str] = []
    passed: list[str] = []
    for option in options(args):
        root = option.name.split(".")[0].removesuffix("+")
        (passed if root in _OF_FIT else own).extend(option.typed)
    return own, passed


def _is_list(option: Option) -> bool:
    """Whether a value that may be one text or several is several."""
    value = (option.value or "").strip()
    return value.startswith("[") and value.endswith("]")
