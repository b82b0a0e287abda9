"""What FixMatch and its kin share: the weak view teaches, the strong view learns."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_ssl.checks import check_weights
from lightning_ssl.methods.base import WEAK_STRONG, SSLModule, ViewSpec
from lightning_ssl.methods.corrections import CorrectionName, add_correction
from lightning_ssl.models import keep_statistics
from lightning_ssl.types import Batch


class Predictions(NamedTuple):
    """What a step's losses are made of, after the correction for imbalanced classes.

    Attributes:
        logits_x: Of the labelled images, ``(B, C)``.
        probs: What the weak view of the unlabelled images teaches, ``(U, C)``, without gradient.
        logits_strong: Of their strong view, ``(U, C)``.
        further: Further losses by name, each of weight 1; none without a correction.
    """

    logits_x: Tensor
    probs: Tensor
    logits_strong: Tensor
    further: dict[str, Tensor]


class WeakStrongModule(SSLModule, ABC):
    """Base of methods with a labelled weak, an unlabelled weak and an unlabelled strong view.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0.
        separate_weak: Whether the weak view of the unlabelled images takes a pass of its own,
            without gradient, which is faster. BatchNorm then normalises it by itself, and its
            running statistics come from the other views, which costs accuracy.
        imbalance: Correction for classes of which few images are labelled:
            :class:`~lightning_ssl.methods.corrections.LogitAdjustment`,
            :class:`~lightning_ssl.methods.corrections.ProgressiveAlignment`,
            :class:`~lightning_ssl.methods.corrections.ABCHead`, a balanced classifier that then is
            what predicts, or null for none.
        imbalance_args: Further arguments of that class.
        class_counts: Labelled images of each class, for ``imbalance``; taken from the data on the
            command line.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range, the name or an option of the correction is
            unknown, or the method takes none.
    """

    def __init__(
        self,
        num_classes: int,
        lambda_u: float = 1.0,
        separate_weak: bool = False,
        imbalance: CorrectionName | None = None,
        imbalance_args: dict[str, Any] | None = None,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_u=lambda_u)
        self.lambda_u, self.separate_weak = lambda_u, separate_weak
        if imbalance is not None and self.no_correction is not None:
            raise ValueError(
                f"`imbalance` must be null for {type(self).__name__}, {self.no_correction}, got "
                f"{imbalance!r}."
            )
        self.imbalance = add_correction(self, imbalance, imbalance_args, class_counts)

    @property
    def views(self) -> ViewSpec:
        """A weak view of every image, and a strong one of the unlabelled images."""
        return WEAK_STRONG

    def predict_views(self, batch: Batch) -> Predictions:
        """Predictions for the three views.

        Args:
            batch: The batch.
        """
        features, target = self.embed_views(batch), batch.labeled.target
        logits_x, logits_weak, logits_strong = map(self.head, features)
        probs = self.imbalance.teach(logits_weak, target, self)  # first: what learns asks for it
        return Predictions(
            self.imbalance.labeled(logits_x),
            probs,
            self.imbalance.learn(logits_strong),
            self.imbalance.losses(lambda: features, target, self),
        )

    def embed_views(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the three views.

        Args:
            batch: The batch.

        Returns:
            Features of the labelled images ``(B, F)``, of the weak view of the unlabelled ones
            ``(U, F)``, detached, and of their strong view ``(U, F)``.
        """
        x, u = batch.labeled.views, batch.unlabeled.views
        if self.separate_weak:
            with torch.no_grad(), keep_statistics(self):
                weak = self.embed(u["weak"][0])
            (labeled,), (strong,) = self.features_together(x["weak"], u["strong"])
        else:
            (labeled,), (weak,), (strong,) = self.features_together(
                x["weak"], u["weak"], u["strong"]
            )
        return labeled, weak.detach(), strong
