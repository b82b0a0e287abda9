"""Rules of the code base as a whole: imports, configs, sizes, the wheel."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_ssl
from lightning_ssl.cli import run
from lightning_ssl.cli.configs import CONFIGS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_ssl"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Part of the package to the parts it may import; a part is a module or a folder beside `__init__`.
# "callbacks.ema" means that module alone. Where `None` stands everything is allowed.
MAY_IMPORT: dict[str, set[str] | None] = {
    "__init__": set(),
    "types": set(),
    "seeding": set(),
    "distributed": set(),
    "checks": set(),
    "files": set(),
    "losses": {"types"},
    "state": {"types", "distributed", "checks", "losses"},
    "augment": {"types", "seeding", "checks", "state.wide_buffers"},
    "models": {"types"},
    "optim": {"types"},
    "evaluation": {"types", "checks", "losses", "augment"},
    "callbacks": {"types", "seeding", "checks", "evaluation"},
    "data": {"types", "seeding", "checks", "files", "augment"},
    "methods": {
        *("types", "seeding", "distributed", "checks", "state"),
        *("losses", "augment", "models", "optim", "evaluation"),
        *("callbacks.ema", "callbacks.checks"),
    },
    "__main__": {"cli"},
    "commands": None,
    "cli": None,
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            # `from lightning_ssl import data` names a module by what it imports.
            is_root = module == "lightning_ssl"
            found |= {f"{module}.{a.name}" for a in node.names} if is_root else {module}
    inside = {name for name in found if name.split(".")[0] == "lightning_ssl"}
    return {name.partition(".")[2] for name in inside if name != "lightning_ssl"}


def test_the_table_names_every_part() -> None:
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    own = part_of(path)
    allowed = MAY_IMPORT[own]
    if allowed is None:
        return
    others = {name for name in imported(path) if name.split(".")[0] != own}
    assert {n for n in others if n not in allowed and n.split(".")[0] not in allowed} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path: Path) -> None:
    is_method = part_of(path) == "methods" and path.stem not in ("base", "projection", "__init__")
    assert len(path.read_text().splitlines()) <= (160 if is_method else 350)


def test_losses_and_augmentation_need_no_lightning() -> None:
    code = (
        "import sys; import lightning_ssl.losses, lightning_ssl.augment; "
        "assert not {'pytorch_lightning', 'torchvision', 'PIL'} & set(sys.modules), 'imported'"
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


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


def test_the_wheel_trains(tmp_path: Path) -> None:
    source, wheels, installed = tmp_path / "source", tmp_path / "wheels", tmp_path / "installed"
    # A copy, as building leaves files beside the sources.
    skip = shutil.ignore_patterns(".*", "build", "runs", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skip)
    offline = ("--quiet", "--no-deps", "--no-build-isolation")
    start("-m", "pip", "wheel", *offline, "-w", wheels, source, cwd=tmp_path)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    shipped = {str(path.relative_to(ROOT)) for path in (*MODULES, PACKAGE / "py.typed")}
    shipped |= {f"lightning_ssl/configs/{path.relative_to(CONFIGS)}" for path in CONFIG_FILES}
    assert shipped - names == set()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    prints = ["fit", "-c", "fixmatch", "-c", "digits", "--print_config"]
    trains = [
        *("fit", "--model", "FixMatch", "--model.backbone", "wrn_10_1", "--run_dir", "run"),
        *("--data.dataset", "digits", "--data.num_labels", "20"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false"),
    ]
    # In one process: importing takes longer than both.
    lines = (
        "import lightning_ssl",
        f"assert lightning_ssl.__file__.startswith({str(installed)!r})",
        "from lightning_ssl.cli import main",
        "try:",
        f"    main({prints})",
        "except SystemExit as stopped:",
        "    assert not stopped.code",
        f"main({trains})",
    )
    printed = start("-c", "\n".join(lines), cwd=elsewhere, PYTHONPATH=str(installed))
    assert "dataset: digits" in printed
    assert (elsewhere / "run" / "checkpoints" / "last.ckpt").exists()
