"""Weights that rise in the course of a run."""

import math

from pytorch_lightning import LightningModule


def ramp_up(method: LightningModule, ramp: float) -> float:
    """Weight of an unlabelled loss: from 0 to 1 in a straight line, then 1.

    Args:
        method: The method, for the updates that are done and to do.
        ramp: Fraction of the run's updates over which the weight rises; 0 for 1 from the start.

    Returns:
        Factor in [0, 1].

    Raises:
        ValueError: If the run has no end of which to take a fraction.
    """
    if ramp == 0:
        return 1.0
    total = method.trainer.estimated_stepping_batches
    if not math.isfinite(total):
        raise ValueError(f"`ramp` must be 0 in a run without end (set `max_steps`), got {ramp}.")
    return min(1.0, method.trainer.global_step / (ramp * total))


def progress(method: LightningModule, otherwise: str) -> float:
    """Fraction of the run's updates that are done.

    Args:
        method: The method, for the updates that are done and to do.
        otherwise: What has to be set in a run without end.

    Returns:
        Fraction in [0, 1].

    Raises:
        ValueError: If the run has no end of which to take a fraction.
    """
    total = method.trainer.estimated_stepping_batches
    if not math.isfinite(total):
        raise ValueError(f"{otherwise}, in a run without end (set `max_steps`).")
    return min(1.0, method.trainer.global_step / total)


def check_fraction(name: str, value: float) -> float:
    """Return ``value``, or raise a `ValueError` naming the argument if it is outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1], got {value}.")
    return value


def check_weights(**weights: float) -> None:
    """Raise a `ValueError` for the first weight of a loss that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"`{name}` must be at least 0, got {weight}.")
