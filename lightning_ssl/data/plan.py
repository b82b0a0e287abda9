"""Which images a step sees: pure functions of (seed, step, rank, world size) with random access."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.seeding import make_generator


class _Permutations:
    """Endless fresh permutations of ``range(size)``, read by position; the last two are kept."""

    def __init__(self, size: int, *keys: int | str) -> None:
        self.size = size
        self.keys = keys
        self._kept: dict[int, Tensor] = {}

    def read(self, start: int, count: int) -> Tensor:
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.size)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts).long()

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            self._kept = {e: p for e, p in self._kept.items() if e == epoch - 1}
            # int32 halves the memory for lists of many million images.
            self._kept[epoch] = torch.randperm(
                self.size, generator=make_generator(*self.keys, epoch), dtype=torch.int32
            )
        return self._kept[epoch]


class Order(ABC):
    """The global batches of one stream.

    Args:
        size: Number of images in the list.
        batch_size: Images of the global batch, over all ranks.
        seed: Seed of the order.
        stream: Name of the stream, so that two streams never share their draws.

    Raises:
        ValueError: If the list or the batch is empty.
    """

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        if size < 1:
            raise ValueError(f"The {stream} list holds no image; at least one is needed.")
        if batch_size < 1:
            raise ValueError(f"The {stream} batch size must be at least 1, got {batch_size}.")
        if size < batch_size:
            rank_zero_warn(
                f"The {stream} list ({size} images) is shorter than its batch ({batch_size}): "
                "images repeat inside a batch."
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream

    @abstractmethod
    def batch(self, step: int) -> Tensor:
        """Positions in the list of the global batch of a step.

        Args:
            step: Step of the run, counted from 0.

        Returns:
            Positions ``(batch_size,)``, int64.
        """


class Shuffled(Order):
    """Fresh permutations end to end: every image once before any image twice."""

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        super().__init__(size, batch_size, seed, stream)
        self._permutations = _Permutations(size, seed, "plan", stream)

    def batch(self, step: int) -> Tensor:
        """See :meth:`Order.batch`."""
        return self._permutations.read(step * self.batch_size, self.batch_size)


class Balanced(Order):
    """Every class equally often: rounds over all classes in random order, one image of each.

    Within a class images follow fresh permutations end to end.

    Args:
        targets: Class of each image of the list ``(N,)``, int64.
        batch_size: Images of the global batch, over all ranks.
        seed: Seed of the order.
        stream: Name of the stream.
    """

    def __init__(self, targets: Tensor, batch_size: int, seed: int, stream: str) -> None:
        super().__init__(len(targets), batch_size, seed, stream)
        classes = targets.unique().tolist()
        self._members = [torch.nonzero(targets == c).flatten() for c in classes]
        self._within = [
            _Permutations(len(m), seed, "plan", stream, "class", c)
            for c, m in zip(classes, self._members, strict=True)
        ]
        self._rounds = _Permutations(len(classes), seed, "plan", stream, "rounds")

    def batch(self, step: int) -> Tensor:
        """See :meth:`Order.batch`."""
        start = step * self.batch_size
        classes = self._rounds.read(start, self.batch_size).tolist()
        rounds = [position // len(self._members) for position in range(start, start + len(classes))]
        return torch.stack(
            [
                self._members[c][self._within[c].read(visit, 1)[0]]
                for c, visit in zip(classes, rounds, strict=True)
            ]
        )


class PlannedStep(NamedTuple):
    """What one rank sees in one step.

    Attributes:
        labeled: Positions in the labelled list ``(B,)``, int64.
        unlabeled: Positions in the unlabelled list ``(U,)``, int64, or None.
    """

    labeled: Tensor
    unlabeled: Tensor | None


class Plan:
    """Draw the global batch of a step and cut this rank's slice out of it.

    N ranks together see exactly what one would, because only the slice depends on the rank.

    Args:
        labeled: Order of the labelled images.
        unlabeled: Order of the unlabelled images; None where a method asks for none.
        rank: This process, in [0, world_size).
        world_size: Number of processes.

    Raises:
        ValueError: If the number of processes does not divide a batch size.
    """

    def __init__(
        self, labeled: Order, unlabeled: Order | None, *, rank: int = 0, world_size: int = 1
    ) -> None:
        for order in (labeled, unlabeled):
            if order is not None and order.batch_size % world_size:
                flag = "batch_size" if order is labeled else "unlabeled_batch_size"
                raise ValueError(
                    f"`data.{flag}` counts the images of all processes together: it must be a "
                    f"multiple of their number ({world_size}), got {order.batch_size}."
                )
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.rank = rank
        self.world_size = world_size

    def __call__(self, step: int) -> PlannedStep:
        """Positions this rank sees in a step.

        Args:
            step: Step of the run, counted from 0.
        """
        unlabeled = None if self.unlabeled is None else self._slice(self.unlabeled, step)
        return PlannedStep(self._slice(self.labeled, step), unlabeled)

    def _slice(self, order: Order, step: int) -> Tensor:
        count = order.batch_size // self.world_size
        return order.batch(step)[self.rank * count : (self.rank + 1) * count]


def describe_run(trainer: Trainer, plan: Plan, counts: tuple[int, int], steps: int) -> str:
    """Say in one line what a run will do.

    Args:
        trainer: The trainer.
        plan: The plan.
        counts: Number of labelled and of unlabelled images.
        steps: Steps per epoch.
    """
    parts = [f"{counts[0]} labelled images, {plan.labeled.batch_size} a step"]
    if plan.unlabeled is not None:
        parts.append(f"{counts[1]} unlabelled images, {plan.unlabeled.batch_size} a step")
    if plan.world_size > 1:
        own = plan.labeled.batch_size // plan.world_size
        unlabeled = plan.unlabeled and plan.unlabeled.batch_size // plan.world_size
        parts.append(f"on each of {plan.world_size} processes {own} + {unlabeled or 0}")
    parts.append(f"epochs of {_count(steps, 'step')}")
    parts.append(f"an update every {_count(trainer.accumulate_grad_batches, 'step')}")
    if trainer.max_steps > 0:
        parts.append(f"{trainer.max_steps} updates")
    elif trainer.max_epochs:
        parts.append(f"{trainer.max_epochs} epochs")
    return "Run: " + "; ".join(parts) + "."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
