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
    return min(1.0, progress(method, f"`ramp` must be 0, got {ramp}") / ramp)


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
