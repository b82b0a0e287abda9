"""From jsonargparse's nested reports to the one message a user needs."""

import difflib
import re
from inspect import signature
from typing import Any

from jsonargparse import ArgumentError
from lightning_fabric.utilities.exceptions import MisconfigurationException

USER_ERRORS = (
    ArgumentError,
    ValueError,
    OSError,
    FloatingPointError,
    MisconfigurationException,
)

_NOISE = re.compile(
    r"\s*(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"(- )?Expected a <class 'NoneType'>|Given value type: .*|"
    r"Given value: (NestedArg|Namespace|\{).*)"
)


def parameters(class_: Any) -> list[str]:
    """Names of the arguments of a class and its parents.

    Args:
        class_: The class.
    """
    names = [n for parent in class_.__mro__ for n in signature(parent.__init__).parameters]
    return [name for name in dict.fromkeys(names) if name not in ("self", "args", "kwargs")]


def explain(error: Exception, classes: dict[str, Any]) -> str:
    """The message of an error, without the parts that say nothing.

    Args:
        error: What was raised.
        classes: Class path to class, for those whose options can be misspelled.
    """
    # Our own error is the cause of what jsonargparse reports about it.
    reports = ("Does not validate", "Call to compute_fn")
    while str(error).startswith(reports) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error)
    if "Does not validate against" in text:
        lines = [line for line in text.splitlines() if not _NOISE.fullmatch(line)]
        text = " ".join(line.strip(" -") for line in lines)
    return text + _suggest(text, classes)


def _suggest(text: str, classes: dict[str, Any]) -> str:
    # The innermost class comes last.
    wrong = re.search(r".*class_path '(.+?)':.*?(?:Option '|arguments: --)([\w.]+)", text, re.S)
    if wrong is None or wrong.group(1) not in classes:
        return ""
    allowed = parameters(classes[wrong.group(1)])
    near = difflib.get_close_matches(wrong.group(2), allowed, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f".{hint} Allowed: {', '.join(allowed)}."
