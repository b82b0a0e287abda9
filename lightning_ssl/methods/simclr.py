"""SimCLR: two views of an image find each other; no label is used."""

from typing import Any

from torch import Tensor

from lightning_ssl.evaluation import SoftNearestNeighbors
from lightning_ssl.losses import nt_xent_loss
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.families import ProjectionModule
from lightning_ssl.types import Batch, as_batch


class SimCLR(ProjectionModule):
    r"""SimCLR: a view finds the other view of its image among all views of the step.

    .. math::
        -\frac{1}{2n} \sum_i \log \frac{e^{\cos(z_i, z_{pos(i)}) / \tau}}
        {\sum_{j \ne i} e^{\cos(z_i, z_j) / \tau}}

    Labels serve evaluation alone, which compares with the labelled images.

    Reference: Chen et al., 2020, https://arxiv.org/abs/2002.05709, eq. 1.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        detach_keys: Whether gradient flows only through the view that searches, as in
            facebookresearch/suncet.
        temperature: Of the similarities while training, in units of the cosine, above 0; the paper
            has 0.5 on CIFAR-10 and 0.1 on ImageNet.
        **kwargs: Arguments of :class:`ProjectionModule`.
    """

    least_batch = (2, "a view is told apart from those of other images")

    def __init__(
        self,
        num_classes: int,
        detach_keys: bool = False,
        temperature: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, temperature=temperature, **kwargs)
        self.classifier = SoftNearestNeighbors(num_classes)  # at 0.1 whatever it trains with
        self.detach_keys = detach_keys

    @property
    def views(self) -> ViewSpec:
        """Two views of each unlabelled image."""
        return {"unlabeled": {"simclr": 2}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Contrast of the two views, see :meth:`SSLModule.training_step`."""
        ((_, z),) = self.project_together(as_batch(batch, self.views).unlabeled.views["simclr"])
        loss = self.contrast(z)
        self.log_losses(loss)
        return loss

    def contrast(self, z: Tensor) -> Tensor:
        """NT-Xent loss with the views of all processes as keys.

        Args:
            z: Embeddings of both views of this process's images, ``(2, B, D)``.
        """
        rows = z.flatten(0, 1)
        keys, offset = self.gather_with_offset(rows.detach() if self.detach_keys else rows)
        return nt_xent_loss(rows, keys, temperature=self.temperature, offset=offset)
