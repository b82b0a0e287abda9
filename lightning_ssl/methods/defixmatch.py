"""DeFixMatch: FixMatch whose unlabelled loss is made up for on labelled images."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.losses import cross_entropy, pseudo_label_loss, softmax
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.types import Batch, as_batch


class DeFixMatch(SSLModule):
    r"""DeFixMatch: an unbiased estimate of the risk, whatever the pseudo-labels are worth.

    With :math:`\ell(z) = \mathbb{1}[\max \hat p(\alpha(z)) \ge \tau] \;
    H(\arg\max \hat p(\alpha(z)), p(\mathcal{A}(z)))`, FixMatch's loss of one image,

    .. math::
        \frac{1}{2B} \sum_b \big[H(y_b, p(\alpha(x_b))) + H(y_b, p(\mathcal{A}(x_b)))\big]
        + \lambda_u \Big[\frac{1}{\mu B} \sum_j \ell(u_j) - \frac{1}{B} \sum_b \ell(x_b)\Big]

    The bracket has expectation 0, so that the loss may be negative.

    Reference: Schmutz et al., 2022, https://arxiv.org/abs/2203.07512, sec. 3.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        threshold: Confidence in [0, 1] above which a pseudo-label counts.
        lambda_u: Weight of the bracket relative to the labelled loss, at least 0.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_correction = (
        "whose loss is unbiased only where labelled and unlabelled images are treated alike"
    )

    def __init__(
        self, num_classes: int, threshold: float = 0.95, lambda_u: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_u=lambda_u)
        self.threshold, self.lambda_u = check_fraction("threshold", threshold), lambda_u

    @property
    def views(self) -> ViewSpec:
        """A weak and a strong view of every image."""
        return {"labeled": {"weak": 1, "strong": 1}, "unlabeled": {"weak": 1, "strong": 1}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled loss plus the bracket, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (logits_x,), (strong_x,), (logits_u,), (strong_u,) = self.forward_together(
            x.views["weak"], x.views["strong"], u.views["weak"], u.views["strong"]
        )
        loss_x = (cross_entropy(logits_x, x.target) + cross_entropy(strong_x, x.target)) / 2
        probs = softmax(logits_u.detach())
        loss_u, mask = pseudo_label_loss(strong_u, probs, threshold=self.threshold, kept=u.kept)
        # The labels are not used here: the images are treated as if they had none.
        probs_x = softmax(logits_x.detach())
        loss_anti, _ = pseudo_label_loss(strong_x, probs_x, threshold=self.threshold)
        loss = loss_x + self.lambda_u * (loss_u - loss_anti)

        self.log_losses(loss, x=loss_x, u=loss_u, anti=loss_anti)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        return loss
