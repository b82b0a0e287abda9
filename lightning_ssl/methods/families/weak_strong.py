"""What FixMatch and its kin share: the weak view teaches, the strong view learns."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.checks import check_weights
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.models import keep_statistics
from lightning_ssl.types import Batch


class WeakStrongModule(SSLModule, ABC):
    """Base of methods with a labelled weak, an unlabelled weak and an unlabelled strong view.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0.
        separate_weak: Whether the weak view of the unlabelled images takes a pass of its own,
            without gradient, which is faster. BatchNorm then normalises it by itself, and its
            running statistics come from the other views, which costs accuracy.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        lambda_u: float = 1.0,
        separate_weak: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_u=lambda_u)
        self.lambda_u, self.separate_weak = lambda_u, separate_weak

    @property
    def views(self) -> ViewSpec:
        """A weak view of every image, and a strong one of the unlabelled images."""
        return {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 1}}

    def predict_views(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the three views.

        Args:
            batch: The batch.

        Returns:
            Logits of the labelled images ``(B, C)``, of the weak view of the unlabelled ones
            ``(U, C)``, detached, and of their strong view ``(U, C)``.
        """
        features_x, features_weak, features_strong = self.embed_views(batch)
        logits_weak = self.classifier(features_weak).detach()
        return self.classifier(features_x), logits_weak, self.classifier(features_strong)

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
