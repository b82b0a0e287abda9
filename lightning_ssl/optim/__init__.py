"""Optimizers, parameter groups and schedules, all counted in optimizer updates."""

from lightning_ssl.optim.optimizers import (
    Optimizer,
    Schedule,
    UpdateScheduler,
    build_optimizer,
    build_scheduler,
    multiplier,
    parameter_groups,
)

__all__ = (
    "Optimizer",
    "Schedule",
    "UpdateScheduler",
    "build_optimizer",
    "build_scheduler",
    "multiplier",
    "parameter_groups",
)
