"""Thresholds of FreeMatch: they follow the model's confidence, class by class."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.losses import fairness_loss, softmax
from lightning_ssl.state.averages import ExponentialMean, uniform


class SelfAdaptiveThresholds(nn.Module):
    r"""Moving averages of confidence, predictions and predicted classes; a threshold per class.

    .. math::
        \tau(c) = \tau \, \frac{\tilde p(c)}{\max_k \tilde p(k)}

    where :math:`\tau` is the moving average of the mean confidence, starting at 1 / C, and
    :math:`\tilde p` that of the mean prediction, starting uniform. A batch is taken in before its
    thresholds are asked for.

    Reference: Wang et al., 2023, https://arxiv.org/abs/2205.07246, eq. 5 to 8.

    Args:
        num_classes: Number of classes C.
        decay: Of the averages, in [0, 1).
        clip: Least and greatest threshold, both in [0, 1]; the averages themselves go on without.
        clip_classes: Whether ``clip`` holds the threshold of each class, as the authors' code does,
            or the mean confidence :math:`\tau`, so that rarer classes may have less than its least.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        decay: float = 0.999,
        clip: tuple[float, float] = (0.0, 1.0),
        clip_classes: bool = True,
    ) -> None:
        super().__init__()
        if len(clip) != 2 or not 0 <= clip[0] <= clip[1] <= 1:
            raise ValueError(
                f"`clip` must be two numbers in [0, 1] and not fall, got {tuple(clip)}."
            )
        self.num_classes, self.clip, self.clip_classes = num_classes, clip, clip_classes
        self.confidence = ExponentialMean(torch.tensor(1 / num_classes), decay)
        self.probs = ExponentialMean(uniform(num_classes), decay)
        self.histogram = ExponentialMean(uniform(num_classes), decay)

    @torch.no_grad()
    def update(self, probs: Tensor) -> None:
        """Take in a batch; call it on all processes.

        Args:
            probs: Predictions for this process's images, ``(B, C)``, rows sum to 1.
        """
        confidence, label = probs.max(dim=1)
        self.confidence.update(confidence.mean())
        self.probs.update(probs.mean(dim=0))
        one_hot = functional.one_hot(label, self.num_classes)
        self.histogram.update(one_hot.to(probs.dtype).mean(dim=0))

    def thresholds(self) -> Tensor:
        """Threshold of each class ``(C,)``, in [0, 1]."""
        overall, relative = self.confidence.value, self.probs.value / self.probs.value.max()
        if self.clip_classes:
            return (overall * relative).clamp(*self.clip)
        return overall.clamp(*self.clip) * relative

    def fairness(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Fairness loss of a batch against the averages, over all processes.

        Args:
            logits: Predictions that learn, ``(B, C)``, any real.
            mask: Rows that count, ``(B,)``, bool.

        Returns:
            Scalar in nats, see :func:`~lightning_ssl.losses.fairness_loss`.
        """
        probs = softmax(logits)
        labels = functional.one_hot(probs.argmax(dim=1), self.num_classes).to(probs.dtype)
        # Means over all rows in place of those that count: a common factor does not matter.
        mean, histogram = (
            mean_over_ranks((rows * mask[:, None]).mean(dim=0)) for rows in (probs, labels)
        )
        return fairness_loss(mean, histogram, self.probs.value, self.histogram.value)
