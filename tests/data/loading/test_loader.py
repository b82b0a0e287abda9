"""Loaders: one sequence for any number of workers, from anywhere, without padding."""

import os

import pytest
import torch

from lightning_ssl.data.loading.loader import EvaluationLoader, TrainLoader


def with_pid(step: int) -> tuple[int, int]:
    return step, os.getpid()


def no_fetch(indices: torch.Tensor) -> tuple[torch.Tensor]:
    return (indices,)


def steps_of(loader) -> list[int]:
    return [step for step, _ in loader]


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
class TestTrainLoader:
    @pytest.mark.parametrize("start", [0, 5, 1000])
    def test_walks_the_plan_from_the_start(self, workers, start):
        loader = TrainLoader(with_pid, 7, lambda: start, num_workers=workers)
        assert len(loader) == 7
        items = list(loader)
        assert [step for step, _ in items] == list(range(start, start + 7))
        processes = {pid for _, pid in items}
        assert len(processes) == max(workers, 1)
        assert (os.getpid() in processes) == (workers == 0)

    def test_asks_for_the_start_at_each_epoch(self, workers):
        position = {"step": 2}
        loader = TrainLoader(with_pid, 4, lambda: position["step"], num_workers=workers)
        first = list(loader)
        position["step"] = 6
        second = list(loader)
        position["step"] = 3  # a resumed run
        third = list(loader)
        steps = [[step for step, _ in epoch] for epoch in (first, second, third)]
        assert steps == [[2, 3, 4, 5], [6, 7, 8, 9], [3, 4, 5, 6]]
        # The workers of the first epoch are still the ones.
        assert {pid for _, pid in first} == {pid for _, pid in second + third}

    @pytest.mark.parametrize("taken", [0, 1, 3])
    def test_goes_on_after_an_abandoned_epoch(self, workers, taken):
        position = {"step": 0}
        loader = TrainLoader(with_pid, 9, lambda: position["step"], num_workers=workers)
        abandoned = iter(loader)
        assert [next(abandoned)[0] for _ in range(taken)] == list(range(taken))
        position["step"] = 20  # elsewhere, so that what was fetched ahead would show
        assert steps_of(loader) == list(range(20, 29))

    def test_epoch_shorter_than_the_number_of_workers(self, workers):
        loader = TrainLoader(with_pid, 1, lambda: 8, num_workers=workers)
        assert steps_of(loader) == [8]
        assert steps_of(loader) == [8]


@pytest.mark.parametrize(("length", "world_size", "batch_size", "workers"), [
    (10, 1, 4, 0), (10, 1, 4, 2), (10, 3, 2, 0), (11, 3, 2, 2), (10, 4, 4, 0), (8, 4, 2, 0),
    (7, 2, 1, 3), (5, 2, 100, 2),
])  # fmt: skip
def test_evaluation_shares_are_unpadded(length, world_size, batch_size, workers):
    indices = torch.arange(length).flip(0) * 3 + 1  # neither sorted nor contiguous
    seen = []
    for rank in range(world_size):
        loader = EvaluationLoader(
            no_fetch, indices, batch_size,
            rank=rank, world_size=world_size, stage="test", num_workers=workers,
        )  # fmt: skip
        assert loader.stage == "test"
        batches = [batch for (batch,) in loader]
        assert len(batches) == len(loader)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert 0 < len(batches[-1]) <= batch_size
        assert torch.cat(batches).tolist() == indices.tolist()[rank::world_size]
        again = [batch for (batch,) in loader]
        assert torch.equal(torch.cat(again), torch.cat(batches))
        seen += torch.cat(batches).tolist()
    assert sorted(seen) == sorted(indices.tolist())


def test_evaluation_stage_is_val_unless_said():
    assert EvaluationLoader(no_fetch, torch.arange(3), 2).stage == "val"


def test_rank_without_images_has_one_empty_batch():
    # Lightning stops a process whose loader is shorter than one batch, and metrics sync in all.
    loader = EvaluationLoader(no_fetch, torch.arange(2), 4, rank=2, world_size=3)
    assert len(loader) == 1
    assert [batch.tolist() for (batch,) in loader] == [[]]
