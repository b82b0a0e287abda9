"""FreeMatch: thresholds that rise with the confidence of the network, and fairness."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_label_temperature, check_weights
from lightning_ssl.losses import cross_entropy, pseudo_label_loss
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.state.adaptive_thresholds import SelfAdaptiveThresholds
from lightning_ssl.types import Batch, as_batch


class FreeMatch(WeakStrongModule):
    r"""FreeMatch: FixMatch whose thresholds are running means of the predictions themselves.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[\max \hat p(\alpha(u_j)) \ge \tau(\hat y_j)] \; H(\hat y_j, p(\mathcal{A}(u_j)))
        + \lambda_f L_f, \quad \tau(c) = \tau \, \frac{\tilde p_c}{\max_k \tilde p_k}

    with the running means of the confidence, :math:`\tau`, and of the predictions on weak views,
    :math:`\tilde p`, both with this batch, and :math:`L_f` of
    :func:`~lightning_ssl.losses.fairness_loss` on the strong views that are kept.

    Reference: Wang et al., 2023, https://arxiv.org/abs/2205.07246, eq. 5 to 14.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_fairness: Weight of the fairness loss, at least 0.
        decay: Decay of the running means, in [0, 1); the paper has 0.999, which needs thousands of
            updates.
        clip: Least and greatest threshold of a class, both in [0, 1]; the authors have 0.9 and 0.95
            on SVHN.
        clip_classes: Whether ``clip`` holds the threshold of each class, as the authors' code does;
            false for :math:`\tau` in place of it.
        temperature: T of soft pseudo-labels, above 0; null for hard ones.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        lambda_fairness: float = 0.001,
        decay: float = 0.99,
        clip: tuple[float, float] = (0.0, 1.0),
        *,
        clip_classes: bool = True,
        temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_fairness=lambda_fairness)
        self.lambda_fairness = lambda_fairness
        self.temperature = check_label_temperature(temperature)
        self.adaptive = SelfAdaptiveThresholds(num_classes, decay, clip, clip_classes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled, unlabelled and fairness loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        self.adaptive.update(probs)
        thresholds = self.adaptive.thresholds()
        loss_u, mask = pseudo_label_loss(
            logits_strong,
            probs,
            threshold=thresholds,
            temperature=self.temperature,
            kept=batch.unlabeled.kept,
        )
        loss_fairness = self.adaptive.fairness(logits_strong, mask)
        loss = loss_x + self.lambda_u * loss_u + self.lambda_fairness * loss_fairness
        loss = loss + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, fairness=loss_fairness, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        self.log_classes("threshold", thresholds)
        return loss
