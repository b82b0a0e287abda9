"""What CoMatch and SimMatch share: embeddings beside the classes, and aligned predictions."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_ssl.checks import check_count, check_fraction, check_temperature, check_weights
from lightning_ssl.losses import align, promote, softmax
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.models import ProjectionHead
from lightning_ssl.state.averages import WindowMean


class EmbeddingModule(SSLModule, ABC):
    """Base of methods that compare embeddings and let similar images correct a prediction.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        embedding_dim: Width of the embeddings.
        temperature: Of similarities, above 0, in units of the cosine.
        threshold: Confidence in [0, 1] above which a pseudo-label counts.
        lambda_u: Weight of the pseudo-labels' loss relative to the labelled one, at least 0.
        smoothing: Share in [0, 1] of its own prediction in an image's pseudo-label; the rest is
            that of similar images.
        window: Number of batches over whose mean prediction the classes are made equally frequent.
        hidden_features: Width of the heads' hidden layer; null for that of the network, as in the
            papers. Beside a frozen network it is most of a step's cost.
        heads: Number of heads whose mean is the embedding; EPASS
            (https://arxiv.org/abs/2310.15764) has 3.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = "which makes classes equally frequent itself"

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        temperature: float,
        threshold: float = 0.95,
        lambda_u: float = 1.0,
        smoothing: float = 0.9,
        window: int = 32,
        hidden_features: int | None = None,
        heads: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_count("embedding_dim", embedding_dim)
        check_weights(lambda_u=lambda_u)
        self.temperature, self.lambda_u = check_temperature(temperature), lambda_u
        self.threshold = check_fraction("threshold", threshold)
        self.smoothing = check_fraction("smoothing", smoothing)
        self.projections = nn.ModuleList(
            ProjectionHead(self.num_features, embedding_dim, hidden_features, layers=2, norm="none")
            for _ in range(check_count("heads", heads))
        )
        # From zero: until the window is full its mean is that of the batches so far times the share
        # of slots that they fill. Alignment cancels that factor, except that its constant of 1e-6
        # weighs up to `window` times as much, 32e-6 in the first batch.
        self.mean_probs = WindowMean(torch.zeros(num_classes), window)

    def embed_together(self, *views: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Logits and embeddings from one pass, so that BatchNorm sees one batch.

        Args:
            *views: Images ``(1, B, C, H, W)`` of one size; B may differ.

        Returns:
            For each view logits ``(B, num_classes)`` and embeddings ``(B, embedding_dim)``, of
            length 1, float32 at least.
        """
        features = self.embed(torch.cat([view[0] for view in views]))
        z = promote(torch.stack([head(features) for head in self.projections])).mean(dim=0)
        counts = [view.shape[1] for view in views]
        logits = self.classifier(features).split(counts)
        return list(zip(logits, normalize(z).split(counts), strict=True))

    def aligned_probs(self, logits: Tensor) -> Tensor:
        """Predictions after all classes were made equally frequent; the batch takes part.

        Logs the mean over the window, each class's share of it, as ``train/predicted_<class>``.

        Args:
            logits: Of this process's images, ``(B, num_classes)``.

        Returns:
            Probabilities ``(B, num_classes)``, without gradient.
        """
        probs = softmax(logits.detach())
        self.mean_probs.update(probs.mean(dim=0))
        mean = self.mean_probs.value
        self.log_classes("predicted", mean / mean.sum())
        return align(probs, torch.full_like(mean, 1 / self.num_classes), mean)
