"""Checks of arguments that many parts have."""

import math

from torch import Tensor


def check_fraction(name: str, value: float) -> float:
    """Return ``value``, or raise a `ValueError` naming the argument if it is outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1], got {value}.")
    return value


def check_index(stream: str, index: Tensor | None) -> Tensor:
    """Return ``index``, or raise a `ValueError` if the batch does not say which images it has."""
    if index is None:
        raise ValueError(
            f"`batch.{stream}.index` must hold the images' positions in the list, got None."
        )
    return index


def check_count(name: str, value: int) -> int:
    """Return ``value``, or raise a `ValueError` naming the argument if it is below 1."""
    if not value >= 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")
    return value


def check_positive(name: str, value: float) -> float:
    """Return ``value``, or raise a `ValueError` naming the argument unless in (0, infinity)."""
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be above 0, got {value}.")
    return value


def check_smoothing(value: float) -> float:
    """Return ``value``, or raise a `ValueError` if no label can be smoothed by it."""
    if not 0 <= value < 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1), got {value}.")
    return value


def check_temperature(value: float) -> float:
    """Return ``value``, or raise a `ValueError` if no temperature can be that low or high."""
    return check_positive("temperature", value)


def check_label_temperature(value: float | None) -> float | None:
    """Return ``value``, or raise a `ValueError` unless it is above 0 or None, for hard labels."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"`temperature` must be above 0 or null, got {value}.")
    return value


def check_weights(**weights: float) -> None:
    """Raise a `ValueError` for the first weight of a loss that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"`{name}` must be at least 0, got {weight}.")
