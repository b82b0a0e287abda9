"""VAT: predictions that stay the same under the most harmful small change of an image."""

from typing import Any

import torch
from torch import Tensor

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.losses import cross_entropy, entropy, vat_loss
from lightning_ssl.methods.base import WEAK, SSLModule
from lightning_ssl.methods.draws.adversary import Adversary, draw_directions
from lightning_ssl.models import keep_statistics
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.types import Batch, as_batch


class VAT(SSLModule):
    r"""Virtual adversarial training, with entropy minimisation if ``lambda_entropy`` is above 0.

    .. math::
        \frac{1}{B} \sum_b H(y_b, p(x_b)) + \frac{1}{N} \sum_i \Big[ w(t) \lambda_{vat}\,
        \mathrm{KL}\big(p(x_i + r_i) \,\|\, \hat p(x_i)\big) + \lambda_{ent} H(p(x_i)) \Big],
        \quad r_i \approx \arg\max_{\lVert r \rVert_2 = \varepsilon} \mathrm{KL}

    over all N images of the step, or the unlabelled ones; :math:`\hat p` carries no gradient.

    Reference: Miyato et al., 2017, https://arxiv.org/abs/1704.03976; as a baseline on ImageNet
    Zhai et al., 2019, https://arxiv.org/abs/1905.03670, whose code this follows.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        lambda_vat: Weight of the adversarial loss, at least 0.
        lambda_entropy: Weight of the entropy of the clean predictions, at least 0.
        epsilon: Length of the change, L2 on images in [-1, 1], above 0; null for 6 on 32x32 images
            of three channels and the same change per value on others (42 on 224x224).
        xi: Length at which the search takes its gradient, likewise; null for 0.01 and the same per
            value.
        power_iterations: Gradients that the search takes, at least 1.
        student_first: KL(changed || clean) as in S4L's code; false for KL(clean || changed) as in
            the papers, where a ``lambda_vat`` of 1 is usual.
        use_labeled: Whether both terms also count labelled images.
        ramp: Fraction of the run's updates over which ``lambda_vat`` rises from 0.
        image_std: Standard deviation per channel that the images were divided by; taken from the
            data on the command line, null for images in [-1, 1].
        clamp_norm: Whether the search divides its gradient by at least 1e-6, as S4L's code does
            (with ``xi`` 1e-6), which leaves a small and changing part of ``epsilon``.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    needs_pixels = "which changes pixels by their gradient"
    views = WEAK
    """A weak view of every image."""

    def __init__(
        self,
        num_classes: int,
        lambda_vat: float = 0.3,
        lambda_entropy: float = 0.0,
        epsilon: float | None = None,
        xi: float | None = None,
        power_iterations: int = 1,
        student_first: bool = True,
        use_labeled: bool = True,
        ramp: float = 0.4,
        image_std: tuple[float, ...] | None = None,
        clamp_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_weights(lambda_vat=lambda_vat, lambda_entropy=lambda_entropy)
        self.lambda_vat, self.lambda_entropy = lambda_vat, lambda_entropy
        self.adversary = Adversary(
            epsilon, xi, power_iterations, student_first, image_std, clamp_norm
        )
        self.student_first, self.use_labeled = student_first, use_labeled
        self.ramp = check_fraction("ramp", ramp)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled, adversarial and entropy loss, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        images_x, images_u = x.views["weak"][0], u.views["weak"][0]
        images = torch.cat([images_x, images_u])
        logits = self(images)
        loss_x = cross_entropy(logits[: len(images_x)], x.target)

        start = [draw_directions(self, "unlabeled", images_u, batch.step)]
        if self.use_labeled:
            start.insert(0, draw_directions(self, "labeled", images_x, batch.step))
        else:
            images, logits = images_u, logits[len(images_x) :]
        changed = self.adversary(self, images, torch.cat(start))
        with keep_statistics(self):
            logits_changed = self(changed)
        loss_vat = vat_loss(logits_changed, logits, student_first=self.student_first)
        loss_entropy = entropy(logits)
        loss = (
            loss_x
            + ramp_up(self, self.ramp) * self.lambda_vat * loss_vat
            + self.lambda_entropy * loss_entropy
        )
        self.log_losses(loss, x=loss_x, vat=loss_vat, entropy=loss_entropy)
        return loss
