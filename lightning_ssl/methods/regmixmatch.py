"""RegMixMatch: FreeMatch, and each strong view once more with a part of another image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.checks import check_fraction, check_positive, check_weights
from lightning_ssl.losses import (
    confident,
    counting,
    cross_entropy,
    pseudo_label_loss,
    squared_error,
    weighted_cross_entropy,
)
from lightning_ssl.methods.draws.partners import draw_partners, paste, select_rows
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.state.adaptive_thresholds import SelfAdaptiveThresholds
from lightning_ssl.types import Batch, as_batch


class RegMixMatch(WeakStrongModule):
    r"""RegMixMatch: FreeMatch on clean images; mixed ones as a regulariser.

    .. math::
        L_x + \lambda_u L_u + \lambda_f L_f + \lambda_{mix} \frac{1}{\mu B} \sum_{j: m_j}
        H(\tilde q_j, p(\tilde u_j)) + \lambda_{cam} \frac{1}{\mu B} \sum_{j: \neg m_j}
        (\max \hat p_j)^3 \, \frac{1}{C} \lVert \tilde q_j - p(\tilde u_j) \rVert_2^2

    :math:`L_x, L_u, L_f` are the labelled, unlabelled and fairness losses of FreeMatch;
    :math:`\hat p_j` is the weak view's prediction and :math:`m_j = \mathbb{1}[\max \hat p_j \ge
    \tau_m]`. Into the strong view ResizeMix pastes a partner that covers :math:`1 - \lambda` of it:
    for a confident image another confident one, else a confident or labelled image of one of the
    two most probable classes; :math:`\tilde q_j = \lambda q_j + (1 - \lambda) q_{partner}`, with
    hard labels of confident images and :math:`q_j = \hat p_j` of the others. An image without
    partner stays as it is.

    Reference: Han et al., 2025, https://arxiv.org/abs/2412.10741, and its code, hhrd9/regmixmatch.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0.
        lambda_fairness: :math:`\lambda_f`, at least 0.
        lambda_mix: Weight of the mixed confident images, at least 0.
        lambda_cam: Weight of the class-aware mixed others, at least 0. Where this and
            ``lambda_mix`` are 0, nothing is mixed.
        mix_threshold: :math:`\tau_m` in [0, 1].
        alpha_mix: Beta parameter of the pasted side for confident images, above 0.
        alpha_cam: The same for the others.
        decay: Of the averages behind the thresholds, in [0, 1).
        clip: Least and greatest threshold of a class, both in [0, 1].
        clip_classes: See :class:`~lightning_ssl.methods.FreeMatch`.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``separate_weak`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which mixes images"

    def __init__(
        self,
        num_classes: int,
        lambda_u: float = 1.0,
        lambda_fairness: float = 0.01,
        lambda_mix: float = 1.0,
        lambda_cam: float = 1.0,
        mix_threshold: float = 0.95,
        alpha_mix: float = 1.0,
        alpha_cam: float = 16.0,
        decay: float = 0.99,
        clip: tuple[float, float] = (0.0, 1.0),
        clip_classes: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, lambda_u, **kwargs)
        check_weights(lambda_fairness=lambda_fairness, lambda_mix=lambda_mix, lambda_cam=lambda_cam)
        self.lambda_fairness, self.lambda_mix = lambda_fairness, lambda_mix
        self.lambda_cam, self.alpha_mix = lambda_cam, check_positive("alpha_mix", alpha_mix)
        self.alpha_cam = check_positive("alpha_cam", alpha_cam)
        self.mix_threshold = check_fraction("mix_threshold", mix_threshold)
        self.adaptive = SelfAdaptiveThresholds(num_classes, decay, clip, clip_classes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """FreeMatch's loss plus those of mixed images, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        self.adaptive.update(probs)
        thresholds = self.adaptive.thresholds()
        loss_u, mask = pseudo_label_loss(
            logits_strong, probs, threshold=thresholds, kept=batch.unlabeled.kept
        )
        losses = {"x": loss_x, "u": loss_u, "fairness": self.adaptive.fairness(logits_strong, mask)}
        loss = loss_x + self.lambda_u * loss_u + self.lambda_fairness * losses["fairness"]
        if self.lambda_mix or self.lambda_cam:
            losses["mix"], losses["cam"] = self._mixed(batch, probs)
            loss = loss + self.lambda_mix * losses["mix"] + self.lambda_cam * losses["cam"]
        loss = loss + sum(further.values())

        self.log_losses(loss, **losses, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        self.log_classes("threshold", thresholds)
        return loss

    def _mixed(self, batch: Batch, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the mixed confident images and of the mixed others."""
        x, strong = batch.labeled, batch.unlabeled.views["strong"][0]
        label, sure = confident(probs, self.mix_threshold)
        images = torch.cat([x.views["weak"][0], strong])
        hard = functional.one_hot(torch.cat([x.target, label]), self.num_classes).to(probs.dtype)

        # Who lends a part: to a confident image confident ones, to another what it may be.
        kept = batch.unlabeled.kept
        lends = torch.ones_like(x.target, dtype=torch.bool)
        known = torch.cat([lends, counting(sure, kept)])
        unlabeled = torch.arange(len(known), device=sure.device) >= len(x.target)
        likely = torch.zeros_like(probs).scatter_(1, probs.topk(2, dim=1).indices, 1)
        alike = (likely @ hard.T > 0) & known
        partner, found = draw_partners(torch.where(sure[:, None], known & unlabeled, alike))

        target = torch.where(sure[:, None], hard[len(x.target) :], probs)
        lent = (images[partner], hard[partner], found)
        as_sure, as_other = (
            paste(strong, target, *lent, alpha=a) for a in (self.alpha_mix, self.alpha_cam)
        )
        mixed, mixed_target = select_rows(sure, as_sure, as_other)
        logits = self.imbalance.learn(self.head(self.embed(mixed)))
        loss_mix = weighted_cross_entropy(logits, mixed_target, counting(sure, kept))
        cubed = counting(probs.amax(dim=1) ** 3 * ~sure, kept)
        return loss_mix, squared_error(logits, mixed_target, cubed)
