"""What a baseline starts from, and what it finds."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Transduced(NamedTuple):
    """Probabilities of classes, float32 at least; rows sum to 1.

    A class without a labelled row has probability 0.

    Attributes:
        train: Of all training rows ``(N, C)``, the labelled ones included.
        test: Of the new rows ``(M, C)``.
    """

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Pool:
    """Features of training images, of which some have a label, and of new images.

    Args:
        features: Of the training images ``(N, F)``, any finite real.
        rows: Which of them have a label ``(L,)``, int64 in ``[0, N)``, each once; two at least have
            none.
        target: Their classes ``(L,)``, int64 in ``[0, num_classes)``, two of them at least. Others
            may have no row.
        num_classes: Number of classes C.
        test: Features of images that are predicted and not learnt from, ``(M, F)``.

    Raises:
        ValueError: If a shape, a row or a class does not fit, or a value is not finite.
    """

    features: Tensor
    rows: Tensor
    target: Tensor
    num_classes: int
    test: Tensor

    def __post_init__(self) -> None:
        """See that the parts fit."""
        for name, values in (("features", self.features), ("test", self.test)):
            if values.ndim != 2 or values.shape[1:] != self.features.shape[1:]:
                raise ValueError(
                    f"`{name}` must have the shape (images, features), the same number of features "
                    f"for training and test images, got {tuple(values.shape)}."
                )
            if not values.isfinite().all():
                raise ValueError(f"`{name}` must be finite, got infinite values or NaN.")
        _check_range("rows", self.rows, len(self.features))
        _check_range("target", self.target, self.num_classes)
        if len(self.rows.unique()) != len(self.rows):
            raise ValueError("`rows` must name each labelled row once, got some twice.")
        if len(self.features) - len(self.rows) < 2:
            raise ValueError(
                f"`rows` must leave two rows without a label at least, got {len(self.rows)} of "
                f"{len(self.features)} rows."
            )
        if len(self.rows) != len(self.target):
            raise ValueError(
                f"`target` must have a class for each of the {len(self.rows)} labelled rows, got "
                f"{len(self.target)}."
            )
        if len(self.classes) < 2:
            raise ValueError(
                f"`target` must hold two classes at least, got {self.classes.tolist()}."
            )

    @property
    def support(self) -> Tensor:
        """Features of the labelled rows ``(L, F)``."""
        return self.features[self.rows]

    @property
    def labels(self) -> Tensor:
        """One-hot classes of the labelled rows ``(L, C)``, float32."""
        return functional.one_hot(self.target, self.num_classes).float()

    @property
    def classes(self) -> Tensor:
        """Classes that have a labelled row, ascending, int64."""
        classes: Tensor = self.target.unique()
        return classes

    @property
    def unlabeled(self) -> Tensor:
        """Training rows without a label ``(N - L,)``, ascending, int64."""
        without = torch.ones(len(self.features), dtype=torch.bool, device=self.features.device)
        without[self.rows] = False
        return without.nonzero().flatten()


def _check_range(name: str, values: Tensor, end: int) -> None:
    if len(values) and not 0 <= values.min() <= values.max() < end:
        raise ValueError(
            f"`{name}` must be in [0, {end}), got values from {values.min()} to {values.max()}."
        )
