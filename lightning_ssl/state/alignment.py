"""Distribution alignment of FlexMatch, by a running mean of the predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_ssl.losses import align
from lightning_ssl.state.averages import ExponentialMean, uniform
from lightning_ssl.state.wide_buffers import WideBuffers


class LabeledAlignment(WideBuffers):
    r"""Predictions that use each class as often as the labelled images do.

    :math:`\operatorname{Normalize}(p_b \, p_{data} / p_{model})` with the shares :math:`p_{data}`
    of the classes among the labelled images and a running mean :math:`p_{model}` of the predictions
    before the alignment, which starts uniform and takes in a batch before its use.

    Reference: ``use_DA`` of TorchSSL's FlexMatch; Berthelot et al., 2020,
    https://arxiv.org/abs/1911.09785, sec. 3.1.

    Args:
        num_classes: Number of classes.
        class_counts: Labelled images of each class.
        decay: Of the running mean, in [0, 1).

    Raises:
        ValueError: If ``class_counts`` does not say how often each class occurs, or ``decay`` is
            outside its range.
    """

    occurring: Tensor

    def __init__(
        self, num_classes: int, class_counts: Sequence[int] | None, decay: float = 0.999
    ) -> None:
        super().__init__()
        counts = class_counts or ()
        if len(counts) != num_classes or min(counts) < 0 or sum(counts) <= 0:
            raise ValueError(
                f"`class_counts` must be {num_classes} numbers of at least 0, one above 0, with "
                f"`align`, got {class_counts}."
            )
        shares = torch.tensor(counts, dtype=torch.float32)
        self.register_buffer("occurring", shares / shares.sum())
        self.predicted = ExponentialMean(uniform(num_classes), decay)

    @torch.no_grad()
    def forward(self, probs: Tensor) -> Tensor:
        """Take in and align a batch; call it on all processes.

        Args:
            probs: Predictions for this process's images, ``(B, C)``, rows sum to 1.

        Returns:
            ``(B, C)``, rows sum to 1.
        """
        self.predicted.update(probs.mean(dim=0))
        return align(probs, self.occurring, self.predicted.value)
