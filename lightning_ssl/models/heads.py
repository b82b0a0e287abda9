"""Classification heads on pooled features."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu


class LinearHead(nn.Linear):
    """Linear classifier with Xavier-normal weight and zero bias, as in the MixMatch family.

    Args:
        in_features: Width of the features.
        num_classes: Classes.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        """Build the layer."""
        super().__init__(in_features, num_classes)

    def reset_parameters(self) -> None:
        """Draw the weight, zero the bias."""
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)


class MLPHead(nn.Module):
    """PAWS' fine-tuning head: linear, BatchNorm, ReLU, linear.

    ``fc1`` and ``bn1`` have the names and shapes of the first layers of a PAWS projection head, so
    they can be taken over from one.

    Args:
        in_features: Width of the features and of the hidden layer.
        num_classes: Classes.
        zero_init: Whether the last layer starts at zero, weight and bias.
        norm: `none` drops the normalisation.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        zero_init: bool = True,
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        """Build the layers."""
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(f"`norm` must be one of ('batch', 'none'), got {norm!r}.")
        self.fc1 = nn.Linear(in_features, in_features)
        self.bn1 = nn.BatchNorm1d(in_features) if norm == "batch" else nn.Identity()
        self.fc2 = nn.Linear(in_features, num_classes)
        if zero_init:
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: Features ``(B, in_features)``.

        Returns:
            Logits ``(B, num_classes)``.
        """
        logits: Tensor = self.fc2(relu(self.bn1(self.fc1(x))))
        return logits
