"""S4L-Exemplar: classes of the labelled images, and every image a class of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_count, check_weights
from lightning_ssl.losses import batch_hard_triplet_loss, cross_entropy, swapped_identities
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.models import LinearHead
from lightning_ssl.types import Batch, Samples, as_batch


class S4LExemplar(SSLModule):
    r"""S4L-Exemplar: copies of an image are nearer to each other than to any other image.

    .. math::
        \frac{1}{MB} \sum_{b, m} H(y_b, p(x_{bm})) +
        \lambda_{triplet} \, \frac{1}{2} \big[ T(u) + T(x) \big]

    with M copies of each image and :math:`T` the batch-hard triplet loss with soft margin of a
    second linear head. It is mined within the images of one process, in either stream apart: an
    image may be in both.

    Reference: Zhai et al., 2019, https://arxiv.org/abs/1905.03670.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        copies: Views of each image, at least 2.
        embedding_dim: Width of the embedding that is compared, at least 1.
        lambda_triplet: Weight of the triplet loss, at least 0.
        swap_identities: Whether copies and images change places in the identities that are mined,
            as in google-research/s4l, where an identity of 8 copies of 16 images is two images.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        copies: int = 4,
        embedding_dim: int = 128,
        lambda_triplet: float = 1.0,
        swap_identities: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if copies < 2:
            raise ValueError(f"`copies` must be at least 2, got {copies}.")
        check_count("embedding_dim", embedding_dim)
        check_weights(lambda_triplet=lambda_triplet)
        self.copies, self.lambda_triplet = copies, lambda_triplet
        self.swap_identities = swap_identities
        self.embedding: nn.Module = LinearHead(self.num_features, embedding_dim)

    @property
    def views(self) -> ViewSpec:
        """Several views with colour noise of every image."""
        views = {"exemplar": self.copies}
        return {"labeled": views, "unlabeled": views}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class plus triplet loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        images = [s.views["exemplar"] for s in (x, u)]  # (copies, B, C, H, W)
        sizes = [view.shape[1] for view in images]
        features = self.embed(torch.cat(images, dim=1).flatten(0, 1))
        features = features.unflatten(0, (self.copies, -1))
        logits = self.classifier(features[:, : sizes[0]])
        loss_x = cross_entropy(logits.flatten(0, 1), x.target.repeat(self.copies))
        embedded = self.embedding(features).split(sizes, dim=1)
        loss_triplet = (self._triplet(embedded[0], x) + self._triplet(embedded[1], u)) / 2
        loss = loss_x + self.lambda_triplet * loss_triplet

        self.log_losses(loss, x=loss_x, triplet=loss_triplet)
        return loss

    def _triplet(self, embedded: Tensor, samples: Samples) -> Tensor:
        identity = samples.index
        if self.swap_identities:
            copies, images, _ = embedded.shape
            identity = swapped_identities(copies, images, embedded.device)
        return batch_hard_triplet_loss(embedded, identity)
