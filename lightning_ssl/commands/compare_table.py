"""What the runs of a comparison found: two CSV files, a table and a figure."""

import csv
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from lightning_ssl.commands.baselines import BaselineRow
from lightning_ssl.evaluation.figures import draw_comparison, read_run
from lightning_ssl.files import writing_text

_LAST = 20  # evaluations in the median, as in https://arxiv.org/abs/2001.07685


class Run(NamedTuple):
    """A run of a comparison.

    Args:
        method: Name of the method.
        labels: Number of labelled images.
        batch_size: Labelled images a step; None for what the options say.
        seed: Of split, initialisation and order.
        folder: Where everything of the run is.
        options: Options of ``fit`` that make it this run, without the folder.
    """

    method: str
    labels: int
    batch_size: int | None
    seed: int
    folder: Path
    options: tuple[str, ...]

    @property
    def last(self) -> Path:
        """The checkpoint that an interrupted run goes on from."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def result(self) -> Path:
        """The file that says that the run is finished."""
        return self.folder / "result.json"


_Row = dict[str, Any]


def write_tables(
    runs: Sequence[Run], folder: Path, floors: Mapping[int, Sequence[BaselineRow]] | None = None
) -> Table:
    """Write ``results.csv``, ``evaluations.csv`` and ``compare.png``.

    Args:
        runs: Finished runs, at least one.
        folder: Where the files go.
        floors: Number of labels to what classifiers of frozen features reach, of which the best is
            shown.

    Returns:
        Mean and deviation over the seeds.
    """
    rows = [_result(run) for run in runs]
    write_rows(folder / "results.csv", rows)
    write_rows(folder / "evaluations.csv", [row for run in runs for row in _evaluations(run)])
    _draw(rows, folder / "compare.png")
    return _summary(rows, floors or {})


def write_rows(path: Path, rows: Sequence[_Row]) -> None:
    """Write a CSV file whose columns are the keys of the rows.

    Args:
        path: The file.
        rows: Rows with the same keys; None is left empty.
    """
    with writing_text(path, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def percent(fractions: Sequence[float]) -> str:
    """Mean and, of more than one, the standard deviation of a sample, in percent.

    Args:
        fractions: Numbers in [0, 1].

    Example:
        >>> percent([0.5, 0.7])
        '60.0 ± 14.1 %'
    """
    values = [100 * fraction for fraction in fractions]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread} %"


def read_accuracy(run: Run) -> float:
    """Test accuracy in [0, 1] of a finished run.

    Args:
        run: The run.
    """
    return float(_read(run)["test/acc"])


def _read(run: Run) -> dict[str, float]:
    result: dict[str, float] = json.loads(run.result.read_text(encoding="utf-8"))
    return result


def _identity(run: Run) -> _Row:
    return {
        "method": run.method,
        "labels": run.labels,
        "batch_size": run.batch_size,
        "seed": run.seed,
    }


def _result(run: Run) -> _Row:
    found = _read(run)
    test, val = (list(read_run(run.folder, f"{part}/acc").values()) for part in ("test", "val"))
    return {
        **_identity(run),
        "test_accuracy": _rounded(found["test/acc"]),
        "test_top_5": _rounded(found.get("test/acc_top5")),
        "test_median_of_last_20": _rounded(statistics.median(test[-_LAST:]) if test else None),
        "test_best": _rounded(max(test, default=None)),
        "test_evaluations": len(test),
        "val_accuracy": _rounded(val[-1] if val else None),
        "seconds": round(found["seconds"], 1),
        "updates": found["updates"],
    }


def _evaluations(run: Run) -> Iterator[_Row]:
    for part in ("val", "test"):
        top5 = read_run(run.folder, f"{part}/acc_top5")
        for update, accuracy in read_run(run.folder, f"{part}/acc").items():
            values = {"accuracy": _rounded(accuracy), "top_5": _rounded(top5.get(update))}
            yield {**_identity(run), "update": update, "part": part, **values}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _groups(rows: Sequence[_Row]) -> list[list[_Row]]:
    """The seeds of each method, labels and batch size; of the same labels the best mean first."""

    def key(row: _Row) -> tuple[int, int, str]:
        return row["labels"], row["batch_size"] or 0, row["method"]

    groups = [list(group) for _, group in groupby(sorted(rows, key=key), key)]
    return sorted(groups, key=lambda group: (*key(group[0])[:2], -_mean(group, "test_accuracy")))


def _mean(rows: Sequence[_Row], column: str) -> float:
    return float(statistics.mean(row[column] for row in rows))


def _summary(rows: Sequence[_Row], floors: Mapping[int, Sequence[BaselineRow]]) -> Table:
    # What does not vary or was not measured would only make the table wide.
    named = [name for name in ("labels", "batch_size", "method") if rows[0][name] is not None]
    measured = [name for name in ("test_accuracy", "test_top_5") if rows[0][name] is not None]
    table = Table(*(name.replace("_", " ") for name in (*named, "seeds", *measured, "seconds")))
    for group in _groups(rows):
        table.add_row(
            *(str(group[0][name]) for name in named),
            str(len(group)),
            *(percent([row[name] for row in group]) for name in measured),
            f"{_mean(group, 'seconds'):.1f}",
        )
    for labels, found in floors.items():
        name, best = _best(found)
        known = {"labels": str(labels), "method": f"best baseline: {name}"}
        test = percent([row.test for row in best if row.test is not None])
        spent = statistics.mean(row.seconds for row in best)
        cells = [known.get(column, "") for column in named]
        table.add_row(*cells, str(len(best)), test, *([""] * (len(measured) - 1)), f"{spent:.1f}")
    return table


def _best(rows: Sequence[BaselineRow]) -> tuple[str, list[BaselineRow]]:
    """The baseline of largest mean accuracy."""
    groups: dict[str, list[BaselineRow]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return max(groups.items(), key=lambda item: statistics.mean(r.test or 0 for r in item[1]))


def _draw(rows: Sequence[_Row], path: Path) -> None:
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for group in _groups(rows):
        first = group[0]
        series = "" if first["batch_size"] is None else f"batch {first['batch_size']}"
        panel = panels.setdefault(f"{first['labels']} labels", {}).setdefault(series, {})
        panel[first["method"]] = [row["test_accuracy"] for row in group]
    draw_comparison(panels, "test accuracy in %", path)
