"""What predictions of known images are worth: by class, in total, and whether they are honest."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count predictions by the class that an image has and the one that it gets.

    Args:
        predicted: Classes ``(N,)``, int64.
        target: Classes ``(N,)``, int64.
        num_classes: Number of classes, C.

    Returns:
        ``(C, C)``, int64; a row for each class that images have.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    pairs = target * num_classes + predicted
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


class ClassScores(NamedTuple):
    """Values of each class ``(C,)``, float64 in [0, 1], NaN where there is nothing to divide by.

    Attributes:
        images: How many images have the class, int64.
        accuracy: Share of them that get it, also called recall.
        precision: Share of those that get it that have it.
        f1: Harmonic mean of the two; 0 where no image is right.
    """

    images: Tensor
    accuracy: Tensor
    precision: Tensor
    f1: Tensor

    @property
    def balanced_accuracy(self) -> float:
        """Mean accuracy of the classes that there are."""
        return float(self.accuracy.nanmean())

    @property
    def macro_f1(self) -> float:
        """Mean over the classes that an image has or gets."""
        return float(self.f1.nanmean())


def class_scores(matrix: Tensor) -> ClassScores:
    """Score each class.

    Args:
        matrix: What :func:`confusion_matrix` returns.
    """
    images, gets, right = matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal().double()
    return ClassScores(images, right / images, right / gets, 2 * right / (images + gets))


class Reliability(NamedTuple):
    """Predictions by their confidence, in bins ``(M,)`` of equal width in [0, 1].

    Attributes:
        predictions: How many the bin holds, int64.
        confidence: Their mean confidence, float64; NaN where there are none.
        accuracy: Share of them that are right, likewise.
    """

    predictions: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap between the two, in [0, 1]."""
        gap = (self.confidence - self.accuracy).abs().nan_to_num()
        return float((self.predictions * gap).sum() / self.predictions.sum())


def reliability(probs: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    """Compare confidence with accuracy.

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599, sec. 2.

    Args:
        probs: Probabilities ``(N, C)``.
        target: Classes ``(N,)``, int64.
        bins: Number of bins, M; each holds its lower edge, the last one both.

    Example:
        >>> found = reliability(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]), 2)
        >>> found.predictions.tolist(), round(found.error, 4)
        ([0, 2], 0.35)
    """
    confidence, predicted = probs.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    place = torch.bucketize(confidence, edges, right=True)
    count = torch.bincount(place, minlength=bins)
    sums = [
        torch.bincount(place, weights=values, minlength=bins)
        for values in (confidence, (predicted == target).double())
    ]
    return Reliability(count, *(total / count for total in sums))


def log_likelihood(logits: Tensor, target: Tensor) -> float:
    """Mean negative log likelihood of the classes, at least 0.

    Args:
        logits: ``(N, C)``.
        target: Classes ``(N,)``, int64.
    """
    return float(torch.nn.functional.cross_entropy(logits.double(), target))


def total_scores(logits: Tensor, target: Tensor, temperature: float | None) -> dict[str, Any]:
    """The numbers of an evaluation.

    Args:
        logits: ``(N, C)``, N at least 1.
        target: Classes ``(N,)``, int64.
        temperature: By which logits are divided for an honest confidence; None where none is known.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``nll``, ``ece`` and ``temperature``; and
        ``nll_after`` and ``ece_after``, with the temperature, or None.
    """
    scores = class_scores(confusion_matrix(logits.argmax(dim=1), target, logits.shape[1]))
    found: dict[str, Any] = {
        "accuracy": float((logits.argmax(dim=1) == target).double().mean()),
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
        "temperature": temperature,
    }
    for name, divisor in (("", 1.0), ("_after", temperature)):
        scaled = None if divisor is None else logits.double() / divisor
        found["nll" + name] = None if scaled is None else log_likelihood(scaled, target)
        found["ece" + name] = (
            None if scaled is None else reliability(scaled.softmax(dim=1), target).error
        )
    return found


def most_confident_mistakes(probs: Tensor, target: Tensor, most: int) -> Tensor:
    """Rows that are wrong, the surest first.

    Args:
        probs: Probabilities ``(N, C)``.
        target: Classes ``(N,)``, int64.
        most: How many at most.
    """
    confidence, predicted = probs.max(dim=1)
    wrong = torch.nonzero(predicted != target)[:, 0]
    return wrong[confidence[wrong].argsort(descending=True, stable=True)[:most]]


def least_certain(probs: Tensor, most: int) -> Tensor:
    """Rows whose two most probable classes are closest to each other, the closest first.

    Args:
        probs: Probabilities ``(N, C)``, C at least 2.
        most: How many at most.
    """
    first, second = probs.topk(2, dim=1).values.unbind(dim=1)
    return (first - second).argsort(stable=True)[:most]
