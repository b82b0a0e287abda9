"""Shared by all tests: one thread, a fresh folder, and two and four ranks for the session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what did not run; a skipped test nobody sees is no test."""
    if "CIFAR10_ROOT" not in os.environ:
        terminalreporter.write_line("CIFAR10_ROOT is not set: tests on CIFAR-10 did not run.")
    if not torch.cuda.is_available():
        terminalreporter.write_line("No CUDA device: tests with the mark `gpu` did not run.")
