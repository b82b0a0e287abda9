"""Which classes a checkpoint may name: a file from elsewhere must not choose what code runs."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any


class WorkingFolder(str):
    """The entry of ``sys.path`` for the folder that the command was started in."""

    __slots__ = ()


def find_own_methods() -> None:
    """Let users name classes of the folder that they are in; a console script would not see it."""
    here = os.getcwd()
    if not any(isinstance(entry, WorkingFolder) and entry == here for entry in sys.path):
        sys.path.append(WorkingFolder(here))


def check_class(path: str, named: Sequence[str] = (), where: str = "") -> None:
    """Refuse a class that a checkpoint names, where finding it would run code of this folder.

    Args:
        path: The class by its path.
        named: Class paths that the user gave.
        where: Where the checkpoint names it, with a space after it; of its method if empty.

    Raises:
        ValueError: If its package is not installed and the user did not name it.
    """
    package = path.partition(".")[0]
    if not where and package not in sys.modules and _place(package) is None:
        raise ValueError(f"`ckpt_path` is of the method '{path}', which cannot be found.")
    if path not in named and not _is_installed(package):
        raise ValueError(
            f"`ckpt_path` names {where}the class '{path}', which must be of an installed package "
            "or named by you, as a checkpoint may be anyone's: give --model "
            f"{path if not where else 'and that option yourself'} to run its code."
        )


def check_names(options: Any, named: Sequence[str] = ()) -> None:
    """Refuse texts that are the paths of such classes, which the parser would import.

    Args:
        options: Of a checkpoint, nested.
        named: Class paths that the user gave.

    Raises:
        ValueError: If there is one.
    """
    if isinstance(options, str):
        package, dot, name = options.partition(".")
        is_path = dot and all(part.isidentifier() for part in (package, *name.split(".")))
        if is_path and not os.path.exists(options) and _place(package) is not None:
            check_class(options, named, "in its options ")
    elif isinstance(options, Mapping):
        check_names(list(options.values()), named)
    elif isinstance(options, list | tuple):
        for option in options:
            check_names(option, named)


def _is_installed(package: str) -> bool:
    """Whether a package is there without the working folder, and is the one that is imported."""
    if package in sys.modules:
        return True  # its code has run
    path = sys.path
    # By `python -m` the folder comes first; `PYTHONPATH` and editable installs come after it.
    first = os.path.realpath(path[0] or ".") if path else ""
    rest = path[1:] if first == os.path.realpath(os.getcwd()) else path
    found = _place(package)
    try:
        sys.path = [entry for entry in rest if entry and not isinstance(entry, WorkingFolder)]
        return found is not None and _place(package) == found
    finally:
        sys.path = path


def _place(package: str) -> Any:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    return None if spec is None else (spec.origin, list(spec.submodule_search_locations or ()))
