"""Loaders that Lightning leaves alone: they walk the plan, resume anywhere and never pad.

Both wrap a ``DataLoader`` instead of being one: Lightning rebuilds what it recognises as one (to
inject samplers, for prediction, for ``overfit_batches``) and would lose the plan.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_ssl.lightning_private import WrappedLoader
from lightning_ssl.types import Batch


def available_cores() -> int:
    """Number of processors that this process may use."""
    # Not every system can tell the processors of a process from those of the machine.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _identity(item: Any) -> Any:
    return item


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


class _PlannedSteps(IterableDataset[Batch]):
    """Steps of the plan from ``start`` on; worker w makes the steps congruent to w."""

    def __init__(self, fetch: Callable[[int], Batch], count: int) -> None:
        self.fetch = fetch
        self.count = count
        # Shared memory: an attribute set later would never reach persistent workers.
        self.start = torch.zeros((), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = _worker()
        start = int(self.start)
        for step in range(start + worker, start + self.count, workers):
            yield self.fetch(step)


class _EvaluationBatches(IterableDataset[tuple[Any, ...]]):
    """Consecutive chunks of this rank's indices; worker w makes the chunks congruent to w."""

    def __init__(
        self, fetch: Callable[..., tuple[Any, ...]], indices: Tensor, batch_size: int
    ) -> None:
        self.fetch = fetch
        self.chunks = indices.split(batch_size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        worker, workers = _worker()
        for chunk in self.chunks[worker::workers]:
            yield self.fetch(chunk)


class _Loader(WrappedLoader):
    """Items of a dataset, from workers that live as long as the loader is in use."""

    def __init__(
        self,
        dataset: IterableDataset[Any],
        num_workers: int,
        pin_memory: bool,
        keep_workers: bool = True,
    ) -> None:
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0 and keep_workers,
            pin_memory=pin_memory,
            collate_fn=_identity,
            generator=torch.Generator(),  # a walk shall draw nothing from the global one
        )
        super().__init__(loader)


class TrainLoader(_Loader):
    """An epoch of planned steps, beginning where the run stands.

    Lightning asks for the training loader once, not once per epoch, so the start is decided each
    time an epoch (or a resumed part of one) begins.

    Args:
        fetch: Makes the batch of a step; runs in the workers.
        steps_per_epoch: Length of an epoch.
        start: Returns the step the run stands at.
        num_workers: Worker processes; 0 fetches in this process.
        pin_memory: Copy batches to page-locked memory, for CUDA.
    """

    def __init__(
        self,
        fetch: Callable[[int], Batch],
        steps_per_epoch: int,
        start: Callable[[], int],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._start = start
        self._steps = _PlannedSteps(fetch, steps_per_epoch)
        super().__init__(self._steps, num_workers, pin_memory)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        self._steps.start.fill_(self._start())
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save: the position is the trainer's batch counter.

        The method exists because Lightning takes a loader that has it as resumable in mid-epoch.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load, see :meth:`state_dict`."""


class EvaluationLoader(_Loader):
    """This rank's share of a list, in order, without padding or repeats.

    Rank r takes ``r::W``, so metrics do not depend on the number of ranks.

    Args:
        fetch: Makes the batch of some indices; runs in the workers.
        indices: The whole list ``(N,)``, int64.
        batch_size: Images per batch and rank.
        rank: This process.
        world_size: Number of processes.
        stage: What the list is: ``val`` or ``test``, as which metrics are logged, ``predict``, or
            ``support``, labelled images.
        num_workers: Worker processes.
        pin_memory: Copy batches to page-locked memory, for CUDA.
        keep_workers: Whether the workers wait for the next walk, until Lightning ends them.
    """

    def __init__(
        self,
        fetch: Callable[..., tuple[Any, ...]],
        indices: Tensor,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        stage: str = "val",
        num_workers: int = 0,
        pin_memory: bool = False,
        keep_workers: bool = True,
    ) -> None:
        self.stage = stage
        self.num_images = len(indices)  # of all ranks
        self._batches = _EvaluationBatches(fetch, indices[rank::world_size], batch_size)
        super().__init__(self._batches, num_workers, pin_memory, keep_workers)

    def __len__(self) -> int:
        return len(self._batches.chunks)
