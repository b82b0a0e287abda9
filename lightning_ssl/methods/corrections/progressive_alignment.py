"""CReST+'s progressive alignment of pseudo-labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_ssl.checks import check_fraction
from lightning_ssl.losses import align, softmax
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.corrections.base import Correction, class_frequencies
from lightning_ssl.optim.ramps import progress
from lightning_ssl.state.averages import WindowMean, uniform


class ProgressiveAlignment(Correction):
    r"""Pseudo-labels aligned to the labelled classes, and in the course of the run to even ones.

    .. math::
        \hat q_b = \operatorname{Normalize}\Big(p_b \,
        \frac{\operatorname{Normalize}(\pi^t)}{\tilde p}\Big), \qquad t = 1 - (1 - t_{end}) \, s

    :math:`\pi` is the class frequencies of the labelled images, s the fraction of the run that is
    done, :math:`\tilde p` the mean of the last 128 batch means of the plain predictions, which
    starts uniform and takes in a batch after its use.

    Reference: CReST+, Wei et al., 2021, https://arxiv.org/abs/2102.09559, sec. 3.3, and its code,
    where t falls from one generation of self-training to the next.

    Args:
        class_counts: Labelled images of each class, at least 1.
        final_power: :math:`t_{end}` in [0, 1]; 0 ends at even classes, 1 is plain alignment.
        window: Number of batches, at least 1.

    Raises:
        ValueError: If an argument is outside its range.
    """

    frequencies: Tensor

    def __init__(
        self, class_counts: Sequence[int], *, final_power: float = 0.5, window: int = 128
    ) -> None:
        super().__init__()
        self.final_power = check_fraction("final_power", final_power)
        self.register_buffer("frequencies", class_frequencies(class_counts))
        self.predicted = WindowMean(uniform(len(class_counts)), window)

    @torch.no_grad()
    def teach(self, logits: Tensor, target: Tensor, method: SSLModule) -> Tensor:
        """See :meth:`Correction.teach`."""
        probs = softmax(logits)
        done = progress(method, "`imbalance` must not be 'ProgressiveAlignment'")
        wanted = self.frequencies ** (1 - (1 - self.final_power) * done)
        aligned = align(probs, wanted / wanted.sum(), self.predicted.value)
        self.predicted.update(probs.mean(dim=0))
        method.log_classes("predicted", self.predicted.value)
        return aligned
