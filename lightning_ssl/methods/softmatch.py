"""SoftMatch: every pseudo-label counts, the less confident ones less."""

from typing import Any, Literal, get_args

from torch import Tensor, finfo, full_like, tensor

from lightning_ssl.checks import check_label_temperature, check_positive
from lightning_ssl.distributed import gather
from lightning_ssl.losses import (
    align,
    counting,
    cross_entropy,
    sharpen,
    softmax,
    weighted_cross_entropy,
)
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.state.averages import ExponentialMean, uniform
from lightning_ssl.types import Batch, as_batch

AlignTo = Literal["uniform", "labeled"]


class SoftMatch(WeakStrongModule):
    r"""SoftMatch: FixMatch with a weight of each pseudo-label in place of a threshold.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \lambda_u \frac{1}{\mu B} \sum_j
        w(c_j) \, H(\arg\max \hat p(\alpha(u_j)), p(\mathcal{A}(u_j))), \quad
        w(c) = \exp\Big(-\frac{\min\{c - \mu, 0\}^2}{2 \sigma^2 / n_\sigma^2}\Big)

    The confidence :math:`c_j` is the largest probability after the predictions were aligned with
    the uniform distribution; the label is that of the predictions as they are. :math:`\mu` and
    :math:`\sigma^2` are running means of the mean and the unbiased variance of the confidences of
    a batch, with this batch.

    Reference: Chen et al., 2023, https://arxiv.org/abs/2301.10921, eq. 6 to 9.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        n_sigma: :math:`n_\sigma`, above 0: how fast the weight falls below the mean confidence.
        decay: Decay of the running means, in [0, 1); the paper has 0.999, which needs thousands of
            updates.
        temperature: T of soft pseudo-labels, above 0; null for hard ones.
        align_to: What confidences are aligned with: the ``uniform`` distribution, or ``labeled``, a
            running mean of the predictions on labelled images, as USB can.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        n_sigma: float = 2.0,
        decay: float = 0.99,
        *,
        temperature: float | None = None,
        align_to: AlignTo = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if align_to not in get_args(AlignTo):
            raise ValueError(f"`align_to` must be one of {get_args(AlignTo)}, got {align_to!r}.")
        self.n_sigma = check_positive("n_sigma", n_sigma)
        self.temperature = check_label_temperature(temperature)
        labeled = align_to == "labeled"
        self.labeled_probs = ExponentialMean(uniform(num_classes), decay) if labeled else None
        self.mean_probs = ExponentialMean(uniform(num_classes), decay)
        self.mean = ExponentialMean(tensor(1 / num_classes), decay)
        self.variance = ExponentialMean(tensor(1.0), decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus weighted unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        weight = counting(self._weights(probs, logits_x), batch.unlabeled.kept)
        soft = self.temperature
        target = probs.argmax(dim=1) if soft is None else sharpen(probs, temperature=soft)
        loss_u = weighted_cross_entropy(logits_strong, target, weight)
        loss = loss_x + self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, None, batch.unlabeled.hidden_target)
        self.log("train/weight", weight.mean())
        self.log("train/confidence_mean", self.mean.value)
        self.log("train/confidence_std", self.variance.value.sqrt())
        self.log_classes("predicted", self.mean_probs.value)
        return loss

    def _weights(self, probs: Tensor, logits_x: Tensor) -> Tensor:
        """Weight of each row ``(B,)`` in [0, 1], after this batch was taken in."""
        self.mean_probs.update(probs.mean(dim=0))
        model = self.mean_probs.value
        target = full_like(model, 1 / self.num_classes)
        if self.labeled_probs is not None:
            self.labeled_probs.update(softmax(logits_x.detach()).mean(dim=0))
            target = self.labeled_probs.value
        confidence = align(probs, target, model).amax(dim=1)
        # The variance of the whole batch, which is not the mean of the processes' variances.
        everyone = gather(confidence)
        self.mean.update(everyone.mean())
        if len(everyone) > 1:  # one image has none
            self.variance.update(everyone.var())
        below = (confidence - self.mean.value).clamp(max=0)
        # Equal confidences count fully, also where they never differed.
        spread = (2 * self.variance.value).clamp(min=finfo(self.variance.value.dtype).tiny)
        return (-below.square() * self.n_sigma**2 / spread).exp()
