"""What methods share whose threshold may be FlexMatch's of each class."""

from abc import ABC
from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.class_memory import ClassMemory


class ClassThresholdsModule(SSLModule, ABC):
    """Base of methods with one threshold for all classes, or FlexMatch's of each.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence in [0, 1] above which a prediction counts.
        class_thresholds: Whether the threshold is FlexMatch's of each class, at most ``threshold``,
            see :class:`~lightning_ssl.methods.class_memory.ClassMemory`.
        num_unlabeled: Length of the unlabelled list, which class thresholds need; taken from the
            data on the command line.
        **kwargs: Arguments of the next class.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        threshold: float,
        class_thresholds: bool = False,
        num_unlabeled: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.threshold = check_fraction("threshold", threshold)
        self.memory = (
            ClassMemory(num_classes, num_unlabeled, threshold) if class_thresholds else None
        )

    def threshold_for(self, probs: Tensor, index: Tensor) -> float | Tensor:
        """The threshold; see :meth:`ClassMemory.thresholds_for` for those of each class.

        Args:
            probs: Predictions for this process's unlabelled images, ``(B, C)``.
            index: Their positions in the unlabelled list, ``(B,)``, int64.

        Returns:
            For all classes, or of each class ``(C,)``.
        """
        if self.memory is None:
            return self.threshold
        return self.memory.thresholds_for(probs, index, self)
