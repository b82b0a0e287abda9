"""SequenceMatch: a view of medium strength between the weak and the strong one."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_temperature, check_weights
from lightning_ssl.losses import cross_entropy, kl_divergence, pseudo_label_loss, softmax
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.state.class_memory import ClassMemory
from lightning_ssl.types import Batch, as_batch


class SequenceMatch(SSLModule):
    r"""SequenceMatch: each view learns from the weaker ones, where the weak one is confident.

    With logits :math:`z^w, z^m, z^s` of a weak, a medium and a strong view, p their softmax,
    no gradient through the left of a divergence, and the mask
    :math:`m_j = \mathbb{1}[\max p(z^w_j) \ge \mathcal{T}(\arg\max p(z^w_j))]` of FlexMatch,

    .. math::
        \frac{1}{B} \sum_b H(y_b, p_b) + \lambda_u \frac{1}{\mu B} \sum_j m_j
        \big[ & H(\arg\max p(z^w_j), p(z^s_j)) + \mathrm{KL}(p(z^w_j / T) \,\|\, p(z^m_j)) \\
        & + \mathrm{KL}(p(z^m_j / T) \,\|\, p(z^s_j)) + \mathrm{KL}(p(z^w_j / T) \,\|\, p(z^s_j))
        \big]

    Reference: Nguyen, 2023, https://arxiv.org/abs/2310.15787; one mask for all terms as in
    microsoft/Semi-supervised-learning.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        num_unlabeled: Length of the unlabelled list; taken from the data on the command line.
        threshold: Confidence in [0, 1] that the best learnt class needs; others need less, see
            :class:`~lightning_ssl.state.class_memory.ClassMemory`.
        lambda_u: Weight of the unlabelled losses relative to the labelled one, at least 0.
        temperature: T of the targets, above 0, in logit units; below 1 it sharpens.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = "which learns from logits, where corrections give probabilities"

    def __init__(
        self,
        num_classes: int,
        num_unlabeled: int,
        threshold: float = 0.95,
        lambda_u: float = 1.0,
        temperature: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_u=lambda_u)
        self.lambda_u, self.temperature = lambda_u, check_temperature(temperature)
        self.memory = ClassMemory(num_classes, num_unlabeled, threshold)

    @property
    def views(self) -> ViewSpec:
        """A weak view of every image, a medium and a strong one of the unlabelled images."""
        return {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "medium": 1, "strong": 1}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled loss plus the four unlabelled ones, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (logits_x,), (weak,), (medium,), (strong,) = self.forward_together(
            x.views["weak"], u.views["weak"], u.views["medium"], u.views["strong"]
        )
        loss_x = cross_entropy(logits_x, x.target)
        probs = softmax(weak.detach())
        thresholds = self.memory.thresholds_for(probs, u.index, self)
        loss_u, mask = pseudo_label_loss(strong, probs, threshold=thresholds, kept=u.kept)
        from_weak, from_medium = (z.detach() / self.temperature for z in (weak, medium))
        loss_sequence = (
            kl_divergence(from_weak, medium, weight=mask)
            + kl_divergence(from_medium, strong, weight=mask)
            + kl_divergence(from_weak, strong, weight=mask)
        )
        loss = loss_x + self.lambda_u * (loss_u + loss_sequence)

        self.log_losses(loss, x=loss_x, u=loss_u, sequence=loss_sequence)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        return loss
