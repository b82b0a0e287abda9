"""Dash: pseudo-labels whose loss is below a threshold that falls in the course of the run."""

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.checks import check_fraction, check_positive, check_temperature
from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.losses import (
    confident,
    counting,
    cross_entropy,
    sharpen,
    weighted_cross_entropy,
)
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.optim.ramps import progress
from lightning_ssl.state.averages import WindowMean
from lightning_ssl.types import Batch, as_batch


class Dash(WeakStrongModule):
    r"""Dash: the threshold starts at the loss of labelled images and falls geometrically.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[H(\arg\max \hat p_j, \hat p_j) \le \rho_k] \; H(q_j, p(\mathcal{A}(u_j))), \quad
        \rho_k = \max(C \gamma^{-k} \rho_0, \rho_{min})

    with :math:`\hat p_j = \hat p(\alpha(u_j))`. The target :math:`q_j` is
    :math:`\operatorname{sharpen}(\hat p_j, T)` while :math:`\rho_k > \rho_{min}`, and the most
    probable class afterwards. At first, in the warm-up, labelled images learn alone;
    :math:`\rho_0` is their mean loss over its last 64 batches, and k counts the periods since.

    Reference: Xu et al., 2021, https://arxiv.org/abs/2109.00650, algorithm 1, and its code; the
    constants as in USB, which starts from the loss of its evaluation set.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        warmup: Fraction of the run's updates with labelled images alone, in [0, 1].
        period: Fraction of the run's updates after which the threshold falls, in
            [2**-24, 1].
        gamma: Factor :math:`\gamma` by which it falls, at least 1.
        rho_scale: Factor C of the threshold's start, above 0.
        rho_min: Where the threshold stays, in nats, above 0; 0.05 is a confidence of 0.951.
        temperature: T of soft targets, above 0; 1 does not sharpen.
        official: Whether as in idstcv/Dash: all unlabelled images count in the warm-up, by soft
            targets, :math:`\rho_0` is their loss in its last 64 batches, and the unlabelled loss
            is a mean over the images that are kept. Its values are in the documentation.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.WeakStrongModule`, such as
            ``lambda_u`` and ``imbalance``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        warmup: float = 0.05,
        period: float = 0.03,
        gamma: float = 1.27,
        rho_scale: float = 1.0001,
        rho_min: float = 0.05,
        temperature: float = 0.5,
        *,
        official: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if not 2**-24 <= period <= 1:
            raise ValueError(f"`period` must be in [2**-24, 1], got {period}.")
        if not 1 <= gamma < math.inf:
            raise ValueError(f"`gamma` must be at least 1, got {gamma}.")
        self.warmup, self.period = check_fraction("warmup", warmup), period
        self.gamma, self.rho_scale = gamma, check_positive("rho_scale", rho_scale)
        self.rho_min = check_positive("rho_min", rho_min)
        self.temperature, self.official = check_temperature(temperature), official
        # Before any batch: the loss of a network that knows nothing.
        self.rho_start = WindowMean(torch.tensor(math.log(num_classes)), window=64)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        done = progress(self, "`model` must not be Dash")
        periods = (_exact(done) - _exact(self.warmup)) // _exact(self.period)
        if periods < 0 and not self.official:
            logits_x = self.head(self.embed(batch.labeled.views["weak"][0]))
            loss_x = cross_entropy(self.imbalance.labeled(logits_x), batch.labeled.target)
            self.rho_start.update(loss_x)
            self.log_losses(loss_x, x=loss_x)
            return loss_x

        logits_x, probs, logits_strong, further = self.predict_views(batch)
        loss_x = cross_entropy(logits_x, batch.labeled.target)
        rho = self.rho_start.value * (self.rho_scale * self.gamma**-periods)
        if periods < 0:
            rho = torch.full_like(rho, math.inf)  # every image counts
        # The loss of the most probable class is minus the logarithm of its probability.
        label, mask = confident(probs, torch.exp(-rho.clamp(min=self.rho_min)))
        mask = counting(mask, batch.unlabeled.kept)
        hard = functional.one_hot(label, self.num_classes).to(probs)
        target = hard.where(rho <= self.rho_min, sharpen(probs, temperature=self.temperature))
        loss_u = weighted_cross_entropy(logits_strong, target, mask)
        if periods < 0:
            self.rho_start.update(loss_u)
        if self.official:
            loss_u = loss_u / mean_over_ranks(mask.to(loss_u).mean()).clamp(min=1e-12)
        loss = loss_x + self.lambda_u * loss_u + sum(further.values())

        self.log_losses(loss, x=loss_x, u=loss_u, **further)
        self.log_pseudo_labels(probs, mask, batch.unlabeled.hidden_target)
        if periods >= 0:
            self.log("train/rho", rho.clamp(min=self.rho_min))
        return loss


def _exact(value: float) -> Fraction:
    """The quotient that a float stands for, of a divisor up to 2**24: 0.54 // 0.03 is not 17."""
    return Fraction(value).limit_denominator(2**24)
