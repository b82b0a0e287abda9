"""UDA: the strong view learns the sharpened prediction for the weak one."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ssl.checks import check_temperature
from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.losses import (
    confident,
    counting,
    cross_entropy,
    sharpen,
    softmax,
    weighted_cross_entropy,
)
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.optim.ramps import progress
from lightning_ssl.state.class_memory import build_thresholds
from lightning_ssl.types import Batch, as_batch

Annealing = Literal["linear", "exp", "log"]
# Threshold of annealing at a fraction of the run, from 0 to 1 between chance and certainty.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: done,
    "exp": lambda done: math.exp(5 * (done - 1)),
    "log": lambda done: 1 - math.exp(-5 * done),
}


class UDA(WeakStrongModule):
    r"""UDA: soft targets from weak views, consistency on strong views.

    .. math::
        \frac{1}{Z} \sum_b \mathbb{1}[p_{y_b}(\alpha(x_b)) < \eta_t]\, H(y_b, p(\alpha(x_b))) +
        \lambda_u \frac{1}{\mu B} \sum_j \mathbb{1}[\max \hat p_j \ge \tau] \;
        H(\operatorname{sharpen}(\hat p_j, T), p(\mathcal{A}(u_j))), \quad
        \hat p_j = \hat p(\alpha(u_j))

    With ``annealing`` labelled images that are already told with more than :math:`\eta_t` teach
    nothing more, Z is the number of the others, and :math:`\eta_t = a(t / S)(1 - 1/C) + 1/C` rises
    over the run's S updates; without it :math:`Z = B` and all of them count.

    Reference: Xie et al., 2019, https://arxiv.org/abs/1904.12848; class thresholds (Flex-UDA)
    Zhang et al., 2021, https://arxiv.org/abs/2110.08263.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence :math:`\tau` in [0, 1] above which a prediction counts, before it is
            sharpened.
        temperature: T of the targets, above 0; 1 does not sharpen.
        annealing: a(s): ``linear`` for s, ``exp`` for exp(5 (s - 1)), ``log`` for 1 - exp(-5 s);
            null for no annealing.
        class_thresholds: Whether the threshold is FlexMatch's of each class, at most ``threshold``,
            see :class:`~lightning_ssl.state.class_memory.ClassMemory`.
        num_unlabeled: Length of the unlabelled list, which class thresholds need; taken from the
            data on the command line.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.8,
        temperature: float = 0.4,
        annealing: Annealing | None = None,
        *,
        class_thresholds: bool = False,
        num_unlabeled: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.memory = build_thresholds(threshold, num_classes, num_unlabeled, class_thresholds)
        if annealing is not None and annealing not in _SHAPES:
            raise ValueError(f"`annealing` must be one of {(*_SHAPES, None)}, got {annealing!r}.")
        self.temperature, self.annealing = check_temperature(temperature), annealing

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = self._labeled_loss(logits_x, x.target)
        _, mask = confident(probs, self.memory.thresholds_for(probs, u.index, self))
        mask = counting(mask, u.kept)
        target = sharpen(probs, temperature=self.temperature)
        loss_u = weighted_cross_entropy(logits_strong, target, mask)
        loss = loss_x + self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        return loss

    def _labeled_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the labelled images of all processes that are not told too well."""
        if self.annealing is None:
            return cross_entropy(logits, target)
        done = _SHAPES[self.annealing](progress(self, "`annealing` must be null"))
        least = 1 / self.num_classes
        with torch.no_grad():
            known = softmax(logits).gather(1, target[:, None]).squeeze(1)
            mask = (known < done * (1 - least) + least).to(known)
            share = mean_over_ranks(mask.mean())
        self.log("train/labeled_rate", share)
        # Where none counts the loss is 0, whatever it is divided by.
        return weighted_cross_entropy(logits, target, mask / share.clamp(min=1e-6))
