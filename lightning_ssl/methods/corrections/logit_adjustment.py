"""Logit adjustment: margins by how rare a class is, and DebiasPL's pseudo-labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_ssl.checks import check_weights
from lightning_ssl.losses import promote, softmax
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.corrections.base import Correction, class_frequencies
from lightning_ssl.state.averages import ExponentialMean, uniform


class LogitAdjustment(Correction):
    r"""Margins that grow with how rare a class is, and pseudo-labels without the model's bias.

    With :math:`\pi` the class frequencies of the labelled images and :math:`\hat p` the moving
    average of the mean prediction for unlabelled images, the losses take

    .. math::
        z_x + \tau_x \log \pi, \qquad
        \hat q = \operatorname{softmax}(z_{weak} - \tau \log \hat p), \qquad
        z_{strong} + \tau \log \hat p

    :math:`\hat p` starts uniform. Of a batch it takes the plain predictions, after they became
    pseudo-labels and before the strong view gets its margin.

    Reference: of the labelled term Menon et al., 2021, https://arxiv.org/abs/2007.07314, eq. 10;
    of the other two DebiasPL, Wang et al., 2022, https://arxiv.org/abs/2201.01490, and its code.
    DebiasPL itself has ``labeled_tau`` 0.

    Args:
        class_counts: Labelled images of each class, at least 1.
        tau: :math:`\tau`, at least 0.
        labeled_tau: :math:`\tau_x`, at least 0; 1 makes the classifier that of balanced classes.
        decay: Of the average, in [0, 1).

    Raises:
        ValueError: If an argument is outside its range.
    """

    log_prior: Tensor

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        tau: float = 0.4,
        labeled_tau: float = 1.0,
        decay: float = 0.999,
    ) -> None:
        super().__init__()
        check_weights(tau=tau, labeled_tau=labeled_tau)
        self.tau, self.labeled_tau = tau, labeled_tau
        self.register_buffer("log_prior", class_frequencies(class_counts).log())
        self.predicted = ExponentialMean(uniform(len(class_counts)), decay)

    def labeled(self, logits: Tensor) -> Tensor:
        """See :meth:`Correction.labeled`."""
        return promote(logits) + self.labeled_tau * self.log_prior

    @torch.no_grad()
    def teach(self, logits: Tensor, target: Tensor, method: SSLModule) -> Tensor:
        """See :meth:`Correction.teach`."""
        probs = softmax(promote(logits) - self._margins())
        self.predicted.update(softmax(logits).mean(dim=0))
        method.log_classes("predicted", self.predicted.value)
        return probs

    def learn(self, logits: Tensor) -> Tensor:
        """See :meth:`Correction.learn`."""
        return promote(logits) + self._margins()

    def _margins(self) -> Tensor:
        # A class that is never predicted shall not have an infinite margin.
        return self.tau * self.predicted.value.clamp(min=1e-6).log()
