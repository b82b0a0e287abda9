"""PAWS: views of an image agree on its class, told by the labelled images they lie close to."""

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from lightning_ssl.checks import check_smoothing
from lightning_ssl.distributed import gather, mean_over_ranks
from lightning_ssl.losses import (
    PAWSTarget,
    me_max_loss,
    paws_loss,
    paws_targets,
    sharpen,
    smooth_labels,
    soft_nearest_neighbors,
)
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.families import ProjectionModule
from lightning_ssl.types import Batch, as_batch


class PAWS(ProjectionModule):
    r"""PAWS: predict each view's class by soft nearest neighbours, from the other views' classes.

    .. math::
        \frac{1}{R} \sum_r H(t_r, \pi(z_r)) - H\Big(\frac{1}{R} \sum_r \rho(\pi(z_r))\Big)

    over the R views of the unlabelled images: :math:`\pi` compares them with the labelled images of
    the step (the support), :math:`\rho` sharpens, and the target :math:`t` of a view is the
    sharpened prediction for the other large view, of a small view the mean of both. Targets come
    from the projection head and carry no gradient; predictions from the prediction head, where
    there is one.

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, eq. 1 and 2; ``target: mean``
    is PAWS-MixMatch of Mannix & Bondell, 2023, https://arxiv.org/abs/2311.17093.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        support_views: Views of each labelled image, at least 1.
        global_views: Large views of each unlabelled image, at least 2.
        local_views: Small views of each unlabelled image, the paper's 6 in the configs; 0 for none,
            as where a part of the image does not tell its class.
        sharpening: Temperature of the sharpening, in (0, 1].
        label_smoothing: Share of a support's label that all classes of the step get, in [0, 1).
        target: ``swapped``, as above, or ``mean``: all views of an image have the sharpened mean of
            its large views' predictions as their target, and count in the entropy's mean as the
            sharpened mean of their own.
        me_max: Whether the entropy of the mean prediction is maximised: right where classes are
            about equally frequent among the unlabelled images.
        **kwargs: Arguments of :class:`ProjectionModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    labeled_order: ClassVar[str] = "stratified"

    def __init__(
        self,
        num_classes: int,
        support_views: int = 2,
        global_views: int = 2,
        local_views: int = 0,
        sharpening: float = 0.25,
        label_smoothing: float = 0.1,
        me_max: bool = True,
        target: PAWSTarget = "swapped",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        for name, value, least in (
            ("support_views", support_views, 1),
            ("global_views", global_views, 2),
            ("local_views", local_views, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 < sharpening <= 1:
            raise ValueError(f"`sharpening` must be in (0, 1], got {sharpening}.")
        if target not in get_args(PAWSTarget):
            raise ValueError(f"`target` must be one of {get_args(PAWSTarget)}, got {target!r}.")
        self.support_views = support_views
        self.global_views = global_views
        self.local_views = local_views
        self.sharpening = sharpening
        self.label_smoothing = check_smoothing(label_smoothing)
        self.me_max = me_max
        self.target = target

    @property
    def views(self) -> ViewSpec:
        """Support views of the labelled images, large and small ones of the unlabelled images."""
        local = {"local": self.local_views} if self.local_views else {}
        return {
            "labeled": {"support": self.support_views},
            "unlabeled": {"global": self.global_views, **local},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Consistency minus entropy of the mean, see :meth:`SSLModule.training_step`."""
        x, u = as_batch(batch, self.views)[1:]
        # Supports and large views share BatchNorm's statistics, small views have their own.
        (h_x, z_x), (h_u, z_u) = self.project_together(x.views["support"], u.views["global"])
        anchors = [z_u]
        if self.local_views:
            anchors.append(self.project_together(u.views["local"])[0][1])

        # Rows of the support are ordered by rank, view and image, and so are their labels.
        labels = smooth_labels(
            gather(x.target.repeat(self.support_views)),
            self.num_classes,
            smoothing=self.label_smoothing,
        )
        support = gather(z_x.flatten(0, 1))
        with torch.no_grad():
            taught, weights = self.teach(h_u, gather(h_x.flatten(0, 1)), labels)
        large, small = paws_targets(taught, temperature=self.sharpening, target=self.target)
        targets = torch.cat([large.flatten(0, 1), small.repeat(self.local_views, 1)])
        probs = soft_nearest_neighbors(
            torch.cat([views.flatten(0, 1) for views in anchors]),
            support,
            labels,
            temperature=self.temperature,
        )
        rows = probs if self.target == "swapped" else probs.unflatten(0, (-1, len(small))).mean(0)
        sharp = sharpen(rows, temperature=self.sharpening)
        if u.kept is not None:
            kept = u.kept.repeat(len(probs) // len(u.kept))
            weights = kept if weights is None else weights * kept
            share = mean_over_ranks(u.kept.to(sharp).mean()).clamp(min=1e-12)  # none kept: no loss
            sharp = sharp * kept[: len(sharp), None] / share
        loss_u = paws_loss(probs, targets, weights)
        mean_probs = mean_over_ranks(sharp.mean(dim=0))
        loss_me_max = me_max_loss(mean_probs)
        loss = loss_u + loss_me_max if self.me_max else loss_u

        self.log_losses(loss, u=loss_u, me_max=loss_me_max)
        self.log_pseudo_labels(small, None, u.hidden_target)
        return loss

    def teach(
        self, queries: Tensor, support: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Predictions for the large views, of which the targets are made.

        Args:
            queries: Projections of this process's large views, ``(V, B, D)``.
            support: Projections of all processes' labelled images, ``(N, D)``.
            labels: Their labels ``(N, C)``, rows sum to 1.

        Returns:
            Probabilities ``(V, B, C)``, and the weight of each of the ``(V + local_views) * B``
            rows, or None where all weigh 1.
        """
        probs = soft_nearest_neighbors(
            queries.flatten(0, 1), support, labels, temperature=self.temperature
        )
        return probs.unflatten(0, queries.shape[:2]), None
