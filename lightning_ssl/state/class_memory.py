"""Thresholds of FlexMatch: classes that are learnt later need less confidence."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_count, check_fraction, check_index
from lightning_ssl.distributed import gather
from lightning_ssl.losses import confident
from lightning_ssl.types import Logger

Mapping = Literal["convex", "linear", "concave"]
_MAPPINGS = ("convex", "linear", "concave")


class FixedThreshold(nn.Module):
    """One threshold for all classes, with the interface of :class:`ClassMemory`.

    Args:
        threshold: Confidence in [0, 1].

    Raises:
        ValueError: If it is outside its range.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = check_fraction("threshold", threshold)

    def thresholds_for(self, probs: Tensor, index: Tensor, method: Logger) -> float:
        """The threshold, whatever the batch."""
        return self.threshold


class ClassMemory(nn.Module):
    r"""Remembers the last confident class of each unlabelled image; sets a threshold per class.

    With :math:`\sigma(c)` the images remembered as c and U those never predicted with confidence,

    .. math::
        \beta(c) = \frac{\sigma(c)}{\max\{\max_k \sigma(k), U\}}, \qquad
        \mathcal{T}(c) = \tau M(\beta(c)), \quad M(x) = \frac{x}{2 - x}

    At the start all thresholds are 0 and every image counts; what is remembered is decided by
    :math:`\tau` itself. An entry is replaced by another class, never erased.

    Reference: Zhang et al., 2021, https://arxiv.org/abs/2110.08263, eq. 5 to 11.

    Args:
        num_classes: Number of classes C.
        num_unlabeled: Length of the unlabelled list N.
        threshold: :math:`\tau` in [0, 1].
        mapping: M: ``convex`` for x / (2 - x), ``linear`` for x, ``concave`` for ln(1 + x) / ln 2.
        warmup: Whether U takes part; without it one confident image lifts its class to the top.

    Raises:
        ValueError: If an argument is outside its range.
    """

    classes: Tensor
    """Class of each image of the unlabelled list ``(N,)``, int64, -1 where there was none yet."""

    def __init__(
        self,
        num_classes: int,
        num_unlabeled: int,
        threshold: float,
        mapping: Mapping = "convex",
        warmup: bool = True,
    ) -> None:
        super().__init__()
        check_count("num_unlabeled", num_unlabeled)
        if mapping not in _MAPPINGS:
            raise ValueError(f"`mapping` must be one of {_MAPPINGS}, got {mapping!r}.")
        self.num_classes, self.mapping, self.warmup = num_classes, mapping, warmup
        self.threshold = check_fraction("threshold", threshold)
        self.register_buffer("classes", torch.full((num_unlabeled,), -1))

    def thresholds_for(self, probs: Tensor, index: Tensor, method: Logger) -> Tensor:
        """Thresholds for a batch, by what was known before it; then it is remembered.

        Logs ``train/threshold_<class>``, and as ``train/unseen_rate`` the share of the list that
        has no class after the batch. Call it on all processes.

        Args:
            probs: Predictions for this process's images, ``(B, C)``.
            index: Positions of the images in the unlabelled list, ``(B,)``, int64.
            method: Who logs.

        Returns:
            See :meth:`thresholds`.

        Raises:
            ValueError: If the batch does not say which images it has.
        """
        thresholds = self.thresholds()
        self.update(probs, index)
        method.log_classes("threshold", thresholds)
        method.log("train/unseen_rate", (self.classes < 0).float().mean())
        return thresholds

    def thresholds(self) -> Tensor:
        """Threshold of each class ``(C,)``, float32 in [0, ``threshold``]."""
        counts = torch.zeros(self.num_classes + 1, device=self.classes.device)
        counts.scatter_add_(0, self.classes + 1, torch.ones_like(self.classes, dtype=counts.dtype))
        unused, counts = counts[0], counts[1:]
        most = counts.max()
        # With nothing confident yet every count is 0, and so is its share.
        beta = counts / (torch.maximum(most, unused) if self.warmup else most).clamp(min=1)
        if self.mapping == "convex":
            beta = beta / (2 - beta)
        elif self.mapping == "concave":
            beta = (1 + beta).log2()
        return self.threshold * beta

    @torch.no_grad()
    def update(self, probs: Tensor, index: Tensor) -> None:
        """Remember the confident predictions of a batch; call it on all processes.

        Args:
            probs: Predictions for this process's images, ``(B, C)``.
            index: Positions of the images in the unlabelled list, ``(B,)``, int64.

        Raises:
            ValueError: If the batch does not say which images it has.
        """
        label, mask = confident(probs, self.threshold)
        label, index = gather(label.where(mask, -1)), gather(check_index("unlabeled", index))
        # An image that is in the batch twice gets the same class on every process.
        new = torch.full_like(self.classes, -1).scatter_reduce_(0, index, label, "amax")
        self.classes.copy_(new.where(new >= 0, self.classes))


def build_thresholds(
    threshold: float, num_classes: int, num_unlabeled: int, by_class: bool
) -> FixedThreshold | ClassMemory:
    """One threshold for all classes, or FlexMatch's of each.

    Args:
        threshold: Confidence in [0, 1]; of the best learnt class where they differ.
        num_classes: Number of classes.
        num_unlabeled: Length of the unlabelled list, which those of classes need.
        by_class: Whether each class has its own.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if by_class:
        return ClassMemory(num_classes, num_unlabeled, threshold)
    return FixedThreshold(threshold)
