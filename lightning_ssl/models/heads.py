"""Heads on pooled features."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, relu

from lightning_ssl.models.norms import Norm, norm_1d

Activation = Literal["relu", "gelu"]


class LinearHead(nn.Linear):
    """Linear classifier with Xavier-normal weight and zero bias, as in the MixMatch family.

    Args:
        in_features: Width of the features.
        num_classes: Classes.
        normalize: Whether features are brought to length 1 first.
    """

    def __init__(self, in_features: int, num_classes: int, normalize: bool = False) -> None:
        """Build the layer."""
        super().__init__(in_features, num_classes)
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        """Classify.

        Args:
            features: ``(..., in_features)``.

        Returns:
            Logits ``(..., num_classes)``.
        """
        return super().forward(normalize(features, dim=-1) if self.normalize else features)

    def reset_parameters(self) -> None:
        """Draw the weight, zero the bias."""
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)


def _width(hidden_features: int | None, default: int) -> int:
    if hidden_features is None:
        return default
    if not isinstance(hidden_features, int) or hidden_features < 1:
        raise ValueError(f"`hidden_features` must be at least 1, got {hidden_features!r}.")
    return hidden_features


class ProjectionHead(nn.Module):
    """PAWS' projection head: linear layers, with norm and activation between them.

    Reference: https://arxiv.org/abs/2104.13963. The head of SuNCEt's first release
    (https://arxiv.org/abs/2006.10803) has two layers and no norm.

    Args:
        in_features: Width of the features.
        out_features: Width of the projections.
        hidden_features: Width of the hidden layers; ``in_features`` if None.
        layers: Linear layers, 2 or 3.
        norm: `none` drops the normalisation.
        activation: `relu`, or `gelu` as for vision transformers.

    Raises:
        ValueError: If an argument is not one of its choices.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int | None = None,
        *,
        layers: int = 3,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if layers not in (2, 3):
            raise ValueError(f"`layers` must be one of (2, 3), got {layers}.")
        hidden = _width(hidden_features, in_features)
        self.activation = _activation(activation)
        self.layers = layers
        self.fc1 = nn.Linear(in_features, hidden)
        self.bn1 = norm_1d(hidden, norm)
        self.fc2 = nn.Linear(hidden, hidden if layers == 3 else out_features)
        if layers == 3:
            self.bn2 = norm_1d(hidden, norm)
            self.fc3 = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Project.

        Args:
            x: Features ``(B, in_features)``.

        Returns:
            Projections ``(B, out_features)``, any real.
        """
        out: Tensor = self.fc2(self.activation(self.bn1(self.fc1(x))))
        return self.fc3(self.activation(self.bn2(out))) if self.layers == 3 else out


class PredictionHead(nn.Module):
    """PAWS' prediction head on projections: norm, linear, norm, activation, linear.

    Reference: https://arxiv.org/abs/2104.13963.

    Args:
        features: Width of the projections and of the predictions.
        hidden_features: Width of the hidden layer; a quarter of ``features`` if None.
        norm: `none` drops the normalisation.
        activation: `relu`, or `gelu` as for vision transformers.

    Raises:
        ValueError: If an argument is not one of its choices.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int | None = None,
        *,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        hidden = _width(hidden_features, max(1, features // 4))
        self.activation = _activation(activation)
        self.bn1 = norm_1d(features, norm)
        self.fc1 = nn.Linear(features, hidden)
        self.bn2 = norm_1d(hidden, norm)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: Projections ``(B, features)``.

        Returns:
            Predictions ``(B, features)``, any real.
        """
        out: Tensor = self.fc2(self.activation(self.bn2(self.fc1(self.bn1(x)))))
        return out


class MLPHead(ProjectionHead):
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
        self, in_features: int, num_classes: int, zero_init: bool = True, norm: Norm = "batch"
    ) -> None:
        super().__init__(in_features, num_classes, layers=2, norm=norm)
        if zero_init:
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    functions: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}
    if name not in functions:
        raise ValueError(f"`activation` must be one of {tuple(functions)}, got {name!r}.")
    return functions[name]
