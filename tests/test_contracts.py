"""Rules of the code base as a whole: imports, configs, sizes, the wheel."""

import ast
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_ssl
from lightning_ssl import methods
from lightning_ssl.cli import run
from lightning_ssl.cli.configs import CONFIGS
from lightning_ssl.cli.errors import parameters
from lightning_ssl.methods import SSLModule
from lightning_ssl.methods.families import WeakStrongModule

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_ssl"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Room of the package to the rooms it imports besides itself; a room is a folder or a module, and a
# module is in the innermost room that is named here. `data` and `methods` never meet.
LEAVES = ("types", "seeding", "distributed", "checks", "files", "records", "lightning_private")
MAY_IMPORT: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "losses": set(),
    "state": {"types", "distributed", "checks", "losses"},
    "augment": {"seeding", "checks", "state"},
    "models": set(),
    "optim": set(),
    "evaluation": {"checks", "files", "losses", "augment"},
    "evaluation.baselines": {"losses", "evaluation"},
    "evaluation.report": {"files", "evaluation"},
    "callbacks": {"seeding", "distributed", "checks", "files", "records", "lightning_private"}
    | {"models", "optim", "evaluation", "evaluation.report"},
    "data.text": set(),
    "data.orders": {"seeding"},
    "data.plan": {"data.orders"},
    "data.sources": {"files", "data.text"},
    "data.splits": {"seeding", "files", "data.text", "data.sources"},
    "data.pseudo": {"files", "data.text", "data.splits"},
    "data.loading": {"types", "seeding", "lightning_private", "augment"}
    | {"data.plan", "data.sources", "data.splits"},
    "data.features": {"types", "seeding", "checks", "files", "records", "augment", "evaluation"}
    | {"data.sources", "data.loading"},
    "data": {"types", "seeding", "checks", "records", "augment"}
    | {"data.orders", "data.plan", "data.sources", "data.splits", "data.pseudo", "data.loading"}
    | {"data.features"},
    "methods.base": {"types", "seeding", "distributed", "lightning_private"}
    | {"losses", "models", "optim", "evaluation", "callbacks"},
    "methods.draws": {"types", "seeding", "distributed", "checks", "lightning_private"}
    | {"losses", "augment", "models"},
    "methods.corrections": {"checks", "losses", "state", "models", "optim", "callbacks"}
    | {"methods.base"},
    "methods.families": {"types", "distributed", "checks", "lightning_private"}
    | {"losses", "state", "models", "evaluation", "callbacks"}
    | {"methods.base", "methods.corrections"},
    "methods": {"types", "distributed", "checks"}
    | {"losses", "state", "augment", "models", "optim", "evaluation", "callbacks"}
    | {"methods.base", "methods.draws", "methods.corrections", "methods.families"},
    "cli": {"files", "models", "optim", "evaluation.report", "callbacks", "data", "data.sources"}
    | {"methods"},
    "cli.trainer": {"__init__", "files", "lightning_private", "models", "callbacks"}
    | {"methods", "cli"},
    "commands": {"seeding", "checks", "files"}
    | {"losses", "augment", "models", "evaluation", "evaluation.baselines", "evaluation.report"}
    | {
        "callbacks",
        "methods",
        "cli",
        "cli.trainer",
        "data",
        "data.sources",
        "data.splits",
        "data.pseudo",
        "data.loading",
    }
    | {"data.features", "classifier", "export"},
    # The entry points; nothing imports them but each other, see `test_nobody_imports_the_entry`.
    "cli.main": {"cli", "cli.trainer", "commands"},
    "cli.__init__": {"cli.main", "cli.trainer"},
    "__main__": {"cli.main"},
    # What `load` gives; the face of the package imports it when it is asked for.
    "classifier": {"augment", "evaluation", "callbacks", "methods", "cli"}
    | {"data", "data.sources", "data.loading"},
    "__init__": {"classifier"},
    "export": {"__init__", "losses", "models", "evaluation", "callbacks", "classifier"}
    | {"data.sources"},
}
ENTRY = {"cli.main", "cli.__init__", "__main__"}


def name_of(path: Path) -> str:
    """A module by its path in the package; the face of a folder ends with `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


NAMES = {name_of(path): path for path in MODULES}


def room_of(name: str) -> str:
    """The innermost room that is named."""
    parts = name.split(".")
    rooms = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((room for room in rooms if room in MAY_IMPORT), f"no rule names {name}")


def imported(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {module_of(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {module_of(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("lightning_ssl."):
            found.add(node.value.removeprefix("lightning_ssl."))  # for `import_module` and `-m`
    return {name for name in found if name in NAMES}


def module_of(module: str, name: str) -> str:
    """What ``from module import name`` imports: a module, or the one that has the name."""
    top, _, inner = module.partition(".")
    if top != "lightning_ssl":
        return ""
    prefix = f"{inner}." if inner else ""
    known = (f"{prefix}{name}", f"{prefix}{name}.__init__", inner, f"{prefix}__init__")
    return next(candidate for candidate in known if candidate in NAMES)


GRAPH = {name: imported(path) - {name} for name, path in NAMES.items()}


@pytest.mark.parametrize("name", GRAPH)
def test_a_module_imports_what_its_room_may(name: str) -> None:
    own = room_of(name)
    assert own in MAY_IMPORT, own
    rooms = {room_of(other) for other in GRAPH[name]}
    assert rooms - MAY_IMPORT[own] - {own} == set()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, each once."""
    reached = {name: set(others) for name, others in graph.items()}
    while True:
        wider = {
            name: others.union(*(reached[other] for other in others))
            for name, others in reached.items()
        }
        if wider == reached:
            break
        reached = wider
    found = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(found)]


def test_no_circle() -> None:
    assert circles(GRAPH) == []
    rooms: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for name, others in GRAPH.items():
        rooms[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    assert circles(rooms) == []


def test_a_circle_would_be_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "e"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [["a", "b", "c"]]


def test_nobody_imports_the_entry() -> None:
    for name in set(GRAPH) - ENTRY:
        assert GRAPH[name] & ENTRY == set(), name


def test_every_room_is_there_and_every_folder_is_one() -> None:
    assert {room_of(name) for name in GRAPH} == set(MAY_IMPORT)
    folders = {name.removesuffix(".__init__") for name in GRAPH if name.endswith(".__init__")}
    assert folders <= set(MAY_IMPORT)


def test_no_allowance_is_unused() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for name, others in GRAPH.items():
        used[room_of(name)] |= {room_of(other) for other in others}
    unused = {room: MAY_IMPORT[room] - used[room] for room in used}
    assert {room: rooms for room, rooms in unused.items() if rooms} == {}


METHODS = [getattr(methods, name) for name in methods.__all__]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_method_is_read_through_few_classes(method: type) -> None:
    own = [class_ for class_ in method.__mro__ if class_.__module__.startswith("lightning_ssl.")]
    assert len(own) <= 4
    families = [class_ for class_ in own if ".families." in class_.__module__]
    assert len(families) <= 1


def test_the_methods_folder_lists_methods() -> None:
    files = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__", "base"}
    assert files == {m.__module__.rpartition(".")[2] for m in METHODS if m is not SSLModule}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_no_method_branches_on_a_correction(method: Any) -> None:
    for class_ in (c for c in method.__mro__ if c.__module__.startswith("lightning_ssl.methods.")):
        if class_ in (SSLModule, WeakStrongModule):  # whose constructors say who takes one
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(class_)))):
            if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Match | ast.BoolOp):
                decided = getattr(node, "test", getattr(node, "subject", node))
                names = {getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(decided)}
                assert names.isdisjoint({"imbalance", "unbalanced", "correction"})


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_method_with_pseudo_labels_takes_a_correction_or_says_why_not(method: Any) -> None:
    source = "" if method is SSLModule else inspect.getsource(sys.modules[method.__module__])
    if ("log_pseudo" in source and '"weak"' in source) or issubclass(method, WeakStrongModule):
        takes = "imbalance" in parameters(method) and not method.no_correction
        assert takes == (method.no_correction is None)


def test_what_one_has_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    """The bounds of docs/design.md, counted by benchmarks/reading.py."""
    runpy.run_path(str(ROOT / "benchmarks" / "reading.py"), run_name="__main__")
    printed = capsys.readouterr().out
    rows = {
        row[0]: row[1:] for row in re.findall(r"\| (\w+) \| (\S+) \| (\S+) \| (\S+) \|", printed)
    }
    assert float(rows["FixMatch"][0]) <= 15
    assert float(rows["ReMixMatch"][0]) <= 35
    assert float(rows["median"][2]) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str) -> None:
    limits = {"methods": 160, "methods.base": 400}  # the base is what all methods share
    assert len(NAMES[name].read_text().splitlines()) <= limits.get(room_of(name), 350)


def test_losses_and_augmentation_need_no_lightning_and_models_no_timm() -> None:
    code = (
        "import sys; import lightning_ssl.losses, lightning_ssl.augment; "
        "assert not {'pytorch_lightning', 'torchvision', 'PIL'} & set(sys.modules), 'imported'; "
        "import lightning_ssl.models, lightning_ssl.optim; "
        "assert not any(m.split('.')[0] == 'timm' for m in sys.modules), 'timm is imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()


def keys(config: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Flattened keys of a config; `data.init_args.x` and `data.x` mean the same."""
    if not isinstance(config, dict) or not config:
        return {path}
    return {
        key
        for name, value in config.items()
        for key in keys(value, path if name == "init_args" else (*path, name))
    }


CONFIG_FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_short_names_are_unique() -> None:
    stems = [path.stem for path in CONFIG_FILES]
    assert len(stems) == len(set(stems)) > 0


def test_a_key_is_of_the_method_or_of_the_data() -> None:
    where: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in CONFIG_FILES:
        where[path.parent.name] |= keys(yaml.safe_load(path.read_text()))
    assert where["methods"]
    assert where["data"]
    # A key also clashes with one inside it.
    clashes = [
        (one, two)
        for one in where["methods"]
        for two in where["data"]
        if one[: len(two)] == two[: len(one)]
    ]
    assert clashes == []


def test_a_method_config_keeps_the_callbacks() -> None:
    """A bare ``callbacks:`` would replace those of the trainer config, checkpoints included."""
    for path in CONFIG_FILES:
        if path.parent.name == "methods":
            assert ("trainer", "callbacks") not in keys(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_configs_parse(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = () if path.parent.name in ("methods", "recipes") else ("--model", "Supervised")
    data = () if path.parent.name in ("data", "recipes") else ("--data.dataset", "digits")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(["fit", *method, "-c", path.stem, *data, "--print_config"])
    assert not stopped.value.code
    printed = keys(yaml.safe_load(capsys.readouterr().out))
    assert keys(yaml.safe_load(path.read_text())) <= printed


PAGES = [
    *(ROOT / f"{page}.md" for page in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_no_machine(page: Path) -> None:
    path = r"(?<![\w.)\]/])/(?:home|root|tmp|work|mnt|Users|opt)\b"
    assert re.findall(path, page.read_text()) == []


def start(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command in a process of its own and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_checkout_starts_without_an_installation() -> None:
    assert start("cli.py", "--version", cwd=ROOT).split()[-1] == lightning_ssl.__version__


def build(folder: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is made of it."""
    source = folder / "source"
    # A copy, as building leaves files beside the sources.
    skip = shutil.ignore_patterns(".*", "build", "runs", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skip)
    backend = "from setuptools.build_meta import build_sdist as build; print(build('..'))"
    packed = folder / start("-c", backend, cwd=source).split()[-1]
    offline = ("--quiet", "--no-deps", "--no-build-isolation")
    start("-m", "pip", "wheel", *offline, "-w", folder / "wheels", packed, cwd=folder)
    (wheel,) = (folder / "wheels").iterdir()
    return packed, wheel


TRAINS = (
    *("fit", "--model", "FixMatch", "--model.backbone", "wrn_10_1", "--run_dir", "run"),
    *("--data.dataset", "digits", "--data.num_labels", "20"),
    *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false"),
)


@pytest.mark.slow
def test_both_distributions_install_into_a_new_environment(tmp_path: Path) -> None:
    """With what they need, from the package index: minutes."""
    for number, archive in enumerate(build(tmp_path)):
        place = tmp_path / f"environment{number}"
        start("-m", "venv", place, cwd=tmp_path)
        python, program = place / "bin" / "python", place / "bin" / "lightning-ssl"
        for command in (
            [python, "-m", "pip", "install", "--quiet", archive],
            [program, *TRAINS, "--run_dir", f"run{number}"],
            [program, "predict", "--ckpt_path", f"run{number}/checkpoints/best.ckpt"],
        ):
            subprocess.run(command, cwd=tmp_path, check=True)
        assert (tmp_path / "predictions.csv").exists()
        shutil.rmtree(place)


def test_the_wheel_trains(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    packed, wheel = build(tmp_path)
    with tarfile.open(packed) as archive:
        about = archive.extractfile(f"{packed.name.removesuffix('.tar.gz')}/PKG-INFO")
        text = about.read().decode() if about else ""
    assert "License-Expression: MIT" in text
    assert "Description-Content-Type: text/markdown" in text
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    shipped = {str(path.relative_to(ROOT)) for path in (*MODULES, PACKAGE / "py.typed")}
    shipped |= {f"lightning_ssl/configs/{path.relative_to(CONFIGS)}" for path in CONFIG_FILES}
    assert shipped - names == set()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    prints = ["fit", "-c", "fixmatch", "-c", "digits", "--print_config"]
    # In one process: importing takes longer than both.
    lines = (
        "import lightning_ssl",
        f"assert lightning_ssl.__file__.startswith({str(installed)!r})",
        "from lightning_ssl.cli import main",
        "try:",
        f"    main({prints})",
        "except SystemExit as stopped:",
        "    assert not stopped.code",
        f"main({list(TRAINS)})",
    )
    printed = start("-c", "\n".join(lines), cwd=elsewhere, PYTHONPATH=str(installed))
    assert "dataset: digits" in printed
    assert (elsewhere / "run" / "checkpoints" / "last.ckpt").exists()
