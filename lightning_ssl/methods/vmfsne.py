"""vMF-SNE: a projection head learns the neighbourhoods of the network's features; no label."""

from typing import Any

import torch
from torch import Tensor

from lightning_ssl.checks import check_count
from lightning_ssl.distributed import gather
from lightning_ssl.losses import vmf_neighbors, vmf_sne_loss
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.methods.families import ProjectionModule
from lightning_ssl.types import Batch, as_batch


class VMFSNE(ProjectionModule):
    r"""vMF-SNE: in the head's space a view has the neighbours that it has among the features.

    .. math::
        \mathrm{KL}(P \| Q), \quad
        P_{ij} \propto p_{ij} + p_{ji}, \quad
        p_{ij} = \operatorname{softmax}_{j \ne i} (\kappa_i \cos(f_i, f_j)), \quad
        q_{ij} = \operatorname{softmax}_{j \ne i} (\cos(z_i, z_j) / \tau)

    over all views of the step: :math:`f` are features, whose neighbourhoods teach and get no
    gradient, :math:`z` outputs of the last head, and :math:`\kappa_i` gives each row the same
    perplexity. Views of one image are points like others. Made for a frozen pretrained network,
    whose head it readies for :class:`PAWS`, which takes the checkpoint as its ``weights``.

    Labels serve evaluation alone, which compares with the labelled images.

    Reference: Mannix & Bondell, 2023, https://arxiv.org/abs/2311.17093.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        perplexity: Effective number of neighbours of a view among those of the step, at least 1
            and below the number of the others.
        global_views: Large views of each image, at least 1.
        local_views: Small views of each image, at least 0.
        **kwargs: Arguments of :class:`ProjectionModule`; ``temperature`` is :math:`\tau`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        perplexity: float = 30.0,
        global_views: int = 2,
        local_views: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if not perplexity >= 1:
            raise ValueError(f"`perplexity` must be at least 1, got {perplexity}.")
        if local_views < 0:
            raise ValueError(f"`local_views` must be at least 0, got {local_views}.")
        self.perplexity = perplexity
        self.global_views = check_count("global_views", global_views)
        self.local_views = local_views

    @property
    def least_batch(self) -> tuple[int, str]:
        """Fewest images of a step, and why."""
        why = f"a view needs more others in a step than `model.perplexity` {self.perplexity}"
        return int((self.perplexity + 1) / (self.global_views + self.local_views)) + 1, why

    @property
    def views(self) -> ViewSpec:
        """Large and small views of the unlabelled images."""
        local = {"local": self.local_views} if self.local_views else {}
        return {"unlabeled": {"global": self.global_views, **local}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Divergence of the neighbourhoods, see :meth:`SSLModule.training_step`."""
        # Large and small views have their own statistics of BatchNorm, as in PAWS.
        views = as_batch(batch, self.views).unlabeled.views
        features = [
            SSLModule.embed(self, views[name].flatten(0, 1)) for name in self.views["unlabeled"]
        ]
        own, z = torch.cat(features).detach(), torch.cat([self.project(f)[1] for f in features])
        everyone, offset = self.gather_with_offset(own)
        neighbors, kappa = vmf_neighbors(own, everyone, perplexity=self.perplexity, offset=offset)
        loss = vmf_sne_loss(gather(z), gather(neighbors), temperature=self.temperature)

        self.log_losses(loss)
        self.log("train/concentration", kappa.mean())
        return loss
