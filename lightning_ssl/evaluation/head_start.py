"""First weights of a linear classifier of unit features, with logits that say how sure it is."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.evaluation.probe import LinearProbe, deal_out, logistic_regression

HeadStartName = Literal["class_means", "probe"]

_SCALES = (0.1, 100.0)
_PARTS = 10
_LENGTH = 10.0  # of weights whose confidence is not known: the temperature 0.1 of neighbours

_Fit = Callable[[Tensor, Tensor], LinearProbe]


def _class_means(rows: Tensor, target: Tensor) -> LinearProbe:
    means = functional.normalize(functional.one_hot(target).to(rows).T @ rows)
    return LinearProbe(means, means.new_zeros(len(means)))


def _probe(rows: Tensor, target: Tensor) -> LinearProbe:
    return logistic_regression(rows, target, standardize=False)


_FITS: dict[str, _Fit] = {"class_means": _class_means, "probe": _probe}


def start_classifier(
    kind: HeadStartName, features: Tensor, target: Tensor, num_classes: int
) -> LinearProbe:
    r"""Fit a classifier of normalised features, and scale its logits to an honest confidence.

    ``class_means``: the weight of a class is its mean feature, normalised; no bias. ``probe``: a
    logistic regression, whose penalty keeps it near the means where rows are few.

    All logits are then multiplied by one number in [0.1, 100], so that the mean confidence in
    left-out rows equals their accuracy. Rows are left out in up to ten parts, each with its share
    of every class: without its row alone, a class would be at a disadvantage. The row of a class
    that has no other stays. Where all classes are such, the weights of a class get the mean length
    10: the temperature of soft nearest neighbours, 0.1.

    Args:
        kind: ``class_means`` or ``probe``.
        features: Of the labelled images, ``(N, F)``, any real; normalised here.
        target: Their classes ``(N,)``, int64; each of ``[0, num_classes)`` must occur.
        num_classes: Number of classes C.

    Returns:
        The classifier, float64 and on the CPU, whatever the device: it is the same everywhere.

    Raises:
        ValueError: If a class has no image.
    """
    rows, target = functional.normalize(features.double().cpu()), target.cpu()
    counts = torch.bincount(target, minlength=num_classes)
    if not counts.all():
        raise ValueError(
            "`head_init` must be 'none' where a class has no labelled image, got none of class "
            f"{int(counts.argmin())} (counted from 0)."
        )
    fit = _FITS[kind]
    found = fit(rows, target)
    left = (counts[target] > 1).nonzero().flatten()
    scale = (
        honest_scale(*_leave_out(fit, rows, target, left))
        if len(left)
        else _LENGTH / float(found.weight.norm(dim=1).mean())
    )
    return LinearProbe(found.weight * scale, found.bias * scale)


def _leave_out(fit: _Fit, rows: Tensor, target: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of left-out rows, part by part, and their classes."""
    part = torch.full_like(target, -1)
    part[left] = deal_out(target, _PARTS)[left]
    logits, classes = [], []
    for number in part[left].unique():
        out = part == number
        probe = fit(rows[~out], target[~out])
        logits.append(rows[out] @ probe.weight.T + probe.bias)
        classes.append(target[out])
    return torch.cat(logits), torch.cat(classes)


def honest_scale(logits: Tensor, target: Tensor) -> float:
    """Number in [0.1, 100] with which logits have a mean confidence equal to their accuracy.

    An accuracy of N rows counts as 1 - 1 / (2 N) at most.

    Args:
        logits: Of rows that the classifier has not seen, ``(N, C)``, float64.
        target: Their classes ``(N,)``.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64)
        >>> round(honest_scale(logits, torch.tensor([0, 0, 0, 1])), 4)  # ln 3
        1.0986
    """
    right = (logits.argmax(dim=1) == target).double().mean()
    accuracy = min(float(right), 1 - 1 / (2 * len(target)))
    low, high = _SCALES
    for _ in range(60):
        middle = (low * high) ** 0.5
        confidence = (middle * logits).softmax(dim=1).amax(dim=1).mean()
        low, high = (middle, high) if confidence < accuracy else (low, middle)
    return low
