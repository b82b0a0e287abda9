"""What is stored of a run for its report: plain values in ``report.json``, and ``metrics.json``."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.evaluation.projection import pca
from lightning_ssl.evaluation.scores import (
    class_scores,
    confusion_matrix,
    least_certain,
    most_confident_mistakes,
    reliability,
    total_scores,
)
from lightning_ssl.files import writing_text

FILES = ("report.html", "report.json", "metrics.json")
"""What a report is, in the folder of a run."""

_FORMAT = 1
_SHOWN = 12  # mistakes, and uncertain images


@dataclass
class Record:
    """A run as its report shows it; every value is plain.

    Attributes:
        run: What was run: ``title``, ``command``, ``facts`` (name to text), ``seconds``.
        data: What it was run on: ``classes``, ``counts`` (part to images of each class),
            ``unknown`` (part to images without a known class), ``examples``.
        views: What the network saw of some images.
        evaluations: What was found on ``val`` and on ``test``, see :func:`describe_evaluation`.
    """

    run: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def describe_evaluation(
    logits: Tensor,
    target: Tensor,
    classes: list[str],
    temperature: float | None,
) -> dict[str, Any]:
    """Sum up an evaluation.

    Args:
        logits: ``(N, C)``, float, of images of known classes, N at least 1.
        target: Their classes ``(N,)``, int64.
        classes: Class names.
        temperature: By which logits are divided for an honest confidence; None where none is known.

    Returns:
        ``images``, ``metrics`` (see :func:`~lightning_ssl.evaluation.scores.total_scores`),
        ``classes`` (name and scores of each), ``confusion`` (class, prediction and count of the
        pairs that there are), ``bins`` before and after the temperature, and ``mistakes`` and
        ``uncertain``, of which each names its ``row``.
    """
    probs = (logits.double() / (temperature or 1.0)).softmax(dim=1)
    matrix = confusion_matrix(logits.argmax(dim=1), target, len(classes))
    scores = class_scores(matrix)
    columns = zip(classes, *(values.tolist() for values in scores), strict=True)
    pairs = torch.nonzero(matrix)
    divisors = {"before": 1.0, "after": temperature}
    return {
        "images": len(target),
        "metrics": total_scores(logits, target, temperature),
        "classes": [dict(zip(("name", *scores._fields), row, strict=True)) for row in columns],
        "confusion": torch.cat([pairs, matrix[pairs.unbind(dim=1)][:, None]], dim=1).tolist(),
        "bins": {
            name: _bins((logits.double() / divisor).softmax(dim=1), target)
            for name, divisor in divisors.items()
            if divisor is not None
        },
        "mistakes": _shown(most_confident_mistakes(probs, target, _SHOWN), probs, target),
        "uncertain": _shown(least_certain(probs, _SHOWN), probs, target),
    }


def _bins(probs: Tensor, target: Tensor) -> list[list[float]]:
    return [
        list(row) for row in zip(*(v.tolist() for v in reliability(probs, target)), strict=True)
    ]


def _shown(rows: Tensor, probs: Tensor, target: Tensor) -> list[dict[str, Any]]:
    best, classes = probs[rows].topk(2, dim=1)
    columns = (rows, target[rows], classes, best)
    names = ("row", "target", "predicted", "confidence")
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(column.tolist() for column in columns), strict=True)
    ]


def describe_projection(
    features: Tensor, target: Tensor, labeled: Tensor | None, labeled_target: Tensor | None
) -> dict[str, Any] | None:
    """Project features to a plane, those of labelled images beside the others.

    Args:
        features: Of evaluated images ``(N, F)``.
        target: Their classes ``(N,)``, int64, -1 where unknown.
        labeled: Of labelled images of training ``(L, F)``, of length 1; None where there are none.
        labeled_target: Their classes ``(L,)``.

    Returns:
        ``points`` (coordinates, class, and whether it is a labelled image) and ``explained``, the
        share of the variance along both axes; None where there is no plane, as with one image.
    """
    both = torch.nn.functional.normalize(features.float())
    marked = torch.zeros(len(both), dtype=torch.bool)
    if labeled is not None and labeled_target is not None:
        both = torch.cat([both, torch.nn.functional.normalize(labeled.float().cpu())])
        target = torch.cat([target, labeled_target])
        marked = torch.cat([marked, torch.ones(len(labeled), dtype=torch.bool)])
    if min(both.shape) < 2 or not both.isfinite().all():
        return None
    points, explained = pca(both)
    columns = (*points.mul(1e4).round().div(1e4).T, target, marked)
    return {
        "points": [list(p) for p in zip(*(column.tolist() for column in columns), strict=True)],
        "explained": explained.tolist(),
    }


def metrics_of(record: Record) -> dict[str, Any]:
    """The final metrics of a run, as ``metrics.json`` has them.

    Args:
        record: The run's.

    Returns:
        ``val`` and ``test``, where there are such, each with ``updates``, ``images``, the numbers
        of :func:`~lightning_ssl.evaluation.scores.total_scores` and those of each class.
    """
    return {
        stage: {
            "updates": found.get("updates"),
            "images": found["images"],
            **found["metrics"],
            "classes": {
                row["name"]: {name: value for name, value in row.items() if name != "name"}
                for row in found["classes"]
            },
        }
        for stage, found in record.evaluations.items()
        if found.get("metrics")
    }


def write_record(record: Record, folder: str | os.PathLike[str]) -> None:
    """Write ``report.json`` and ``metrics.json``; each appears when it is complete.

    Args:
        record: The run's.
        folder: The run's folder.

    Raises:
        OSError: If one cannot be written.
    """
    for name, value in (
        ("report.json", {"format": _FORMAT, **vars(record)}),
        ("metrics.json", metrics_of(record)),
    ):
        indent = 1 if name == "metrics.json" else None
        with writing_text(Path(folder, name)) as file:
            file.write(json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n")


def read_record(folder: str | os.PathLike[str]) -> Record | None:
    """Read ``report.json``.

    Args:
        folder: The run's folder.

    Returns:
        The record; None where there is no such file.

    Raises:
        ValueError: If it is damaged, or of another version of this package.
    """
    path = Path(folder, "report.json")
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.pop("format") != _FORMAT:
            raise ValueError("it is of another version of lightning_ssl")
        return Record(**value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is no record of a report: {error}.") from error


def _finite(value: Any) -> Any:
    """What JSON can say: no number where there is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
