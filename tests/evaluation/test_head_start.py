"""First weights of a classifier against loops over rows, left out one by one."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ssl.evaluation.head_start import honest_scale, start_classifier
from lightning_ssl.evaluation.probe import logistic_regression

Labelled = tuple[Tensor, Tensor]


def draw(counts: list[int], width: int = 6, noise: float = 1.5, seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    target = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    target = target[torch.randperm(len(target), generator=generator)]
    centers = torch.randn(len(counts), width, generator=generator)
    rows = centers[target] + noise * torch.randn(len(target), width, generator=generator)
    return rows * torch.rand(len(target), 1, generator=generator).add(0.1), target


def unit(row: Tensor) -> Tensor:
    row = row.double()
    return row / (row @ row).sqrt()


def means(rows: list[Tensor], classes: list[int], count: int) -> list[Tensor]:
    return [
        unit(sum(row for row, y in zip(rows, classes, strict=True) if y == c))  # type: ignore
        for c in range(count)
    ]


def gap(scale: float, logits: list[Tensor], classes: list[int]) -> float:
    """Mean confidence less accuracy."""
    sure = [max(torch.softmax(scale * z, dim=0).tolist()) for z in logits]
    right = [int(z.argmax()) == y for z, y in zip(logits, classes, strict=True)]
    return sum(sure) / len(sure) - sum(right) / len(right)


def parts_of(counts: list[int], target: Tensor) -> list[list[int]]:
    """Rows that are left out together: the first of each class, the second, ..."""
    parts: list[list[int]] = [[] for _ in range(10)]
    for c, count in enumerate(counts):
        for place, row in enumerate((target == c).nonzero()[:, 0].tolist()):
            if count > 1:
                parts[place % 10].append(row)
    return [part for part in parts if part]


Fit = Callable[[list[Tensor], list[int], int], tuple[list[Tensor], list[float]]]


def fit_means(
    rows: list[Tensor], classes: list[int], count: int
) -> tuple[list[Tensor], list[float]]:
    return means(rows, classes, count), [0.0] * count


def fit_probe(
    rows: list[Tensor], classes: list[int], count: int
) -> tuple[list[Tensor], list[float]]:
    probe = logistic_regression(torch.stack(rows), torch.tensor(classes), standardize=False)
    return list(probe.weight), probe.bias.tolist()


@pytest.mark.parametrize("counts", [[4, 3, 1, 5], [2, 2], [19, 28, 7]])
@pytest.mark.parametrize(("kind", "fit"), [("class_means", fit_means), ("probe", fit_probe)])
def test_a_start(kind: Any, fit: Fit, counts: list[int]) -> None:
    features, target = draw(counts)
    found = start_classifier(kind, features, target, len(counts))
    assert found.weight.dtype == torch.float64
    rows, classes = [unit(row) for row in features], target.tolist()
    weight, bias = fit(rows, classes, len(counts))
    scale = (found.weight.norm() / torch.stack(weight).norm()).item()
    torch.testing.assert_close(found.weight, scale * torch.stack(weight), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.bias, scale * torch.tensor(bias, dtype=torch.float64))

    logits, left = [], []
    for part in parts_of(counts, target):
        kept = [i for i in range(len(rows)) if i not in part]
        fitted = fit([rows[i] for i in kept], [classes[i] for i in kept], len(counts))
        for i in part:
            logits.append(torch.stack([w @ rows[i] + b for w, b in zip(*fitted, strict=True)]))
            left.append(classes[i])
    assert len(left) == sum(n for n in counts if n > 1)
    right = sum(int(z.argmax()) == y for z, y in zip(logits, left, strict=True))
    difference = gap(scale, logits, left) + (1 / (2 * len(left)) if right == len(left) else 0)
    # Where hardly any row is right or hardly any sure, the range ends the search.
    end = 100 if difference < 0 else 0.1
    assert difference == pytest.approx(0, abs=1e-9) or scale == pytest.approx(end)


@pytest.mark.parametrize(("logits", "right", "scale"), [
    ([[1.0, 0.0]] * 4, 3, math.log(3)),  # three of four
    ([[1.0, 0.0]] * 10, 10, math.log(19)),  # all of ten count as 19 of 20
    ([[0.0, 0.0]] * 3, 3, 100.0), ([[0.01, 0.0]] * 8, 8, 100.0),  # never sure
    ([[1.0, 0.0]] * 4, 0, 0.1),  # never right
])  # fmt: skip
def test_confidence_becomes_honest(logits: list[list[float]], right: int, scale: float) -> None:
    target = torch.tensor([0] * right + [1] * (len(logits) - right))
    found = honest_scale(torch.tensor(logits, dtype=torch.float64), target)
    assert found == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize(("kind", "fit"), [("class_means", fit_means), ("probe", fit_probe)])
def test_one_row_a_class_says_nothing_of_confidence(kind: Any, fit: Fit) -> None:
    features, target = draw([1, 1, 1])
    found = start_classifier(kind, features, target, 3)
    plain = torch.stack(fit([unit(row) for row in features], target.tolist(), 3)[0])
    length = sum(row.norm().item() for row in plain) / 3
    torch.testing.assert_close(found.weight, plain * 10 / length)


def test_every_class_needs_a_row() -> None:
    with pytest.raises(ValueError, match=r"`head_init` must be 'none' .* got none of class 1 "):
        start_classifier("class_means", torch.ones(3, 2), torch.tensor([0, 0, 2]), 3)
