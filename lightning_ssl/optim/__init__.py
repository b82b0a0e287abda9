"""Optimizers, parameter groups and schedules, all counted in optimizer updates."""

from lightning_ssl.optim.groups import parameter_groups
from lightning_ssl.optim.optimizers import build_optimizer
from lightning_ssl.optim.options import Optimizer, Schedule
from lightning_ssl.optim.schedules import UpdateScheduler, build_scheduler, multiplier, scheduled

__all__ = (
    "Optimizer",
    "Schedule",
    "UpdateScheduler",
    "build_optimizer",
    "build_scheduler",
    "multiplier",
    "parameter_groups",
    "scheduled",
)
