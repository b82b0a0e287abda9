"""Parameter groups, optimizers and schedules, all counted in optimizer updates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from lightning_ssl.optim.lars import EPS, TRUST, LarsRateInMomentum

OptimizerName = Literal["sgd", "adam", "adamw", "lars"]
ScheduleName = Literal["constant", "cosine", "cosine_7_16", "cosine_part", "cosine_early", "step"]


def _check(config: object, rules: dict[str, tuple[bool, str]]) -> None:
    """Raise for the first field whose value is not as allowed."""
    for name, (valid, allowed) in rules.items():
        if not valid:
            flag, got = f"{type(config).__name__.lower()}.{name}", getattr(config, name)
            raise ValueError(f"`{flag}` must be {allowed}, got {got!r}.")


@dataclass(frozen=True)
class Optimizer:
    """The optimizer and its constants.

    ``adam`` adds the decay to the gradient (L2); ``adamw`` multiplies each kernel by
    ``1 - lr * weight_decay``, which is what MixMatch and ReMixMatch do. ``lars`` is timm's, with
    trust coefficient 0.001, and adapts the decayed group only.

    Args:
        name: Update rule.
        lr: Learning rate that the schedule multiplies.
        weight_decay: Decay of kernels (parameters with two or more dimensions); biases and norms
            have none.
        momentum: Momentum of `sgd` and `lars`; the Adams keep 0.9 and 0.999.
        nesterov: Whether `sgd` and `lars` look ahead.
        weight_decay_end: Decay at the end of the run, reached along a half-cosine; null keeps it.
        lr_in_momentum: Whether `lars` stores lr times gradient in its momentum, as PAWS does,
            which differs from the usual form wherever the rate changes.
        layer_decay: Factor in (0, 1] of the rate of each layer of the network to that of the layer
            above it; the heads have the full rate, and 1 or null gives it to all. For a
            pre-trained transformer that is fine-tuned, see
            :func:`lightning_ssl.models.layer_scales`.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.03
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay_end: float | None = None
    lr_in_momentum: bool = False
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        """Check every value once."""
        names, end = get_args(OptimizerName), self.weight_decay_end
        factor = self.layer_decay
        still = self.momentum == 0 and self.name in ("sgd", "lars")
        rules = {
            "name": (self.name in names, f"one of {names}"),
            "lr": (0 <= self.lr < math.inf, "at least 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "nesterov": (not (self.nesterov and still), "false where the momentum is 0"),
            "weight_decay_end": (end is None or 0 <= end < math.inf, "at least 0 or null"),
            "lr_in_momentum": (
                not self.lr_in_momentum or self.name == "lars",
                f"false with 'optimizer.name' {self.name!r} (only 'lars' has it)",
            ),
            "layer_decay": (factor is None or 0 < factor <= 1, "in (0, 1] or null"),
        }
        _check(self, rules)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over the run; every time is in optimizer updates.

    Args:
        name: Shape after the warm-up: `cosine` ends at `final`, `cosine_7_16` is FixMatch's
            cos(7 pi t / 16 S), which ends at 0.195, `cosine_part` is AdaMatch's, the same curve
            as far as `final`, `cosine_early` reaches `final` `warmup` updates
            before the end and rises again, as suncet's did before it was corrected, `step`
            multiplies by `gamma` after each milestone.
        warmup: Updates of linear warm-up; update number `warmup` is the first at the full rate.
        warmup_start: Fraction of the rate at update 0 of a warm-up.
        final: Fraction of the rate where `cosine` and `cosine_part` end, the least of
            `cosine_early`.
        milestones: Updates, counted from the start of the run, after which `step` lowers the rate;
            the update of that number still has the old one.
        gamma: Factor at each milestone.
    """

    name: ScheduleName = "cosine_7_16"
    warmup: int = 0
    warmup_start: float = 0.0
    final: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Check every value once."""
        names, marks = get_args(ScheduleName), list(self.milestones)
        rising = marks == sorted(set(marks)) and all(mark >= 0 for mark in marks)
        rules = {
            "name": (self.name in names, f"one of {names}"),
            "warmup": (self.warmup >= 0, "at least 0"),
            "warmup_start": (0 <= self.warmup_start <= 1, "in [0, 1]"),
            "final": (0 <= self.final <= 1, "in [0, 1]"),
            "milestones": (
                rising and (bool(marks) or self.name != "step"),
                "increasing, at least 0, and not empty with the schedule 'step'",
            ),
            "gamma": (0 < self.gamma <= 1, "in (0, 1]"),
        }
        _check(self, rules)


# Plain constants, so a checkpoint whose hyper-parameters hold them opens with weights_only=True.
torch.serialization.add_safe_globals([Optimizer, Schedule])


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


def parameter_groups(
    module: nn.Module, scales: Mapping[nn.Parameter, float] | None = None
) -> list[dict[str, Any]]:
    """Split trainable parameters into kernels, which decay, and the rest, which do not.

    Kernels are parameters with two or more dimensions: convolution and linear weights, and also a
    transformer's position embedding and class token. Biases and norms have one.

    Args:
        module: Its parameters with ``requires_grad``, in the order of ``module.parameters()``;
            a shared parameter counts once.
        scales: Fractions of the learning rate in (0, 1]; 1 for parameters it does not name.

    Returns:
        Groups for :func:`build_optimizer`, none empty: at most two of each scale, the largest scale
        first. ``decayed`` says which is which, also where the decay is 0, and ``lr_scale`` is the
        fraction.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        scale, decayed = (scales or {}).get(parameter, 1.0), parameter.ndim > 1
        new: dict[str, Any] = {"params": [], "decayed": decayed, "lr_scale": scale}
        if not decayed:
            new["weight_decay"] = 0.0
        groups.setdefault((scale, decayed), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def build_optimizer(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer that ``config`` describes.

    Args:
        groups: Parameter groups as :func:`parameter_groups` makes them; groups of several modules
            may be concatenated. A group with ``weight_decay`` 0 is neither decayed nor adapted
            by LARS.
        config: Rule and constants.

    Raises:
        ValueError: If there is nothing to train.
    """
    if not groups:
        raise ValueError("`groups` must hold at least one trainable parameter, got none.")
    groups = [
        {
            "decayed": group.get("weight_decay") != 0,
            "lr": config.lr * group.get("lr_scale", 1.0),
            **group,
        }
        for group in groups
    ]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "adam":
        return torch.optim.Adam(groups, **common)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **common)
    common |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.name == "sgd":
        return torch.optim.SGD(groups, **common)
    if config.lr_in_momentum:
        return LarsRateInMomentum(groups, **common)
    from timm.optim import Lars  # slow to import, and few runs need it

    # timm adapts only groups whose decay is not 0; PAWS adapts kernels at decay 0, too.
    groups = [{"always_adapt": group["decayed"], **group} for group in groups]
    optimizer: torch.optim.Optimizer = Lars(groups, trust_coeff=TRUST, eps=EPS, **common)
    return optimizer


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
