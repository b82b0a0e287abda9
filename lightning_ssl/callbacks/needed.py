"""The callbacks that every method brings, where the trainer has none of the kind."""

from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from lightning_ssl.callbacks.calibration import Calibration
from lightning_ssl.callbacks.checks import RunChecks
from lightning_ssl.callbacks.ema import EMA
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.callbacks.head_start import HeadStart
from lightning_ssl.callbacks.labeled import LabeledFeatures


def needed_callbacks(trainer: Trainer, ema_decay: float, head_init: Any) -> list[Callback]:
    """Start the head, check the run, average the weights, keep what goes with evaluated weights.

    Args:
        trainer: The trainer; a user's own averaging or checks win.
        ema_decay: Decay of the average; 0 for none.
        head_init: How the classifier starts, ``none`` for as it was drawn.
    """
    averaged = bool(find_callbacks(trainer, WeightAveraging))
    needed: list[Callback] = [] if head_init == "none" else [HeadStart(head_init)]
    if not find_callbacks(trainer, RunChecks):
        needed.append(RunChecks(0 if averaged else ema_decay))
    if not averaged and ema_decay:
        needed.append(EMA(ema_decay))  # after the head has started: it copies the weights
    if not find_callbacks(trainer, LabeledFeatures):
        needed.append(LabeledFeatures())  # after the average, so that it sees that
    if not find_callbacks(trainer, Calibration):
        needed.append(Calibration())
    return needed
