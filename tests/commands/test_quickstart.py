"""The quickstart's files, with logs written by hand in place of training."""

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

from lightning_ssl.evaluation.figures import draw_curves

# The package's name of it is the function.
module = import_module("lightning_ssl.commands.quickstart")
NAN = float("nan")


def write_log(path: Path, rows: list[tuple[int, float, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "test/acc", "train/pseudo_acc"))
        writer.writerows(rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that were saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def remember(self: matplotlib.figure.Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", remember)
    return figures


def mean_of(panel: Any, method: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in panel.lines if line.get_label() == method]
    return list(line.get_xdata()), list(line.get_ydata())


def test_the_mean_of_curves_that_differ(
    tmp_path: Path, drawn: list[matplotlib.figure.Figure]
) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    write_log(files[0], [(9, 0.5, NAN), (19, 0.75, 1.0), (29, 1.0, 1.0)])
    write_log(files[1], [(9, 0.25, NAN), (19, 0.25, NAN)])
    names = {"test/acc": "accuracy", "train/pseudo_acc": "right"}
    draw_curves({"FixMatch": files, "Supervised": []}, names, tmp_path / "curves.png")
    accuracy, right = drawn[0].axes
    assert mean_of(accuracy, "FixMatch") == ([10, 20], [0.375, 0.5])
    steps, values = mean_of(right, "FixMatch")
    assert steps == [10, 20]
    assert values[0] != values[0]  # no run has a value
    assert values[1] == 1.0  # the other run kept nothing
    assert (tmp_path / "curves.png").exists()


def test_curves_without_a_common_update(tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    write_log(files[0], [(9, 0.5, NAN)])
    write_log(files[1], [(19, 0.5, NAN)])
    draw_curves({"FixMatch": files}, {"test/acc": "accuracy"}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_a_second_quickstart_ignores_further_seeds(
    monkeypatch: pytest.MonkeyPatch, drawn: list[matplotlib.figure.Figure]
) -> None:
    def train(
        method: str, num_labels: int, seed: int, max_steps: int, run_dir: Path
    ) -> dict[str, Any]:
        steps = range(9, max_steps, 10)
        log = run_dir / "metrics.csv"
        write_log(log, [(step, 0.1 * seed, NAN) for step in steps])
        row = (method, num_labels, seed, 0.1 * seed, 1.0)
        return dict(zip(module._COLUMNS, row, strict=True))

    monkeypatch.setattr(module, "_train", train)
    module.quickstart(seeds=3, max_steps=30)
    module.quickstart(seeds=2, max_steps=20)
    assert Path("runs/quickstart/FixMatch_20_2").exists()
    curves = [figure for figure in drawn if len(figure.axes) == 3]
    steps, values = mean_of(curves[1].axes[0], "FixMatch")
    assert steps == [10, 20]
    assert values == pytest.approx([0.05, 0.05])
    with Path("runs/quickstart/results.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1", "0", "1"]
