"""AdaMatch: alignment with the labelled predictions, and a threshold relative to them."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.checks import check_fraction, check_label_temperature
from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.losses import align, cross_entropy, promote, pseudo_label_loss, softmax
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.models import keep_statistics
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.state.averages import ExponentialMean, RunningMean, WindowMean, uniform
from lightning_ssl.types import Batch, as_batch


class AdaMatch(WeakStrongModule):
    r"""AdaMatch: pseudo-labels as often and nearly as confident as labelled predictions.

    .. math::
        \frac{1}{2B} \sum_b \big[ H(y_b, p(\alpha(x_b))) + H(y_b, p(\mathcal{A}(x_b))) \big]
        + w(t) \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[\max \tilde p_j \ge c] \; H(\arg\max \tilde p_j, p(\mathcal{A}(u_j))),

        \tilde p_j = \operatorname{Normalize}\big(\hat p(\alpha(u_j)) \, p_L / p_U\big), \quad
        c = \tau \frac{1}{B} \sum_b \max \hat p(\alpha(x_b)), \quad
        w(t) = \tfrac12 - \tfrac12 \cos\big(\min\{\pi, 2 \pi t / S\}\big)

    :math:`p_L` is an exponential mean of the predictions on labelled weak views, :math:`p_U` the
    mean of those on unlabelled ones in the last batches, both with this batch. Each logit of a
    labelled image lies at a random place between that of a pass of the labelled images alone and
    that of a pass of all images.

    Reference: Berthelot et al., 2021, https://arxiv.org/abs/2106.04732, and
    google-research/adamatch, ``semi_supervised``.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: :math:`\tau` in [0, 1], relative to the mean confidence on labelled images.
        decay: Decay of the exponential means, in [0, 1); the paper has 0.999, which needs thousands
            of updates.
        window: Number of batches that :math:`p_U` is the mean of, at least 1.
        simple: Whether to leave out the strong labelled view and the pass of the labelled images
            alone, and to take an exponential mean for :math:`p_U`, too, as USB does.
        ramp: Fraction of the run's updates over which ``lambda_u`` rises from 0, along half a
            cosine; USB has 0.
        temperature: T of soft pseudo-labels, above 0; null for hard ones.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.9,
        decay: float = 0.99,
        window: int = 128,
        simple: bool = False,
        ramp: float = 0.5,
        *,
        temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.threshold = check_fraction("threshold", threshold)
        self.ramp, self.simple = check_fraction("ramp", ramp), simple
        self.temperature = check_label_temperature(temperature)
        start = uniform(num_classes)
        self.labeled_probs = ExponentialMean(start, decay)
        self.unlabeled_probs: RunningMean = (
            ExponentialMean(start, decay) if simple else WindowMean(start, window)
        )

    @property
    def views(self) -> ViewSpec:
        """A weak and a strong view of every image; with ``simple`` no strong labelled one."""
        views = super().views
        return views if self.simple else {**views, "labeled": {"weak": 1, "strong": 1}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x = batch.labeled
        images_x = torch.cat([x.views[name] for name in self.views["labeled"]], dim=1)
        together = batch._replace(labeled=x._replace(views={"weak": images_x}))
        features, target = self.embed_views(together), x.target.repeat(len(self.views["labeled"]))
        logits_x, logits_weak, logits_strong = map(self.head, features)
        if not self.simple:
            logits_x = self._interpolate(logits_x, images_x[0])
        loss_x = cross_entropy(self.imbalance.labeled(logits_x), target)

        probs_x = softmax(logits_x[: len(x.target)].detach())
        probs_u = self.imbalance.teach(logits_weak, x.target, self)
        self.labeled_probs.update(probs_x.mean(dim=0))
        self.unlabeled_probs.update(probs_u.mean(dim=0))
        probs = align(probs_u, self.labeled_probs.value, self.unlabeled_probs.value)
        threshold = self.threshold * mean_over_ranks(probs_x.amax(dim=1).mean())
        logits_strong = self.imbalance.learn(logits_strong)
        loss_u, mask = pseudo_label_loss(
            logits_strong,
            probs,
            threshold=threshold,
            temperature=self.temperature,
            kept=batch.unlabeled.kept,
        )
        further = self.imbalance.losses(lambda: features, target, self)
        weight = 0.5 - 0.5 * math.cos(math.pi * ramp_up(self, self.ramp))
        loss = loss_x + weight * self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        self.log("train/threshold", threshold)
        self.log_classes("labeled_share", self.labeled_probs.value)
        self.log_classes("unlabeled_share", self.unlabeled_probs.value)
        return loss

    def _interpolate(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of labelled images, each at a random place towards those of a pass alone."""
        with keep_statistics(self):
            alone = promote(self.head(self.embed(images)))
        return promote(logits).lerp(alone, torch.rand_like(alone))
