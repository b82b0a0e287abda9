"""ABC: a second classifier that sees as much of every class."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_fraction
from lightning_ssl.losses import confident, softmax, weighted_cross_entropy
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.corrections.base import AskFeatures, Correction, class_frequencies
from lightning_ssl.models import LinearHead
from lightning_ssl.optim.ramps import progress


class ABCHead(LinearHead):
    r"""Auxiliary balanced classifier on the features of a method; it is what predicts.

    .. math::
        \frac{1}{B} \sum_b m_b \, H(y_b, p(x_b)) + \frac{1}{U} \sum_j m_j \,
        \mathbb{1}[\max \hat p(\alpha(u_j)) \ge \tau] \;
        H(\hat p(\alpha(u_j)), p(\mathcal{A}(u_j)))

    with p the prediction of this head and :math:`m` drawn anew for each image: 1 with probability
    :math:`N_{min} / N_y` for a labelled one of class y, and :math:`1 - s \, (1 - N_{min} / N_c)`
    for an unlabelled one predicted as c, where N counts the labelled images of a class and s is the
    fraction of the run that is done. The soft prediction is the target. The loss reaches the
    network, too.

    Reference: Lee et al., 2021, https://arxiv.org/abs/2110.10368, sec. 3, and its code; there with
    two strong views.

    Args:
        in_features: Width of the features.
        class_counts: Labelled images of each class, at least 1.
        threshold: Confidence :math:`\tau` in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.
    """

    keep: Tensor
    """Probability of a labelled image of each class ``(C,)``, float32."""

    def __init__(
        self, in_features: int, class_counts: Sequence[int], *, threshold: float = 0.95
    ) -> None:
        """Build the layer."""
        super().__init__(in_features, len(class_counts))
        frequencies = class_frequencies(class_counts)
        self.register_buffer("keep", frequencies.min() / frequencies)
        self.threshold = check_fraction("threshold", threshold)

    def loss(
        self,
        features_x: Tensor,
        features_weak: Tensor,
        features_strong: Tensor,
        target: Tensor,
        done: float,
    ) -> Tensor:
        """Loss of this head.

        Args:
            features_x: Features of labelled images ``(B, F)``.
            features_weak: Of the unlabelled view that teaches, ``(U, F)``.
            features_strong: Of the unlabelled view that learns, ``(U, F)``.
            target: Classes of the labelled images ``(B,)``, int64.
            done: Fraction of the run that is done, in [0, 1].

        Returns:
            Scalar in nats, float32 at least.
        """
        loss_x = weighted_cross_entropy(self(features_x), target, _draw(self.keep[target]))
        probs = softmax(self(features_weak)).detach()
        label, mask = confident(probs, self.threshold)
        mask = mask & _draw(1 - done * (1 - self.keep[label]))
        return loss_x + weighted_cross_entropy(self(features_strong), probs, mask)


def _draw(probability: Tensor) -> Tensor:
    # On the host and sent without waiting: the same on any device.
    drawn = torch.rand(len(probability), dtype=torch.float64)
    return drawn.to(probability.device, non_blocking=True) < probability


class BalancedClassifier(Correction):
    """A method as it is, and an :class:`ABCHead` on its features, which is what predicts.

    Args:
        plain: Makes what the method does without.
        num_features: Width of the features.
        class_counts: Labelled images of each class, at least 1.
        threshold: Confidence in [0, 1] of the head's own pseudo-labels.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        plain: Callable[[], Correction],
        num_features: int,
        class_counts: Sequence[int],
        *,
        threshold: float = 0.95,
    ) -> None:
        super().__init__()
        self.plain = plain()
        # Not a part of this module: the method has it in the place of its classifier.
        self._make_head = partial(ABCHead, num_features, class_counts, threshold=threshold)

    def heads(self, own: nn.Module) -> tuple[nn.Module, nn.Module | None]:
        """See :meth:`Correction.heads`."""
        return self._make_head(), own

    def labeled(self, logits: Tensor) -> Tensor:
        """See :meth:`Correction.labeled`."""
        return self.plain.labeled(logits)

    def teach(self, logits: Tensor, target: Tensor, method: SSLModule) -> Tensor:
        """See :meth:`Correction.teach`."""
        return self.plain.teach(logits, target, method)

    def learn(self, logits: Tensor) -> Tensor:
        """See :meth:`Correction.learn`."""
        return self.plain.learn(logits)

    def losses(self, features: AskFeatures, target: Tensor, method: SSLModule) -> dict[str, Tensor]:
        """See :meth:`Correction.losses`: that of the head."""
        done = progress(method, "`imbalance` must not be 'ABCHead'")
        head = cast(ABCHead, method.classifier)
        x, weak, strong = (rows.flatten(0, -2) for rows in features())
        return {"balanced": head.loss(x, weak, strong, target, done)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Older checkpoints hold the state of what the method does without as ours.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key.removeprefix(prefix)
            if not name.startswith("plain."):
                state_dict[f"{prefix}plain.{name}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
