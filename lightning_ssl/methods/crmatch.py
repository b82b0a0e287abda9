"""CRMatch: FixMatch whose features tell views apart, and how an image was turned."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_count, check_fraction, check_weights
from lightning_ssl.losses import (
    cross_entropy,
    distance_loss,
    four_rotations,
    pseudo_label_loss,
    rotation_labels,
    softmax,
)
from lightning_ssl.methods.base import WEAK_STRONG, SSLModule
from lightning_ssl.models import ProjectionHead, features_and_map
from lightning_ssl.types import Batch, as_batch


class CRMatch(SSLModule):
    r"""CRMatch: consistent predictions from features that differ between the views.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \frac{1}{\mu B} \sum_j
        m_j \big[ \lambda_u H(\hat y_j, p(\mathcal{A}(u_j))) + \lambda_d
        \max\{0, \cos(d(\alpha(u_j)), d(\mathcal{A}(u_j)))\} \big]
        + \lambda_{rot} \frac{1}{4R} \sum_{i, k} H(k, q(\alpha(u_{ik})))

    with FixMatch's mask :math:`m_j` and label :math:`\hat y_j`. :math:`d` is a linear map of the
    feature map before it is pooled, :math:`q` a head with a hidden layer on the pooled features of
    R unlabelled images turned by k quarter turns: as many as there are labelled ones in the step,
    or a few more where the unlabelled batch is no multiple of the labelled one.

    Reference: Fan et al., 2021, https://arxiv.org/abs/2112.05825, in the form of
    microsoft/Semi-supervised-learning.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        image_side: Side of the images in pixels; taken from the data on the command line.
        threshold: Confidence in [0, 1] above which a pseudo-label counts.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0.
        lambda_distance: Weight of the distance loss, at least 0.
        lambda_rotation: Weight of the rotation loss, at least 0.
        in_channels: Channels of the images; taken from the data on the command line.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which turns images and reads maps of features"
    no_correction = "whose features learn beside the logits"

    views = WEAK_STRONG
    """A weak view of every image, and a strong one of the unlabelled images."""

    def __init__(
        self,
        num_classes: int,
        image_side: int,
        threshold: float = 0.95,
        lambda_u: float = 1.0,
        lambda_distance: float = 1.0,
        lambda_rotation: float = 1.0,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, **kwargs)
        check_weights(
            lambda_u=lambda_u, lambda_distance=lambda_distance, lambda_rotation=lambda_rotation
        )
        self.threshold, self.lambda_u = check_fraction("threshold", threshold), lambda_u
        self.lambda_distance, self.lambda_rotation = lambda_distance, lambda_rotation
        self.rotation: nn.Module = ProjectionHead(self.num_features, 4, layers=2, norm="none")
        size = self._map_size(in_channels, check_count("image_side", image_side))
        self.distance: nn.Module = nn.Linear(size, self.num_features)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of four losses, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        images_x, weak, strong = x.views["weak"][0], u.views["weak"][0], u.views["strong"][0]
        # Spread over the batch: where it is a multiple of the labelled one, any number of processes
        # turns the same images.
        turned = four_rotations(weak[:: max(1, len(weak) // len(images_x))])
        images = [images_x, weak, strong, turned]
        sizes = [len(part) for part in images]
        features, maps = features_and_map(self.backbone, torch.cat(images))
        logits_x, logits_weak, logits_strong, _ = self.classifier(features).split(sizes)
        _, map_weak, map_strong, _ = maps.flatten(1).split(sizes)

        loss_x = cross_entropy(logits_x, x.target)
        probs = softmax(logits_weak.detach())
        loss_u, mask = pseudo_label_loss(
            logits_strong, probs, threshold=self.threshold, kept=u.kept
        )
        loss_distance = distance_loss(self.distance(map_weak), self.distance(map_strong), mask)
        turns = self.rotation(features[-len(turned) :])
        loss_rotation = cross_entropy(turns, rotation_labels(turns))
        loss = (
            loss_x
            + self.lambda_u * loss_u
            + self.lambda_distance * loss_distance
            + self.lambda_rotation * loss_rotation
        )

        self.log_losses(loss, x=loss_x, u=loss_u, distance=loss_distance, rotation=loss_rotation)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        return loss

    @torch.no_grad()
    def _map_size(self, channels: int, side: int) -> int:
        """Values in the feature map of an image."""
        self.backbone.eval()  # an image of zeros shall leave BatchNorm's statistics alone
        _, found = features_and_map(self.backbone, torch.zeros(1, channels, side, side))
        self.train()
        return found[0].numel()
