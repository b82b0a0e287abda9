"""Corrections for labelled images of which some classes have few."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.losses import align, promote, softmax
from lightning_ssl.methods.logs import LoggingModule
from lightning_ssl.optim.ramps import progress
from lightning_ssl.state.averages import ExponentialMean, WindowMean, uniform


class Imbalance(nn.Module):
    """No correction; those that correct something override it."""

    def labeled(self, logits: Tensor) -> Tensor:
        """Logits ``(B, C)`` of the labelled images as their loss takes them."""
        return logits

    @torch.no_grad()
    def teach(self, logits: Tensor, method: LoggingModule) -> Tensor:
        """Probabilities ``(U, C)`` that teach, from logits ``(U, C)``; call it on all processes.

        Args:
            logits: Predictions for this process's part of the unlabelled batch.
            method: The method, for its place in the run and for logging.
        """
        return softmax(logits)

    def learn(self, logits: Tensor) -> Tensor:
        """Logits ``(U, C)`` that learn from the teacher; ask for the teacher first."""
        return logits


class LogitAdjustment(Imbalance):
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
        """See :meth:`Imbalance.labeled`."""
        return promote(logits) + self.labeled_tau * self.log_prior

    @torch.no_grad()
    def teach(self, logits: Tensor, method: LoggingModule) -> Tensor:
        """See :meth:`Imbalance.teach`."""
        probs = softmax(promote(logits) - self._margins())
        self.predicted.update(softmax(logits).mean(dim=0))
        method.log_classes("predicted", self.predicted.value)
        return probs

    def learn(self, logits: Tensor) -> Tensor:
        """See :meth:`Imbalance.learn`."""
        return promote(logits) + self._margins()

    def _margins(self) -> Tensor:
        # A class that is never predicted shall not have an infinite margin.
        return self.tau * self.predicted.value.clamp(min=1e-6).log()


class ProgressiveAlignment(Imbalance):
    r"""Pseudo-labels aligned to the labelled classes, and in the course of the run to even ones.

    .. math::
        \hat q_b = \operatorname{Normalize}\Big(p_b \,
        \frac{\operatorname{Normalize}(\pi^t)}{\tilde p}\Big), \qquad t = 1 - (1 - t_{end}) \, s

    :math:`\pi` is the class frequencies of the labelled images, s the fraction of the run that is
    done, :math:`\tilde p` the mean of the last 128 batch means of the plain predictions, which
    starts uniform and takes in a batch after its use.

    Reference: CReST+, Wei et al., 2021, https://arxiv.org/abs/2102.09559, sec. 3.3, and its code,
    where t falls from one generation of self-training to the next.

    Args:
        class_counts: Labelled images of each class, at least 1.
        final_power: :math:`t_{end}` in [0, 1]; 0 ends at even classes, 1 is plain alignment.
        window: Number of batches, at least 1.

    Raises:
        ValueError: If an argument is outside its range.
    """

    frequencies: Tensor

    def __init__(
        self, class_counts: Sequence[int], *, final_power: float = 0.5, window: int = 128
    ) -> None:
        super().__init__()
        self.final_power = check_fraction("final_power", final_power)
        self.register_buffer("frequencies", class_frequencies(class_counts))
        self.predicted = WindowMean(uniform(len(class_counts)), window)

    @torch.no_grad()
    def teach(self, logits: Tensor, method: LoggingModule) -> Tensor:
        """See :meth:`Imbalance.teach`."""
        probs = softmax(logits)
        done = progress(method, "`imbalance` must not be 'ProgressiveAlignment'")
        target = self.frequencies ** (1 - (1 - self.final_power) * done)
        aligned = align(probs, target / target.sum(), self.predicted.value)
        self.predicted.update(probs.mean(dim=0))
        method.log_classes("predicted", self.predicted.value)
        return aligned


def class_frequencies(class_counts: Sequence[int]) -> Tensor:
    """Share of each class among the labelled images ``(C,)``, float32.

    Args:
        class_counts: Labelled images of each class.

    Raises:
        ValueError: If there is a class without one.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32)
    if not bool((counts >= 1).all()):
        rule = "at least 1 for every class with `imbalance`"
        raise ValueError(f"`class_counts` must be {rule}, got {list(class_counts)}.")
    return counts / counts.sum()
