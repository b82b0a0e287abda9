"""FlexMatch: FixMatch with a threshold per class that follows what has been learnt."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_ssl.checks import check_label_temperature
from lightning_ssl.losses import cross_entropy, pseudo_label_loss
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.state.alignment import LabeledAlignment
from lightning_ssl.state.class_memory import ClassMemory, Mapping
from lightning_ssl.types import Batch, as_batch


class FlexMatch(WeakStrongModule):
    r"""FlexMatch: classes that are learnt later need less confidence.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[\max \hat p(\alpha(u_j)) \ge \mathcal{T}(\hat y_j)] \;
        H(\hat y_j, p(\mathcal{A}(u_j))), \quad \hat y_j = \arg\max \hat p(\alpha(u_j))

    The thresholds :math:`\mathcal{T}(c)` come from what
    :class:`~lightning_ssl.state.class_memory.ClassMemory` knew before this batch: at the start
    they are 0.

    Reference: Zhang et al., 2021, https://arxiv.org/abs/2110.08263, eq. 5 to 12.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        num_unlabeled: Length of the unlabelled list; taken from the data on the command line.
        threshold: Confidence in [0, 1] from which a prediction is remembered, and which the
            thresholds approach.
        mapping: Threshold of a class by its share of what is remembered: ``convex``, ``linear`` or
            ``concave``.
        warmup: Whether the images that were never predicted with confidence keep the thresholds
            low.
        temperature: T of soft pseudo-labels, above 0; null for hard ones.
        align: Whether predictions are first aligned with the labelled images' classes, as TorchSSL
            can; needs ``class_counts``, from the data on the command line.
        decay: Of the mean prediction that ``align`` divides by, in [0, 1).
        class_counts: Labelled images of each class, for ``align`` and ``imbalance``.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        num_unlabeled: int,
        threshold: float = 0.95,
        mapping: Mapping = "convex",
        warmup: bool = True,
        *,
        temperature: float | None = None,
        align: bool = False,
        decay: float = 0.999,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, class_counts=class_counts, **kwargs)
        self.temperature = check_label_temperature(temperature)
        self.alignment = (
            LabeledAlignment(num_classes, class_counts, decay) if align else nn.Identity()
        )
        self.memory = ClassMemory(num_classes, num_unlabeled, threshold, mapping, warmup)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        probs = self.alignment(probs)
        thresholds = self.memory.thresholds_for(probs, batch.unlabeled.index, self)
        loss_u, mask = pseudo_label_loss(
            logits_strong,
            probs,
            threshold=thresholds,
            temperature=self.temperature,
            kept=batch.unlabeled.kept,
        )
        loss = loss_x + self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        return loss
