"""ReMixMatch's alignment of predictions with how often the classes occur."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_ssl.losses import align, softmax
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.corrections.base import Correction
from lightning_ssl.state.averages import ExponentialMean, WindowMean, uniform


class Alignment(Correction):
    r"""Pseudo-labels that use each class as often as it occurs.

    :math:`\operatorname{Normalize}(p_b \, p_{data} / p_{model})`, with :math:`p_{model}` the mean
    of the last 128 batch means of predictions that are not aligned; it starts uniform and takes in
    a batch after its use.

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, sec. 3.1.

    Args:
        num_classes: Number of classes.
        class_counts: How often each class occurs, in place of :math:`p_{data}`; None for a moving
            average over the labels of the steps, which starts uniform.

    Raises:
        ValueError: If ``class_counts`` does not say how often each class occurs.
    """

    def __init__(self, num_classes: int, class_counts: Sequence[int] | None) -> None:
        super().__init__()
        self.counted = class_counts is not None
        given = [1] * num_classes if class_counts is None else class_counts
        if len(given) != num_classes or min(given) < 0 or sum(given) <= 0:
            raise ValueError(
                f"`class_counts` must be {num_classes} numbers of at least 0, one above 0, got "
                f"{class_counts}."
            )
        counts = torch.tensor(given).float()
        self.predicted = WindowMean(uniform(num_classes), 128)
        self.occurring = ExponentialMean(counts / counts.sum())

    @torch.no_grad()
    def teach(self, logits: Tensor, target: Tensor, method: SSLModule) -> Tensor:
        """See :meth:`Correction.teach`."""
        probs = softmax(logits)
        aligned = align(probs, self.occurring.value, self.predicted.value)
        self.predicted.update(probs.mean(dim=0))
        method.log_classes("predicted", self.predicted.value)
        if not self.counted:
            labels = one_hot(target, len(self.occurring.value)).float()
            self.occurring.update(labels.mean(dim=0))
        return aligned
