"""Which images a step sees: pure functions of (seed, step, rank, world size) with random access."""

from typing import NamedTuple

from pytorch_lightning import Trainer
from torch import Tensor

from lightning_ssl.data.orders import Order, Stratified


class PlannedStep(NamedTuple):
    """What one rank sees in one step.

    Attributes:
        labeled: Positions in the labelled list ``(B,)``, int64, or None.
        unlabeled: Positions in the unlabelled list ``(U,)``, int64, or None.
    """

    labeled: Tensor | None
    unlabeled: Tensor | None


class Plan:
    """Draw the global batch of a step and cut this rank's slice out of it.

    N ranks together see exactly what one would, because only the slice depends on the rank.

    Args:
        labeled: Order of the labelled images; None where a method asks for none.
        unlabeled: Order of the unlabelled images; None where a method asks for none.
        rank: This process, in [0, world_size).
        world_size: Number of processes.

    Raises:
        ValueError: If the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        labeled: Order | None,
        unlabeled: Order | None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for order in (labeled, unlabeled):
            if order is not None:
                order.check_ranks(world_size)
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.rank = rank
        self.world_size = world_size

    def __call__(self, step: int) -> PlannedStep:
        """Positions this rank sees in a step.

        Args:
            step: Step of the run, counted from 0.
        """
        return PlannedStep(self._slice(self.labeled, step), self._slice(self.unlabeled, step))

    def _slice(self, order: Order | None, step: int) -> Tensor | None:
        if order is None:
            return None
        count = order.batch_size // self.world_size
        return order.batch(step)[self.rank * count : (self.rank + 1) * count]


def describe_run(
    trainer: Trainer, plan: Plan, kind: tuple[int, int], counts: tuple[int, int], steps: int
) -> str:
    """Say in one line what a run will do.

    Args:
        trainer: The trainer.
        plan: The plan.
        kind: Number of classes, and side of the images in pixels.
        counts: Number of labelled and of unlabelled images.
        steps: Steps per epoch.
    """
    streams = [("labelled", plan.labeled), ("unlabelled", plan.unlabeled)]
    parts = [f"{kind[0]} classes, images of {kind[1]}x{kind[1]} pixels"]
    parts += [
        f"{count} {name} images, {order.batch_size} a step{_of_each(order)}"
        for count, (name, order) in zip(counts, streams, strict=True)
        if order is not None
    ]
    if plan.world_size > 1:
        own = [order.batch_size // plan.world_size for _, order in streams if order is not None]
        parts.append(f"on each of {plan.world_size} processes {' + '.join(map(str, own))}")
    parts.append(f"epochs of {_count(steps, 'step')}")
    parts.append(f"an update every {_count(trainer.accumulate_grad_batches, 'step')}")
    if trainer.max_steps > 0:
        parts.append(f"{trainer.max_steps} updates")
    elif trainer.max_epochs:
        parts.append(f"{trainer.max_epochs} epochs")
    return "Run: " + "; ".join(parts) + "."


def _of_each(order: Order) -> str:
    if not isinstance(order, Stratified):
        return ""
    return f" ({order.images_per_class} of each of {order.classes_per_batch} classes)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def count_steps(
    length: int | str,
    plan: Plan,
    counts: tuple[int, int],
    unlabeled_batch_size: int,
    accumulated: int,
) -> int:
    """Steps of an epoch, whole updates: Lightning begins a new accumulation with each epoch.

    Args:
        length: A number of steps, or ``unlabeled`` or ``labeled`` for one pass over these images.
        plan: The plan.
        counts: Number of labelled and of unlabelled images.
        unlabeled_batch_size: Unlabelled images of a step, also where the method takes none.
        accumulated: Steps of an update.

    Raises:
        ValueError: If a given number is not of whole updates, or there are no labelled images.
    """
    if isinstance(length, int):
        if length % accumulated:
            raise ValueError(
                "`data.steps_per_epoch` must be a multiple of `trainer.accumulate_grad_batches` "
                f"({accumulated}), got {length}."
            )
        return length
    if length == "labeled" and plan.labeled is None:
        raise ValueError(
            "`data.steps_per_epoch` must be a number or 'unlabeled' with a method that uses no "
            "labels, got 'labeled'."
        )
    num_labeled, num_unlabeled = counts
    if plan.labeled is not None and (length == "labeled" or not num_unlabeled):
        steps = num_labeled // plan.labeled.batch_size
    else:
        steps = num_unlabeled // unlabeled_batch_size
    return max(1, steps // accumulated) * accumulated
