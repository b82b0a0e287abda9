"""The main job in minutes: a few labels against a few labels and many unlabelled images."""

import shutil
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_ssl.augment import Views
from lightning_ssl.checks import check_count
from lightning_ssl.commands.compare_table import percent, write_rows
from lightning_ssl.commands.train_and_test import train_and_test
from lightning_ssl.evaluation.figures import draw_curves, draw_views
from lightning_ssl.files import check_output_folder

_METHODS = ("Supervised", "FixMatch")
_COLUMNS = ("method", "labels", "seed", "test_accuracy", "seconds")


def quickstart(
    output: str = "runs/quickstart", num_labels: int = 20, seeds: int = 3, max_steps: int = 1000
) -> None:
    """Train Supervised and FixMatch on real digits and compare them on held-out writers.

    Writes ``results.csv``, ``curves.png`` and ``views.png``. Both methods share network, schedule,
    weak view, averaging and number of updates; a seed sets split, initialisation and order.

    Args:
        output: Folder of the results; runs of the same method, labels and seed in it are replaced.
        num_labels: Labelled images, of 1,437.
        seeds: Number of seeds.
        max_steps: Optimizer updates of each run.
    """
    check_count("seeds", seeds)
    folder = Path(output)
    # Not by a pattern: an earlier quickstart may have left further seeds.
    runs = {m: [_run_dir(folder, m, num_labels, s) for s in range(seeds)] for m in _METHODS}
    records = [f"{run.name}/config.yaml" for of_method in runs.values() for run in of_method]
    files = ("results.csv", "curves.png", "views.png", *records)
    check_output_folder(folder, "output", files)
    rows: list[dict[str, Any]] = []
    for method in _METHODS:
        for seed, run_dir in enumerate(runs[method]):
            shutil.rmtree(run_dir, ignore_errors=True)
            rows.append(_train(method, num_labels, seed, max_steps, run_dir))
    write_rows(folder / "results.csv", rows)
    curves = {method: [run / "metrics.csv" for run in runs[method]] for method in _METHODS}
    panels = {
        "test/acc": "accuracy on held-out writers",
        "train/mask_rate": "pseudo-labels that count",
        "train/pseudo_acc": "of these, right",
    }
    draw_curves(curves, panels, folder / "curves.png")
    _draw_views(folder / "views.png")
    Console().print(_summary(rows))
    Console().print(f"Written to {folder}: results.csv, curves.png, views.png", soft_wrap=True)


def _run_dir(folder: Path, method: str, num_labels: int, seed: int) -> Path:
    return folder / f"{method}_{num_labels}_{seed}"


def _train(
    method: str, num_labels: int, seed: int, max_steps: int, run_dir: Path
) -> dict[str, Any]:
    command = [
        *("--model", method, "-c", "digits", "--data.num_labels", str(num_labels)),
        *("--model.backbone", "wrn_10_1", "--trainer.max_steps", str(max_steps)),
        *("--seed_everything", str(seed), "--run_dir", str(run_dir)),
    ]
    Console().print(f"lightning-ssl fit {' '.join(command)}", style="bold", soft_wrap=True)
    found = train_and_test(command)
    accuracy, seconds = round(found["test/acc"], 4), round(found["seconds"], 1)
    values = (method, num_labels, seed, accuracy, seconds)
    return dict(zip(_COLUMNS, values, strict=True))


def _draw_views(path: Path) -> None:
    from lightning_ssl.data import open_source

    source = open_source("digits")
    views = Views(
        {"unlabeled": {"weak": 3, "strong": 6}},
        source.size,
        mean=(0.0,) * source.channels,
        std=(1.0,) * source.channels,
        hflip=source.hflip,
    )
    draw_views(source.train.pixels[:8], views, "unlabeled", path)  # type: ignore[attr-defined]


def _summary(rows: list[dict[str, Any]]) -> Table:
    table = Table("method", "labels", "test accuracy", "seconds", title="quickstart")
    for method in _METHODS:
        own = [row for row in rows if row["method"] == method]
        seconds = statistics.mean(row["seconds"] for row in own)
        table.add_row(
            method,
            str(own[0]["labels"]),
            percent([row["test_accuracy"] for row in own]),
            f"{seconds:.1f}",
        )
    return table
