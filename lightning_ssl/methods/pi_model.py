"""Pi-model: two views of an image shall have the same prediction."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.losses import cross_entropy, softmax, squared_error
from lightning_ssl.methods.base import WEAK_PAIR, SSLModule
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.types import Batch, as_batch


class PiModel(SSLModule):
    r"""Pi-model: the second weak view learns the prediction for the first.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b))) + w(t) \lambda_u \frac{1}{C U} \sum_j
        \lVert \hat p(\alpha_1(u_j)) - p(\alpha_2(u_j)) \rVert_2^2

    Reference: Laine & Aila, 2016, https://arxiv.org/abs/1610.02242; the first view without
    gradient and the ramp as in google-research/fixmatch.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_u: Weight of the unlabelled loss relative to the labelled one, at least 0. The
            squared error is averaged over classes, too: a weight for their sum is C times smaller.
        ramp: Fraction of the run's updates over which ``lambda_u`` rises from 0.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = "in which a view learns from one like it"

    views = WEAK_PAIR
    """A weak view of each labelled image, two of each unlabelled one."""

    def __init__(
        self, num_classes: int, lambda_u: float = 10.0, ramp: float = 0.4, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_u=lambda_u)
        self.lambda_u, self.ramp = lambda_u, check_fraction("ramp", ramp)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled plus unlabelled loss, see :meth:`SSLModule.training_step`."""
        x, u = as_batch(batch, self.views)[1:]
        (logits_x,), (first, second) = self.forward_together(x.views["weak"], u.views["weak"])
        loss_x = cross_entropy(logits_x, x.target)
        probs = softmax(first.detach())
        loss_u = squared_error(second, probs, u.kept)
        loss = loss_x + ramp_up(self, self.ramp) * self.lambda_u * loss_u

        self.log_losses(loss, x=loss_x, u=loss_u)
        self.log_pseudo_labels(probs, None, u.hidden_target)
        return loss
