"""The learning rate under the name by which Lightning's finder knows it."""

from dataclasses import replace
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateFinder

from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.lightning_private import attached_trainer
from lightning_ssl.optim.schedules import UpdateScheduler


class LearningRate:
    """``optimizer.lr`` of a method as its attribute ``lr``; setting it changes what is recorded.

    While a trainer has the optimizer, the schedule moves from the new rate on.
    """

    def __get__(self, method: Any, owner: Any = None) -> Any:
        """The rate of a method."""
        return self if method is None else method.optimizer.lr

    def __set__(self, method: Any, lr: float) -> None:
        """Replace the rate of a method.

        Raises:
            ValueError: If it is negative or not finite.
        """
        before, method.optimizer = method.optimizer.lr, replace(method.optimizer, lr=float(lr))
        method.hparams["optimizer"] = method.optimizer
        trainer = attached_trainer(method)
        for scheduler in [] if trainer is None else _schedulers(trainer):
            # Layers may have shares of the rate.
            shares = [base / before if before else 1.0 for base in scheduler.base_lrs]
            scheduler.base_lrs = [share * method.optimizer.lr for share in shares]


def follow_schedule(trainer: Trainer) -> None:
    """Give every group the rate of the schedule: the finder leaves all of them at the one it found.

    Args:
        trainer: The trainer, before a resumed run restores its own rates.
    """
    for scheduler in _schedulers(trainer):
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate


def keep_found_rate(trainer: Trainer, method: Any, checkpoint: dict[str, Any]) -> None:
    """Go on with the rate that a finder found when the run began, and search for none again.

    Args:
        trainer: The trainer, before training.
        method: The method.
        checkpoint: What the run goes on from.
    """
    finders = find_callbacks(trainer, LearningRateFinder)
    rate = checkpoint.get("hyper_parameters", {}).get("optimizer", {}).get("lr")
    if finders and isinstance(rate, float):
        method.lr = rate
        for finder in finders:
            trainer.callbacks.remove(finder)  # type: ignore[attr-defined]


def _schedulers(trainer: Trainer) -> list[UpdateScheduler]:
    found = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [scheduler for scheduler in found if isinstance(scheduler, UpdateScheduler)]
