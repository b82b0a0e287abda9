"""Schedules of learning rate and weight decay, counted in optimizer updates."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_ssl.optim.optimizers import build_optimizer
from lightning_ssl.optim.options import Optimizer, Schedule


def multiplier(step: int, total: float, schedule: Schedule) -> float:
    r"""Fraction of the learning rate at one optimizer update.

    With :math:`t` and :math:`S` the updates done and to do after the warm-up, ``cosine`` is
    :math:`f + (1 - f)(1 + \cos(\pi t / S)) / 2` and ``cosine_7_16`` is
    :math:`\cos(7 \pi t / 16 S)` (https://arxiv.org/abs/2001.07685), ``cosine_part``
    :math:`\cos(t \arccos(f) / S)` (google-research/adamatch).

    Args:
        step: Update, 0 for the first; beyond ``total`` the last value holds.
        total: Updates of the run, warm-up included.
        schedule: Shape.

    Returns:
        Factor in [0, 1].

    Example:
        >>> round(multiplier(1000, 1000, Schedule("cosine_7_16")), 4)
        0.1951
        >>> multiplier(5, 100, Schedule("constant", warmup=10, warmup_start=0.5))
        0.75
    """
    if step < schedule.warmup:
        return schedule.warmup_start + step / schedule.warmup * (1 - schedule.warmup_start)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        # Strictly below: the boundary update keeps the old rate, as in google-research/s4l.
        return schedule.gamma ** sum(m < step for m in schedule.milestones)
    done = min(1.0, (step - schedule.warmup) / max(1, total - schedule.warmup))
    if schedule.name == "cosine_early":
        # The warm-up is subtracted twice: facebookresearch/suncet before its pull request 16.
        done = (step - schedule.warmup) / max(1, total - 2 * schedule.warmup)
    if schedule.name == "cosine_7_16":
        return math.cos(7 / 16 * math.pi * done)
    if schedule.name == "cosine_part":
        return math.cos(math.acos(schedule.final) * done)
    return schedule.final + (1 - schedule.final) * _half_cosine(done)


def _half_cosine(done: float) -> float:
    """Fall from 1 to 0 while ``done`` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * done))


class UpdateScheduler(LRScheduler):
    """Learning rate and weight decay as functions of the number of optimizer updates.

    Its state is plain numbers. The schedule and the length of the run are not among them: a
    resumed run takes both from its own configuration.

    Args:
        optimizer: Its learning rates and decays are the values at multiplier 1 and at the start.
        schedule: Shape of the learning rate.
        total_steps: Optimizer updates of the run.
        weight_decay_end: Decay of the ``decayed`` groups at ``total_steps``; None keeps it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        total_steps: float,
        weight_decay_end: float | None = None,
    ) -> None:
        """Set the values of update 0."""
        self.schedule, self.total_steps = schedule, total_steps
        self.weight_decay_end = weight_decay_end
        self.base_decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group at the current update."""
        factor = multiplier(self.last_epoch, self.total_steps, self.schedule)
        return [base * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Move to the next update; ``epoch`` is there only because torch's schedulers have it."""
        super().step(epoch)
        end = self.weight_decay_end
        if end is None:
            return
        fraction = _half_cosine(min(1.0, self.last_epoch / self.total_steps))
        for group, base in zip(self.optimizer.param_groups, self.base_decays, strict=True):
            if group.get("decayed", base > 0):
                group["weight_decay"] = base * fraction + end * (1 - fraction)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain numbers."""
        keep = ("last_epoch", "_step_count", "_last_lr", "base_lrs", "base_decays")
        return {key: self.__dict__[key] for key in keep}


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    total_steps: float,
    weight_decay_end: float | None = None,
) -> LRScheduler:
    """Build the scheduler to step once per optimizer update (Lightning: ``interval: step``).

    Args:
        optimizer: As :func:`build_optimizer` returns it; its rate is that of update 0 afterwards.
        schedule: Shape of the learning rate.
        total_steps: Optimizer updates of the run; may be infinite where nothing depends on it.
        weight_decay_end: Decay of kernels at the end, as ``Optimizer.weight_decay_end``.

    Raises:
        ValueError: If the schedule needs the length of the run and has none.
    """
    endless = schedule.name in ("constant", "step") and weight_decay_end is None
    if not (total_steps >= 1 and (endless or math.isfinite(total_steps))):
        raise ValueError(
            "`total_steps` must be at least 1, and finite with a cosine or `weight_decay_end` "
            f"(set `max_steps`), got {total_steps} with the schedule {schedule.name!r}."
        )
    return UpdateScheduler(optimizer, schedule, total_steps, weight_decay_end)


def scheduled(
    groups: list[dict[str, Any]], optimizer: Optimizer, schedule: Schedule, total_steps: float
) -> dict[str, Any]:
    """Optimizer, and the schedule stepped after each update, as Lightning takes them.

    Args:
        groups: Parameter groups.
        optimizer: Which optimizer, and its values.
        schedule: Shape of the learning rate.
        total_steps: Optimizer updates of the run.
    """
    built = build_optimizer(groups, optimizer)
    scheduler = build_scheduler(built, schedule, total_steps, optimizer.weight_decay_end)
    return {
        "optimizer": built,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
    }
