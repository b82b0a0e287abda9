"""Top-1, top-5 and calibration error."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError


def evaluation_metrics(num_classes: int) -> MetricCollection:
    """Metrics of every evaluation, fed with probabilities ``(B, C)`` and targets ``(B,)``.

    Args:
        num_classes: Number of classes.

    Returns:
        ``acc`` (top-1 over all images, in [0, 1]), ``acc_top5`` where there are more than five
        classes, and ``ece`` (expected calibration error, 15 bins of equal width, l1; Guo et al.,
        2017, https://arxiv.org/abs/1706.04599).
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "acc": MulticlassAccuracy(num_classes, average="micro"),
        "ece": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
    }
    if num_classes > 5:
        metrics["acc_top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    # The metrics share no state; looking for shared states would only compare tensors.
    return MetricCollection(metrics, compute_groups=False)


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
