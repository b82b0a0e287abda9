"""Shared by all tests: one thread, a fresh folder, and two and four ranks for the session."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ranks import Ranks

torch.set_num_threads(1)  # the networks here are too small for two


@pytest.fixture(autouse=True)
def _fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Ranks]:
    ranks = Ranks(4)
    yield ranks
    ranks.stop()


_configs: dict[tuple[str, ...], dict[str, Any]] = {}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Read a config with all its defaults: ``model``, ``data``, ``trainer`` and ``class``."""
    from lightning_ssl.cli import run  # slow to import
    from lightning_ssl.cli.configs import find_config

    def read(name: str, *args: str) -> dict[str, Any]:
        key = (name, *args)
        if key not in _configs:
            is_method = Path(find_config(name)).parent.name == "methods"
            data = ("-c", "cifar10") if is_method else ()
            capsys.readouterr()
            with pytest.raises(SystemExit):
                run(["fit", "-c", name, *data, *args, "--print_config"])
            config = yaml.safe_load(capsys.readouterr().out)
            parts = {part: config[part]["init_args"] for part in ("model", "data")}
            parts |= {"trainer": config["trainer"], "class": config["model"]["class_path"]}
            _configs[key] = parts
        return _configs[key]

    return read


def pytest_collection_finish() -> None:
    """Take what is imported and collected, which stays, out of every later garbage collection."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what did not run; a skipped test nobody sees is no test."""
    if "CIFAR10_ROOT" not in os.environ:
        terminalreporter.write_line("CIFAR10_ROOT is not set: tests on CIFAR-10 did not run.")
    if not torch.cuda.is_available():
        terminalreporter.write_line("No CUDA device: tests with the mark `gpu` did not run.")
