"""ReMixMatch: aligned guesses, strong views anchored on weak ones, MixUp, rotation, CTAugment."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_ssl.augment import CTAugmentProbe, View
from lightning_ssl.augment.ctaugment import Translation
from lightning_ssl.augment.geometry import quarter_turns
from lightning_ssl.checks import check_count, check_fraction, check_temperature, check_weights
from lightning_ssl.losses import cross_entropy, mixup, sharpen, weighted_cross_entropy
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.corrections import Alignment, CorrectionName, add_correction
from lightning_ssl.methods.draws.magnitudes import Augment, build_ctaugment, learn_magnitudes
from lightning_ssl.methods.draws.mixup import draw_mixup
from lightning_ssl.methods.families import TeacherModule
from lightning_ssl.models import LinearHead, keep_statistics
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.types import Batch, Samples, as_batch


class ReMixMatch(TeacherModule):
    r"""ReMixMatch: one aligned, sharpened guess per image is the target of all its views.

    .. math::
        q_j = \operatorname{sharpen}\big(\operatorname{align}(\hat p(\alpha(u_j))), T\big), \qquad
        \frac{1}{|X'|} \sum_{X'} H(q', p(x')) + w(t) \Big[ \lambda_u \frac{1}{|U'|} \sum_{U'}
        H(q', p(u')) + \lambda_{kl} \frac{1}{U} \sum_j H(q_j, p(\mathcal{A}_1(u_j))) \Big] +
        \lambda_{rot} \frac{1}{U} \sum_j H(k_j, r(\mathcal{A}_1(u_j)^{k_j}))

    Labelled images, the weak and the K strong views of unlabelled ones, with their labels and
    guesses, are mixed with rows of one permutation of all of them; :math:`X'` are those that were
    labelled for the most part, :math:`U'` the others. :math:`r` is a second head, which tells by
    how many quarters :math:`k_j` an image was turned. With CTAugment the strong views learn their
    magnitudes from what the averaged network predicts for probes of the labelled images.

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, and its code.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_u: Weight of the mixed unlabelled images relative to the labelled ones, at least 0.
        lambda_kl: Weight of the first strong view as it is, at least 0.
        lambda_rotation: Weight of the rotation loss, at least 0.
        strong_views: Strong views K of an unlabelled image, at least 1.
        temperature: T of the guess, above 0; 1 does not sharpen.
        alpha: Both parameters of the Beta distribution of the mixing weights, at least 0; 0 mixes
            nothing.
        ramp: Fraction of the run's updates over which ``lambda_u`` and ``lambda_kl`` rise from 0.
        class_counts: How often each class occurs, for the alignment; taken from the labelled images
            on the command line. None for a running mean over labelled batches.
        augment: ``randaugment`` for the strong views and weak labelled images, or the paper's
            ``ctaugment`` for both, which needs some hundred updates to find its magnitudes.
        translation: What CTAugment's shifts by up to 0.3 are counted in: ``fraction`` of the side
            as in the paper, or ``pixels`` as in its code, which moves nothing.
        imbalance: Correction for classes of which few images are labelled, whose teacher is in the
            place of the alignment, see :class:`~lightning_ssl.methods.families.WeakStrongModule`.
        imbalance_args: Further arguments of that class.
        **kwargs: Arguments of :class:`SSLModule`; with CTAugment, ``ema_decay`` must be above 0.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which turns and mixes images"

    def __init__(
        self,
        num_classes: int,
        lambda_u: float = 1.5,
        lambda_kl: float = 0.5,
        lambda_rotation: float = 0.5,
        strong_views: int = 2,
        temperature: float = 0.5,
        alpha: float = 0.75,
        ramp: float = 0.1,
        class_counts: Sequence[int] | None = None,
        augment: Augment = "randaugment",
        translation: Translation = "fraction",
        imbalance: CorrectionName | None = None,
        imbalance_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        plain = partial(Alignment, num_classes, class_counts)
        self.imbalance = add_correction(self, imbalance, imbalance_args, class_counts, plain)
        self.ctaugment = build_ctaugment(augment, translation)
        self.translation: Translation = translation
        if self.ctaugment is not None:
            self.require_average()
        check_weights(lambda_u=lambda_u, lambda_kl=lambda_kl, lambda_rotation=lambda_rotation)
        check_weights(alpha=alpha)
        self.lambda_u, self.lambda_kl, self.lambda_rotation = lambda_u, lambda_kl, lambda_rotation
        self.strong_views, self.alpha = check_count("strong_views", strong_views), alpha
        self.temperature, self.ramp = check_temperature(temperature), check_fraction("ramp", ramp)
        self.rotation: nn.Module = LinearHead(self.num_features, 4)

    @property
    def views(self) -> ViewSpec:
        """The labelled images and their probes; a weak and K strong views of the others."""
        if self.ctaugment is None:
            return {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": self.strong_views}}
        strong = View(self.ctaugment, self.strong_views, after="weak")
        probe = View(CTAugmentProbe(self.translation), after="weak")
        labeled = {"strong": strong._replace(copies=1), "probe": probe}
        return {"labeled": labeled, "unlabeled": {"weak": 1, "strong": strong}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (images_x,) = x.views["weak" if self.ctaugment is None else "strong"]
        (weak,), strong = u.views["weak"], u.views["strong"]
        labels = functional.one_hot(x.target, self.num_classes).float()
        guess = self._guess(weak, x.target)
        images = torch.cat([images_x, weak, *strong])
        target = torch.cat([labels.to(guess), guess.repeat(1 + len(strong), 1)])
        partner, weight = draw_mixup(len(images), self.alpha, images)
        logits = self.head(self.embed(mixup(images, partner, weight)))
        target, b = mixup(target, partner, weight), len(labels)
        counts = None if u.kept is None else u.kept.repeat(1 + len(strong))
        losses = {
            "x": weighted_cross_entropy(self.imbalance.labeled(logits[:b]), target[:b]),
            "u": weighted_cross_entropy(self.imbalance.learn(logits[b:]), target[b:], counts),
        }
        with keep_statistics(self):
            first = self.imbalance.learn(self.head(self.embed(strong[0])))
            losses["kl"] = weighted_cross_entropy(first, guess, u.kept)
            losses["rotation"] = self._rotation_loss(strong[0])
            unmixed = partial(self.features_together, images_x[None], weak[None], strong[:1])
            further = self.imbalance.losses(unmixed, x.target, self)
        rising = self.lambda_u * losses["u"] + self.lambda_kl * losses["kl"]
        loss = losses["x"] + ramp_up(self, self.ramp) * rising
        loss = loss + self.lambda_rotation * losses["rotation"] + sum(further.values())
        self.log_losses(loss, **losses, **further)
        self.log_pseudo_labels(guess, None, u.hidden_target)
        self._learn_magnitudes(x)
        return loss

    @torch.no_grad()
    def _guess(self, weak: Tensor, target: Tensor) -> Tensor:
        """Aligned or corrected prediction ``(U, C)``, sharpened."""
        with keep_statistics(self):
            logits = self.head(self.embed(weak))
        probs = self.imbalance.teach(logits, target, self)
        return sharpen(probs, temperature=self.temperature)

    def _learn_magnitudes(self, labeled: Samples) -> None:
        if self.ctaugment is not None:
            learn_magnitudes(self.ctaugment, labeled, partial(self.teacher_logits, training=False))
            self.log("train/usable_bins", self.ctaugment.usable())

    def _rotation_loss(self, images: Tensor) -> Tensor:
        # A quarter of the images of all processes is turned by each angle.
        turns = (torch.arange(len(images)) + self.global_rank * len(images)) % 4
        features = self.embed(quarter_turns(images, turns))
        return cross_entropy(self.rotation(features), turns.to(images.device, non_blocking=True))
