"""How much one has to read to understand a method: ``python benchmarks/reading.py``.

Counts for each method the code lines of its ``training_step`` (without docstring and blank lines),
our classes in its MRO, and the files one opens to follow a step: its own, those of its parents up
to ``SSLModule``, and those of ``state``, ``draws`` and ``corrections`` whose names its own file
uses. Losses are not counted: each is a pure function that its name and docstring describe.
"""

import ast
import inspect
import sys
import textwrap
from statistics import median
from typing import Any

from lightning_ssl import methods
from lightning_ssl.methods import SSLModule

OPENED = (
    "lightning_ssl.state.",
    "lightning_ssl.methods.draws.",
    "lightning_ssl.methods.corrections",
)


def step_lines(method: type[SSLModule]) -> int:
    """Code lines of the training step."""
    source = textwrap.dedent(inspect.getsource(method.training_step))
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    body = function.body[ast.get_docstring(function) is not None :]
    lines = source.splitlines()[body[0].lineno - 1 :]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def parents(method: type[SSLModule]) -> list[Any]:
    """Our classes in the MRO."""
    return [c for c in method.__mro__ if c.__module__.startswith("lightning_ssl.")]


def files(method: type[SSLModule]) -> set[str]:
    """Modules that one opens."""
    found = {class_.__module__ for class_ in parents(method)}
    own = sys.modules[method.__module__]
    tree = ast.parse(inspect.getsource(own))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OPENED):
            # A face stands for the module that the name is defined in.
            values = (getattr(own, alias.name) for alias in node.names)
            found |= {getattr(value, "__module__", node.module) for value in values}
    return {name for name in found if name.startswith("lightning_ssl.")}


def main() -> None:
    """Print the table and its medians."""
    rows = [
        (m.__name__, step_lines(m), len(parents(m)), len(files(m)))
        for m in (getattr(methods, name) for name in methods.__all__)
        if m is not SSLModule
    ]
    print("| method | lines of `training_step` | classes | files |\n|---|---|---|---|")
    for row in sorted(rows):
        print(f"| {' | '.join(map(str, row))} |")
    counts = list(zip(*rows, strict=True))[1:]
    print(f"| median | {' | '.join(f'{median(column):g}' for column in counts)} |")


if __name__ == "__main__":
    main()
