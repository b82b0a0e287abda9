"""The private names of Lightning's: each is still there, and one module alone uses them."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import pytorch_lightning

import lightning_ssl
from lightning_ssl import lightning_private
from lightning_ssl.lightning_private import PRIVATE_NAMES

PACKAGE = Path(lightning_ssl.__file__).parent
SOURCES = {
    ".".join(("lightning_ssl", *path.relative_to(PACKAGE).with_suffix("").parts)): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
ALLOWED = lightning_private.__name__
TREES = {name: ast.parse(source) for name, source in SOURCES.items() if name != ALLOWED}
LISTED = sorted({name for _, name, _ in PRIVATE_NAMES})


def has(owner: Any, name: str) -> bool:
    """Whether a class has a name or its constructor sets it; of a function, whether it asks it."""
    source = inspect.getsource(owner.__init__ if isinstance(owner, type) else owner)
    return hasattr(owner, name) or re.search(rf"\.{name}\b", source) is not None


@pytest.mark.parametrize(
    ("owner", "name", "reason"), PRIVATE_NAMES, ids=[f"{o}.{n}" for o, n, _ in PRIVATE_NAMES]
)
def test_lightning_still_has_the_name(owner: str, name: str, reason: str) -> None:
    gone = (
        f"pytorch-lightning {pytorch_lightning.__version__} has no `{owner}.{name}` any more, "
        f"which lightning_ssl/lightning_private.py uses for {reason}. "
        "See docs/design.md, 'When Lightning publishes a new minor release'."
    )
    try:
        found = has(resolve_name(owner), name)
    except (ImportError, AttributeError):
        found = False
    if not found:
        pytest.fail(gone, pytrace=False)


def test_a_name_that_is_gone_would_be_found() -> None:
    assert not has(pytorch_lightning.callbacks.WeightAveraging, "_average")
    assert not has(resolve_name(PRIVATE_NAMES[-2][0]), "_iterators")


@pytest.mark.parametrize("name", LISTED)
def test_the_list_is_of_names_in_use(name: str) -> None:
    uses = [n for n in ast.walk(ast.parse(SOURCES[ALLOWED])) if mentioned(n) == name]
    assert len(uses) > sum(listed == name for _, listed, _ in PRIVATE_NAMES)


def mentioned(node: ast.AST) -> str:
    """What a piece of code names, if it is private: an attribute, a method, a text (`getattr`)."""
    match node:
        case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.Name(id=name):
            pass
        case ast.Constant(value=str(name)):
            pass
        case _:
            name = ""
    return name if re.fullmatch(r"_[a-zA-Z]\w*", name) else ""


@pytest.mark.parametrize("module", TREES)
def test_no_other_module_uses_a_listed_name(module: str) -> None:
    found = {mentioned(node) for node in ast.walk(TREES[module])}.intersection(LISTED)
    assert found == set(), f"{module}: take it from lightning_private.py"


def of_ours(node: ast.Attribute) -> bool:
    """Whether an attribute is asked of `self`, `cls` or `super()`."""
    base = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(base, ast.Name) and base.id in ("self", "cls", "super")


# Private by name, and neither Lightning's nor ours: of torch, of named tuples, of `os`.
OTHERS = re.compile("_foreach_.*|_BatchNorm|_step_supports_amp_scaling|_replace|_fields|_exit")


def test_no_private_name_of_another_object_is_asked_for() -> None:
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    made = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    asked = [node for node in nodes if isinstance(node, ast.Attribute) and mentioned(node)]
    made |= {node.attr for node in asked if of_ours(node) and isinstance(node.ctx, ast.Store)}
    foreign = {node.attr for node in asked if not of_ours(node)} - made
    assert {name for name in foreign if not OTHERS.fullmatch(name)} == set()


def taken_over(module: str) -> set[str]:
    """Private names of Lightning's classes that classes of ours, derived from them, name too."""
    found = set()
    for class_ in vars(importlib.import_module(module)).values():
        if not inspect.isclass(class_) or class_.__module__ != module:
            continue
        parents = [p for p in class_.__mro__ if p.__module__.split(".")[0] in LIGHTNING]
        theirs = {name for parent in parents for name in vars(parent)}
        for parent in parents:
            theirs |= set(re.findall(r"self\.(_[a-zA-Z]\w*)", inspect.getsource(parent)))
        tree = ast.parse(inspect.getsource(class_))
        found |= {mentioned(node) for node in ast.walk(tree)} & theirs
    return found


LIGHTNING = ("pytorch_lightning", "lightning_fabric")
IMPORTED = [module for module in TREES if "__main__" not in module]


def test_no_other_class_takes_a_name_by_inheritance() -> None:
    assert {m: names for m in IMPORTED if (names := taken_over(m))} == {}


def test_a_name_taken_by_inheritance_would_be_found() -> None:
    hooks = {"_update_metrics", "_get_train_description"}
    assert taken_over(ALLOWED) == hooks | {"_parse_ckpt_path", "_set_seed", "_run_subcommand"}


@pytest.mark.parametrize("module", TREES)
def test_no_private_name_of_lightning_is_imported(module: str) -> None:
    found = set()
    for node in ast.walk(TREES[module]):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in modules if name.startswith(LIGHTNING) and "._" in name}
    assert found == set()
