"""S4L-Rotation: classes of the labelled images, and how every image was turned."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_weights
from lightning_ssl.losses import cross_entropy, four_rotations, rotation_loss
from lightning_ssl.methods.base import WEAK, SSLModule
from lightning_ssl.models import LinearHead
from lightning_ssl.types import Batch, as_batch


class S4LRotation(SSLModule):
    r"""S4L-Rotation: every image goes in turned by 0, 90, 180 and 270 degrees.

    .. math::
        \frac{1}{4B} \sum_{b, k} H(y_b, p(x_{bk})) + \lambda_{rot} \, \frac{1}{2} \Big[
        \frac{1}{4U} \sum_{i, k} H(k, q(u_{ik})) + \frac{1}{4B} \sum_{b, k} H(k, q(x_{bk})) \Big]

    with :math:`k` quarter turns, :math:`p` the class and :math:`q` a second linear head for the
    turn. The class loss takes all four copies.

    Reference: Zhai et al., 2019, https://arxiv.org/abs/1905.03670.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_rotation: Weight of the rotation loss, at least 0.
        average_rotations: Whether evaluation and prediction average the logits of the four turned
            copies, at four times the cost, instead of those of the image as it is.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which turns images"
    no_head_init = "which may average features over turned copies"
    views = WEAK
    """A weak view of every image; its four turned copies share it."""

    def __init__(
        self,
        num_classes: int,
        lambda_rotation: float = 1.0,
        average_rotations: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_rotation=lambda_rotation)
        self.lambda_rotation = lambda_rotation
        self.average_rotations = average_rotations
        self.rotation: nn.Module = LinearHead(self.num_features, 4)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class plus rotation loss, see :meth:`SSLModule.training_step`."""
        loss_x, loss_rotation, _, _ = self.turned(as_batch(batch, self.views))
        loss = loss_x + self.lambda_rotation * loss_rotation

        self.log_losses(loss, x=loss_x, rotation=loss_rotation)
        return loss

    def turned(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass over the four turned copies of all images, labelled and unlabelled.

        Args:
            batch: The batch.

        Returns:
            Class loss and rotation loss; the turned unlabelled images ``(4 * U, C, S, S)`` and
            their class logits ``(4 * U, num_classes)``.
        """
        x, u = batch.labeled, batch.unlabeled
        images_x, images_u = (four_rotations(s.views["weak"][0]) for s in (x, u))
        features = self.embed(torch.cat([images_x, images_u]))
        sizes = [len(images_x), len(images_u)]
        logits_x, logits_u = self.classifier(features).split(sizes)
        turns_x, turns_u = self.rotation(features).split(sizes)
        loss_x = cross_entropy(logits_x, x.target.repeat_interleave(4))
        return loss_x, rotation_loss(turns_u, turns_x), images_u, logits_u

    def embed(self, images: Tensor) -> Tensor:
        """Features of images, see :meth:`SSLModule.embed`.

        The classifier is linear: the logits of averaged features are the averaged logits.
        """
        if self.training or not self.average_rotations:
            return super().embed(images)
        features: Tensor = super().embed(four_rotations(images)).unflatten(0, (-1, 4))
        return features.mean(dim=1)
