"""MixMatch: averaged and sharpened guesses, everything mixed with everything."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.checks import check_count, check_fraction, check_temperature, check_weights
from lightning_ssl.losses import mixup, sharpen, softmax, squared_error, weighted_cross_entropy
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.methods.draws.mixup import draw_mixup
from lightning_ssl.models import keep_statistics
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.types import Batch, as_batch


class MixMatch(SSLModule):
    r"""MixMatch: labelled images and guessed ones are mixed, then learnt together.

    .. math::
        q_j = \operatorname{sharpen}\Big(\frac1K \sum_k \hat p(\alpha_k(u_j)), T\Big), \qquad
        \frac{1}{B} \sum_{X'} H(q', p(x')) + w(t) \lambda_u \frac{1}{C K U} \sum_{U'}
        \lVert q' - p(u') \rVert_2^2

    All :math:`B + KU` rows, with their labels or guesses, are mixed with rows of one permutation
    of all of them; :math:`X'` are those that were labelled images for the most part, :math:`U'`
    the others. The network sees them in one pass.

    Reference: Berthelot et al., 2019, https://arxiv.org/abs/1905.02249, algorithm 1.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        alpha: Both parameters of the Beta distribution of the mixing weights, at least 0; 0 mixes
            nothing.
        temperature: T of the guess, above 0; 1 does not sharpen.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0. The
            squared error is averaged over classes, too: a weight for their sum is C times smaller.
        guess_views: Weak views K that a guess is averaged over, at least 1.
        ramp: Fraction of the run's updates over which ``lambda_u`` rises from 0.
        shared_weight: Whether one mixing weight is drawn for all rows of a step, as in TorchSSL and
            USB, in place of one for each row.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which mixes images"
    no_correction = "which mixes all views, with and without label"

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.75,
        temperature: float = 0.5,
        lambda_u: float = 75.0,
        guess_views: int = 2,
        ramp: float = 0.4,
        shared_weight: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(alpha=alpha, lambda_u=lambda_u)
        self.temperature = check_temperature(temperature)
        self.alpha, self.lambda_u = alpha, lambda_u
        self.guess_views = check_count("guess_views", guess_views)
        self.ramp, self.shared_weight = check_fraction("ramp", ramp), shared_weight

    @property
    def views(self) -> ViewSpec:
        """A weak view of each labelled image, K of each unlabelled one."""
        return {"labeled": {"weak": 1}, "unlabeled": {"weak": self.guess_views}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss of mixed images, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled.views["weak"], batch.unlabeled.views["weak"]
        probs = self._guess(u)
        labels = functional.one_hot(batch.labeled.target, self.num_classes).to(probs)

        images = torch.cat([*x, *u])
        target = torch.cat([labels, probs.repeat(self.guess_views, 1)])
        partner, weight = draw_mixup(len(images), self.alpha, images, self.shared_weight)
        logits = self(mixup(images, partner, weight))
        target = mixup(target, partner, weight)

        b = len(labels)
        loss_x = weighted_cross_entropy(logits[:b], target[:b])
        kept = batch.unlabeled.kept
        counts = None if kept is None else kept.repeat(self.guess_views)
        loss_u = squared_error(logits[b:], target[b:], counts)
        loss = loss_x + ramp_up(self, self.ramp) * self.lambda_u * loss_u

        self.log_losses(loss, x=loss_x, u=loss_u)
        self.log_pseudo_labels(probs, None, batch.unlabeled.hidden_target)
        return loss

    @torch.no_grad()
    def _guess(self, views: Tensor) -> Tensor:
        """Sharpened mean prediction ``(U, C)`` over the views ``(K, U, ...)``."""
        with keep_statistics(self):
            (logits,) = self.forward_together(views)
        return sharpen(softmax(logits).mean(dim=0), temperature=self.temperature)
