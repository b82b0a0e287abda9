"""What a correction may change, and the one that changes nothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_ssl.losses import softmax
from lightning_ssl.methods.base import SSLModule

AskFeatures = Callable[[], tuple[Tensor, ...]]
"""Features of labelled images, of the view that teaches and of the one that learns, each ``(B, F)``
or ``(1, B, F)``."""


class Correction(nn.Module):
    """No correction; those that correct something override a part of it."""

    def heads(self, own: nn.Module) -> tuple[nn.Module, nn.Module | None]:
        """The classifier that predicts, and the method's own where that is another one.

        Args:
            own: The classifier of the method.
        """
        return own, None

    def labeled(self, logits: Tensor) -> Tensor:
        """Logits ``(B, C)`` of the labelled images as their loss takes them."""
        return logits

    @torch.no_grad()
    def teach(self, logits: Tensor, target: Tensor, method: SSLModule) -> Tensor:
        """Probabilities ``(U, C)`` that teach, from logits ``(U, C)``; call it on all processes.

        Args:
            logits: Predictions for this process's part of the unlabelled batch.
            target: Classes of its labelled images ``(B,)``, int64.
            method: The method, for its place in the run and for logging.
        """
        return softmax(logits)

    def learn(self, logits: Tensor) -> Tensor:
        """Logits ``(U, C)`` that learn from the teacher; ask for the teacher first."""
        return logits

    def losses(self, features: AskFeatures, target: Tensor, method: SSLModule) -> dict[str, Tensor]:
        """Further losses by the names that they are logged by, each of weight 1.

        Args:
            features: Asked only where there is such a loss.
            target: Classes of the labelled images ``(B,)``, int64.
            method: The method, for its classifiers and its place in the run.
        """
        return {}


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
