"""What every evaluation logs: accuracies, F1, likelihood and calibration error."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

SMALLER_IS_BETTER = ("nll", "ece", "loss")
"""How the names of logged values end of which the smallest is best."""


def evaluation_metrics(num_classes: int) -> MetricCollection:
    """Metrics of every evaluation, fed with probabilities ``(B, C)`` and targets ``(B,)``.

    Args:
        num_classes: Number of classes.

    Returns:
        ``acc`` (top-1 over all images, in [0, 1]), ``acc_top5`` where there are more than five
        classes, ``balanced_acc`` (mean over the classes that there are of their accuracies),
        ``f1`` (mean over the classes of the harmonic mean of precision and recall), ``nll`` (mean
        negative log likelihood, at least 0) and ``ece`` (expected calibration error, 15 bins of
        equal width, l1; Guo et al., 2017, https://arxiv.org/abs/1706.04599).
    """
    # `acc` sees wrong input first; the others do not look for it again.
    metrics: dict[str, Metric | MetricCollection] = {
        "acc": MulticlassAccuracy(num_classes, average="micro"),
        "ece": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", validate_args=False),
        "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
        "balanced_acc": BalancedAccuracy(num_classes, average="none", validate_args=False),
        "nll": NegativeLogLikelihood(),
    }
    groups = [["acc"], ["ece"], ["f1", "balanced_acc"], ["nll"]]  # two of the same counts
    if num_classes > 5:
        metrics["acc_top5"] = MulticlassAccuracy(
            num_classes, average="micro", top_k=5, validate_args=False
        )
        groups.append(["acc_top5"])
    return MetricCollection(metrics, compute_groups=groups)


class BalancedAccuracy(MulticlassAccuracy):
    """Mean of the accuracies of the classes that there are, as scikit-learn has it.

    The mean of torchmetrics' own also counts, with 0, classes that are only predicted.

    Example:
        >>> metric = BalancedAccuracy(3, average="none")
        >>> metric.update(torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.5
    """

    tp: Tensor
    fn: Tensor

    def compute(self) -> Tensor:
        """Mean accuracy, in [0, 1]; NaN without images."""
        seen = self.tp + self.fn
        return (self.tp / seen)[seen > 0].mean()


class NegativeLogLikelihood(Metric):
    """Mean of the negative logarithm of the right class's probability.

    A probability that float32 rounds to zero counts as its smallest normal number.

    Example:
        >>> metric = NegativeLogLikelihood()
        >>> metric.update(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([0, 0]))
        >>> round(metric.compute().item(), 4)  # ln 4 / 2
        0.6931
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            probs: Probabilities ``(B, C)``.
            target: Classes ``(B,)``, int64.
        """
        right = probs.float().gather(1, target[:, None])
        self.total += -right.clamp_min(torch.finfo(torch.float32).tiny).log().sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        """Mean, at least 0; NaN without images."""
        return self.total / self.count


def count_right(probs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count the right predictions, and all of them, where classes are known.

    Args:
        probs: Probabilities ``(B, C)``.
        target: Classes ``(B,)``, int64, -1 where unknown.
        mask: Rows that count, ``(B,)``, bool; None for all.

    Returns:
        The two counts ``(2,)``, float32.
    """
    kept = target >= 0 if mask is None else mask & (target >= 0)
    right = kept & (probs.argmax(dim=1) == target)
    return torch.stack([right.sum(), kept.sum()]).float()
