"""Top-1, top-5 and calibration error."""

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
