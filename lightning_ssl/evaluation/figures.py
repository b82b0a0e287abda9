"""Figures of runs and of views, as PNG files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ssl.augment import Views
from lightning_ssl.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_curve(metrics_csv: Path, name: str) -> tuple[list[int], list[float]]:
    """Read one logged name from a run's ``metrics.csv``.

    Args:
        metrics_csv: The file.
        name: A logged name such as ``test/acc``.

    Returns:
        Optimizer updates and values.
    """
    with metrics_csv.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [(int(row["step"]) + 1, row.get(name)) for row in csv.DictReader(file)]
    found = [(step, float(value)) for step, value in rows if value]
    return [step for step, _ in found], [value for _, value in found]


def read_run(run_dir: Path, name: str) -> dict[int, float]:
    """Read one logged name of a run.

    Args:
        run_dir: The run's folder.
        name: A logged name such as ``test/acc``.

    Returns:
        Optimizer update to value; none where the run wrote no metrics.
    """
    if not (run_dir / "metrics.csv").exists():
        return {}
    return dict(sorted(zip(*read_curve(run_dir / "metrics.csv", name), strict=True)))


def read_curves(metrics_csv: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read all that a run logged.

    Args:
        metrics_csv: The file; where there is none there are no curves.

    Returns:
        Logged name to optimizer updates and values.

    Raises:
        ValueError: If it is no such file.
    """
    if not metrics_csv.is_file():
        return {}
    with metrics_csv.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, tuple[list[int], list[float]]] = {}
    try:
        for row in rows:
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]) + 1)
                    values.append(float(value))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{metrics_csv}' is no table of logged values: {error}.") from error
    return curves


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """Write a figure as PNG; the file appears when it is complete.

    Args:
        figure: The figure.
        path: The file.
        dpi: Pixels per inch.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def draw_curves(runs: Mapping[str, Sequence[Path]], names: Mapping[str, str], path: Path) -> None:
    """Draw the learning curves of several runs per method: each run thin, their mean thick.

    Args:
        runs: Method to the ``metrics.csv`` files of its runs; the mean is over the updates that all
            of them logged and over the values that are numbers.
        names: Logged name to the title of its panel.
        path: The PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, (name, title) in zip(panels, names.items(), strict=True):
        for number, (method, files) in enumerate(runs.items()):
            curves = [curve for curve in (read_curve(file, name) for file in files) if curve[0]]
            for steps, values in curves:
                panel.plot(steps, values, color=f"C{number}", alpha=0.3, linewidth=1)
            if curves:
                panel.plot(*_mean(curves), color=f"C{number}", label=method, linewidth=2)
        panel.set(title=title, xlabel="optimizer updates")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    save_figure(figure, path, dpi=120)


def _mean(curves: Sequence[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    found = [dict(zip(*curve, strict=True)) for curve in curves]
    common = [step for step in found[0] if all(step in values for values in found)]
    # NaN says that there was nothing to measure, as where no pseudo-label was kept.
    values = torch.tensor([[values[step] for step in common] for values in found])
    return common, values.nanmean(dim=0).tolist()


def draw_comparison(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], label: str, path: Path
) -> None:
    """Draw the mean of each method, the standard deviation as a bar, single runs as faint dots.

    Args:
        panels: Title to series to method to the values of its runs, fractions in [0, 1]. The
            methods are sorted by their mean over everything, the best on top.
        label: What the values are, in percent.
        path: The PNG file.
    """
    from matplotlib.figure import Figure

    means = _method_means(panels)
    methods = sorted(means, key=lambda method: means[method])
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    height = 1.2 + len(methods) * (0.18 + 0.14 * len(series))
    figure = Figure(figsize=(1.6 + 3.2 * len(panels), height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for name, found in panel.items():
            number = series.index(name)
            shift = 0.6 * ((len(series) - 1) / 2 - number) / len(series)
            for method, values in found.items():
                _draw_spread(axis, values, methods.index(method) + shift, f"C{number}")
        axis.set(title=title, xlabel=label, ylim=(-0.6, len(methods) - 0.4))
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(alpha=0.3)
    if len(series) > 1:
        dots = [axes[0].plot([], [], "o", color=f"C{i}")[0] for i in range(len(series))]
        figure.legend(dots, series, loc="outside lower center", ncols=len(series))
    save_figure(figure, path, dpi=120)


def _draw_spread(axis: Any, values: Sequence[float], place: float, color: str) -> None:
    runs = 100 * torch.tensor(values, dtype=torch.float64)
    axis.plot(runs, [place] * len(runs), ".", color=color, alpha=0.35)
    spread = float(runs.std()) if len(runs) > 1 else 0.0
    bar = {"fmt": "o", "color": color, "markersize": 5, "capsize": 3}
    axis.errorbar(float(runs.mean()), place, xerr=spread, **bar)


def _method_means(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for panel in panels.values():
        for found in panel.values():
            for method, runs in found.items():
                values.setdefault(method, []).extend(runs)
    return {method: sum(runs) / len(runs) for method, runs in values.items()}


def draw_views(images: Tensor, views: Views, stream: str, path: Path) -> None:
    """Draw images and their augmented views, one image a row.

    Args:
        images: Images ``(B, C, H, W)``, uint8.
        views: The views, made with mean 0 and standard deviation 1: in [0, 1].
        stream: Which stream of the views.
        path: The PNG file.
    """
    from matplotlib.figure import Figure

    drawn, _ = views(stream, images, 0)
    columns = [("image", images / 255)]
    for name, copies in drawn.items():
        columns += [(name, copy) for copy in copies]
    figure = Figure(figsize=(len(columns), len(images) + 0.4), layout="constrained")
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns):
        axes[0, column].set_title(name, fontsize=9)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), cmap="gray")
            axes[row, column].axis("off")
    save_figure(figure, path, dpi=100)
