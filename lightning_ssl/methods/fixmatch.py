"""FixMatch: hard pseudo-labels from weak views, consistency on strong views."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction, check_label_temperature
from lightning_ssl.losses import cross_entropy, pseudo_label_loss
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.types import Batch, as_batch


class FixMatch(WeakStrongModule):
    r"""FixMatch: the strong view learns the label that the weak view is confident of.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[\max \hat p(\alpha(u_j)) \ge \tau] \;
        H(\arg\max \hat p(\alpha(u_j)), p(\mathcal{A}(u_j)))

    Where some classes have few labelled images, ``imbalance`` changes the logits of the losses or
    the teacher's :math:`\hat p`, or adds a balanced classifier, which then is what predicts.

    Reference: Sohn et al., 2020, https://arxiv.org/abs/2001.07685, eq. 3 and 4.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence in [0, 1] above which a pseudo-label counts.
        temperature: T of soft pseudo-labels, above 0; null for hard ones.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.95,
        *,
        temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.threshold = check_fraction("threshold", threshold)
        self.temperature = check_label_temperature(temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        loss_u, mask = pseudo_label_loss(
            logits_strong,
            probs,
            threshold=self.threshold,
            temperature=self.temperature,
            kept=batch.unlabeled.kept,
        )
        loss = loss_x + self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        return loss
