"""MOAM: the mix of all models, rotation, VAT and entropy in one loss."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_weights
from lightning_ssl.losses import entropy, vat_loss
from lightning_ssl.methods.draws.adversary import Adversary, draw_directions
from lightning_ssl.methods.s4l_rotation import S4LRotation
from lightning_ssl.models import keep_statistics
from lightning_ssl.types import Batch, as_batch


class MOAM(S4LRotation):
    r"""MOAM: S4L-Rotation, VAT and entropy minimisation together.

    .. math::
        \lambda_x L_x + \lambda_{rot} L_{rot} + \frac{1}{4U} \sum_{i, k} \Big[ \lambda_{vat}\,
        \mathrm{KL}\big(p(u_{ik} + r_{ik}) \,\|\, \hat p(u_{ik})\big) +
        \lambda_{ent} H(p(u_{ik})) \Big]

    with the class loss :math:`L_x` and the rotation loss of :class:`S4LRotation`, and the
    adversarial loss and the entropy of :class:`~lightning_ssl.methods.VAT` on the four turned
    copies of the unlabelled images. This is the loss of the first two of the three steps.

    Reference: Zhai et al., 2019, https://arxiv.org/abs/1905.03670, sec. 7, and its code.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_x: Weight of the class loss, at least 0.
        lambda_rotation: Weight of the rotation loss, at least 0; 0.4 as in the code, the paper
            says 0.7.
        lambda_vat: Weight of the adversarial loss, at least 0.
        lambda_entropy: Weight of the entropy of the clean predictions, at least 0.
        epsilon: See :class:`~lightning_ssl.methods.VAT`, like the next five.
        xi: Length at which the search takes its gradient.
        power_iterations: Gradients that the search takes.
        student_first: Order of the divergence.
        image_std: Standard deviation per channel that the images were divided by.
        clamp_norm: Whether a small gradient makes the change shorter.
        **kwargs: Arguments of :class:`S4LRotation`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which turns images and changes pixels by their gradient"

    def __init__(
        self,
        num_classes: int,
        lambda_x: float = 0.3,
        lambda_rotation: float = 0.4,
        lambda_vat: float = 0.3,
        lambda_entropy: float = 0.3,
        epsilon: float | None = None,
        xi: float | None = None,
        power_iterations: int = 1,
        student_first: bool = True,
        image_std: tuple[float, ...] | None = None,
        clamp_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, lambda_rotation, **kwargs)
        check_weights(lambda_x=lambda_x, lambda_vat=lambda_vat, lambda_entropy=lambda_entropy)
        self.lambda_x, self.lambda_vat, self.lambda_entropy = lambda_x, lambda_vat, lambda_entropy
        self.adversary = Adversary(
            epsilon, xi, power_iterations, student_first, image_std, clamp_norm
        )
        self.student_first = student_first

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of four losses, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        loss_x, loss_rotation, images, logits = self.turned(batch)
        start = draw_directions(self, "unlabeled", images, batch.step)
        changed = self.adversary(self, images, start)
        with keep_statistics(self):
            logits_changed = self(changed)
        loss_vat = vat_loss(logits_changed, logits, student_first=self.student_first)
        loss_entropy = entropy(logits)
        loss = (
            self.lambda_x * loss_x
            + self.lambda_rotation * loss_rotation
            + self.lambda_vat * loss_vat
            + self.lambda_entropy * loss_entropy
        )
        self.log_losses(loss, x=loss_x, rotation=loss_rotation, vat=loss_vat, entropy=loss_entropy)
        return loss
