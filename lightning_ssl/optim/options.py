"""The options of a run's optimizer and schedule, as plain values."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

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
        shortcut_norms: Whether the weights of the norms in torchvision's shortcuts
            (``downsample.1.weight``) are decayed, and adapted by `lars`, as in suncet.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.03
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay_end: float | None = None
    lr_in_momentum: bool = False
    layer_decay: float | None = None
    shortcut_norms: bool = False

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
