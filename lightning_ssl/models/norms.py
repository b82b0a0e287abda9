"""BatchNorm, or none where the rows of a batch must not depend on each other."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

Norm = Literal["batch", "none"]


def norm_1d(channels: int, norm: Norm) -> nn.Module:
    """Normalisation of features ``(B, channels)``.

    Args:
        channels: Width of the features.
        norm: `none` gives the identity, which has no keys.
    """
    return nn.BatchNorm1d(channels) if _is_batch(norm) else nn.Identity()


def norm_2d(channels: int, norm: Norm, *, eps: float, momentum: float) -> nn.Module:
    """Normalisation of feature maps ``(B, channels, H, W)``.

    Args:
        channels: Channels of the maps.
        norm: `none` gives the identity, which has no keys.
        eps: Added to the variance.
        momentum: Share of the newest batch in the running statistics.
    """
    if not _is_batch(norm):
        return nn.Identity()
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def _is_batch(norm: str) -> bool:
    if norm not in ("batch", "none"):
        raise ValueError(f"`norm` must be one of ('batch', 'none'), got {norm!r}.")
    return norm == "batch"


def activate(norm: nn.Module, x: Tensor, function: Callable[..., Tensor] = relu) -> Tensor:
    """Activation of the normalised tensor; ``x`` itself is left as it is.

    Args:
        norm: What :func:`norm_2d` built.
        x: Feature maps.
        function: Activation that takes ``inplace``.
    """
    # In place, one tensor less is kept for backward; but after an identity it would overwrite `x`.
    return function(norm(x), inplace=not isinstance(norm, nn.Identity))
