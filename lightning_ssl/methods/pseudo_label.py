"""Pseudo-label: the network's own confident predictions as labels."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.losses import cross_entropy, pseudo_label_loss, softmax
from lightning_ssl.methods.base import WEAK, SSLModule
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.state.class_memory import build_thresholds
from lightning_ssl.types import Batch, as_batch


class PseudoLabel(SSLModule):
    r"""Pseudo-label in one stage: confident predictions become labels in the same step.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(x_b)) + w(t) \lambda_u \frac{1}{U} \sum_i
        \mathbb{1}[\max \hat p(u_i) \ge \tau] \; H(\arg\max \hat p(u_i), p(u_i))

    :math:`\hat p` is the prediction on the same view, without gradient.

    Reference: Lee, 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method
    for Deep Neural Networks"; the threshold, in place of none, as in Oliver et al., 2018,
    https://arxiv.org/abs/1804.09170; class thresholds (Flex-PseudoLabel) Zhang et al., 2021,
    https://arxiv.org/abs/2110.08263.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence in [0, 1] above which a pseudo-label counts.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0.
        ramp: Fraction of the run's updates over which ``lambda_u`` rises from 0.
        class_thresholds: Whether the threshold is FlexMatch's of each class, at most ``threshold``,
            see :class:`~lightning_ssl.state.class_memory.ClassMemory`.
        num_unlabeled: Length of the unlabelled list, which class thresholds need; taken from the
            data on the command line.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = "in which a view teaches itself"

    views = WEAK
    """A weak view of every image."""

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.95,
        lambda_u: float = 1.0,
        ramp: float = 0.4,
        class_thresholds: bool = False,
        num_unlabeled: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.memory = build_thresholds(threshold, num_classes, num_unlabeled, class_thresholds)
        check_weights(lambda_u=lambda_u)
        self.lambda_u, self.ramp = lambda_u, check_fraction("ramp", ramp)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (logits_x,), (logits_u,) = self.forward_together(x.views["weak"], u.views["weak"])
        loss_x = cross_entropy(logits_x, x.target)
        probs = softmax(logits_u.detach())
        thresholds = self.memory.thresholds_for(probs, u.index, self)
        loss_u, mask = pseudo_label_loss(logits_u, probs, threshold=thresholds, kept=u.kept)
        loss = loss_x + ramp_up(self, self.ramp) * self.lambda_u * loss_u

        self.log_losses(loss, x=loss_x, u=loss_u)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        return loss
