"""ReFixMatch: FixMatch that also learns from the predictions it is not confident of."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction, check_temperature
from lightning_ssl.losses import (
    counting,
    cross_entropy,
    kl_divergence,
    pseudo_label_loss,
    softmax,
)
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.types import Batch, as_batch


class ReFixMatch(WeakStrongModule):
    r"""ReFixMatch: hard labels above the threshold, sharpened soft ones below it.

    With weak logits :math:`z^w` (without gradient), strong ones :math:`z^s`, p their softmax and
    the mask :math:`m_j = \mathbb{1}[\max p(z^w_j) \ge \tau]`,

    .. math::
        \frac{1}{B} \sum_b H(y_b, p_b) + \lambda_u \frac{1}{\mu B} \sum_j
        \big[ m_j H(\arg\max p(z^w_j), p(z^s_j))
        + (1 - m_j) \mathrm{KL}(p(z^w_j / T) \,\|\, p(z^s_j / T)) \big]

    Reference: Nguyen & Yang, 2023, https://arxiv.org/abs/2308.07509.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence in [0, 1] from which on a pseudo-label is hard.
        temperature: T above 0, in logit units; below 1 it sharpens.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` (of both unlabelled losses) but not ``imbalance``, and of
            :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = "which learns from logits, where corrections give probabilities"

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.95,
        *,
        temperature: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.threshold = check_fraction("threshold", threshold)
        self.temperature = check_temperature(temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus both unlabelled losses, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, logits_weak, logits_strong = map(self.head, self.embed_views(batch))
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        probs = softmax(logits_weak)
        kept = batch.unlabeled.kept
        loss_u, mask = pseudo_label_loss(logits_strong, probs, threshold=self.threshold, kept=kept)
        teacher = logits_weak.detach() / self.temperature
        student = logits_strong / self.temperature
        loss_soft = kl_divergence(teacher, student, weight=counting(~mask, kept))
        loss = loss_x + self.lambda_u * (loss_u + loss_soft)

        self.log_losses(loss, x=loss_x, u=loss_u, soft=loss_soft)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        return loss
