"""Soft nearest neighbours in chunks against the whole matrix, and the metric against a loop."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_ssl.evaluation import (
    SoftNearestNeighborAccuracy,
    SoftNearestNeighbors,
    classify_by_neighbors,
    neighbors,
)
from lightning_ssl.evaluation.neighbors import nearest_rows

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_QUERIES", 3)
    monkeypatch.setattr(neighbors, "_SUPPORT", 4)


def draw(seed: int, queries: int, support: int, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(queries, 6, generator=generator, dtype=torch.float64) * 5,
        torch.randn(support, 6, generator=generator, dtype=torch.float64),
        torch.randint(classes, (support,), generator=generator),
    )


def classify_by_loops(
    queries: Tensor, support: Tensor, target: Tensor, classes: int, temperature: float
) -> Tensor:
    """All weights of a query at once, relative to the nearest image."""
    rows = []
    for query in queries:
        similarity = [float(query @ s / query.norm() / s.norm()) for s in support]
        nearest = max(similarity)
        row = [0.0] * classes
        for value, c in zip(similarity, target.tolist(), strict=True):
            row[c] += math.exp((value - nearest) / temperature)
        rows.append([mass / sum(row) for mass in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("support", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 1e-3, 1e-5])
def test_chunks_equal_the_whole(queries: int, support: int, temperature: float) -> None:
    values = draw(queries + 10 * support, queries, support)
    probs = classify_by_neighbors(*values, 5, temperature=temperature)
    assert probs.dtype == torch.float64
    torch.testing.assert_close(
        probs, classify_by_loops(*values, 5, temperature), rtol=1e-9, atol=1e-10
    )
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(queries).double(), **EXACT)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("nearest_at", range(12))
def test_the_nearest_image_wins_wherever_it_stands(nearest_at: int) -> None:
    """At this temperature all weights would be 0 without the largest taken out, or infinite."""
    angles = torch.linspace(1.0, 3.0, 12)
    angles[nearest_at] = 0.5
    support = torch.stack([angles.cos(), angles.sin()], dim=1)
    target = torch.arange(12) % 5
    probs = classify_by_neighbors(torch.tensor([[2.0, 0.0]]), support, target, 5, temperature=1e-4)
    expected = torch.zeros(1, 5)
    expected[0, nearest_at % 5] = 1
    assert torch.equal(probs, expected)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_out(dtype: torch.dtype) -> None:
    queries, support, target = draw(0, 7, 9)
    queries, support = queries.float(), support.float()
    wanted = classify_by_neighbors(queries, support, target, 5)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(classify_by_neighbors(queries, support, target, 5), wanted)
    found = classify_by_neighbors(queries.to(dtype), support.to(dtype), target, 5)
    raised = (queries.to(dtype).float(), support.to(dtype).float())
    assert torch.equal(found, classify_by_neighbors(*raised, target, 5))


class Sizes(TorchDispatchMode):
    """Numbers of elements of what operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else [found]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return found


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_QUERIES", 20)
    monkeypatch.setattr(neighbors, "_SUPPORT", 50)
    queries, support, target = draw(0, 400, 600)
    inputs_and_results = max(400 * 6, 600 * 6, 400 * 5)
    with Sizes() as sizes:
        classify_by_neighbors(queries, support, target, 5)
    assert sizes.largest <= max(20 * 50, inputs_and_results) < 400 * 600 / 50
    with Sizes() as sizes:
        nearest_rows(queries, support, 3)
    assert sizes.largest <= max(20 * (50 + 3), inputs_and_results)
    metric = SoftNearestNeighborAccuracy(5)
    metric.update(support, target, support=True)
    metric.update(queries, torch.zeros(400, dtype=torch.int64))
    with Sizes() as sizes:
        metric.compute()
    assert sizes.largest <= max(20 * 50, inputs_and_results)


def test_the_chunks_are_of_a_bounded_size() -> None:
    assert neighbors._QUERIES * neighbors._SUPPORT * 4 <= 2**25


# The nearest rows


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("queries", [1, 3, 7])
@pytest.mark.parametrize("support", [4, 5, 9, 13])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_nearest_rows_by_loops(queries: int, support: int, count: int) -> None:
    values, others, _ = draw(queries + 10 * support, queries, support)
    cosines, rows = nearest_rows(values, others, count)
    for query, found, places in zip(values, cosines.tolist(), rows.tolist(), strict=True):
        every = [float(query @ s / query.norm() / s.norm()) for s in others]
        wanted = sorted(range(support), key=lambda j: -every[j])[:count]
        assert places == wanted
        assert found == pytest.approx([every[j] for j in wanted], abs=1e-12)


@pytest.mark.usefixtures("_small_chunks")
def test_a_row_does_not_find_itself_but_its_twin() -> None:
    rows = draw(5, 0, 10)[1]
    rows = torch.cat([rows, rows[:1]])
    own = torch.arange(11)
    found = nearest_rows(rows, rows, 10, own=own)[1]
    for i in range(11):
        assert sorted(found[i].tolist()) == [j for j in range(11) if j != i]
    assert (found[0, 0], found[10, 0]) == (10, 0)
    for count, message in ((11, r"\[1, 10\], .* got 11"), (0, "got 0")):
        with pytest.raises(ValueError, match=message):
            nearest_rows(rows, rows, count, own=own)


# The classifier


@pytest.mark.usefixtures("_small_chunks")
def test_the_classifier_gives_logarithms() -> None:
    queries, support, target = draw(1, 7, 9)
    classifier = SoftNearestNeighbors(6, 0.3)  # one class has no image
    assert not classifier.fitted
    classifier.fit(support, target)
    assert classifier.fitted
    logs = classifier(queries)
    probs = classify_by_loops(queries, support, target, 6, 0.3)
    present = probs > 0
    assert present.any(dim=0).tolist() == [c in target.tolist() for c in range(6)]
    torch.testing.assert_close(logs[present], probs[present].log(), rtol=1e-10, atol=1e-10)
    assert logs.isfinite().all()
    torch.testing.assert_close(logs.softmax(dim=1), probs, rtol=1e-10, atol=1e-10)


def test_the_classifier_keeps_copies_outside_of_the_state() -> None:
    queries, support, target = draw(1, 7, 9)
    classifier = SoftNearestNeighbors(5)
    with torch.inference_mode():
        made_there = support.clone()
        classifier.fit(made_there, target)
    before = classifier(queries)
    with torch.inference_mode():
        made_there.zero_()
    target.zero_()
    assert torch.equal(classifier(queries), before)
    leaf = queries.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(leaf)[:, 0].sum(), leaf)  # no inference tensors
    assert gradient.isfinite().all()
    assert classifier.state_dict() == {}
    assert list(classifier.parameters()) == []
    classifier.clear()
    assert not classifier.fitted
    with pytest.raises(RuntimeError, match="`fit_support`"):
        classifier(queries)


def test_embeddings_of_another_precision_are_compared() -> None:
    """A checkpoint of one precision is opened in another."""
    queries, support, target = draw(1, 7, 9)
    wanted = classify_by_loops(queries, support, target, 5, 0.1)
    for one, two in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        classifier = SoftNearestNeighbors(5)
        classifier.fit(support.to(one), target)
        found = classifier(queries.to(two)).exp()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


# The metric


def accuracy_by_loops(probs: Tensor, target: Tensor, top_k: int) -> float:
    right = 0
    for row, y in zip(probs.tolist(), target.tolist(), strict=True):
        right += sum(p > row[y] for p in row) < top_k
    return right / len(target)


def labelled(seed: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    queries, support, target = draw(seed, 40, 30)
    generator = torch.Generator().manual_seed(seed + 1)
    return queries, torch.randint(5, (40,), generator=generator), support, target


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_metric_equals_a_loop(top_k: int, temperature: float) -> None:
    queries, query_target, support, target = labelled()
    metric = SoftNearestNeighborAccuracy(5, temperature, top_k)
    for start in range(0, 40, 7):  # queries and supports in any order
        part = slice(start, start + 7)
        metric.update(queries[part], query_target[part])
        metric.update(support[part], target[part], support=True)
    probs = classify_by_loops(queries, support, target, 5, temperature)
    expected = accuracy_by_loops(probs, query_target, top_k)
    assert metric.compute().item() == pytest.approx(expected)
    assert 0 < expected < 1 or top_k == 5
    metric.reset()
    with pytest.raises(ValueError, match="`update`"):
        metric.compute()


def test_errors_of_the_metric() -> None:
    for top_k in (0, 6):
        with pytest.raises(ValueError, match=rf"`top_k` must be in \[1, 5\], got {top_k}\."):
            SoftNearestNeighborAccuracy(5, top_k=top_k)
    with pytest.raises(ValueError, match=r"`temperature` must be above 0, got 0\."):
        SoftNearestNeighborAccuracy(5, 0)
    metric = SoftNearestNeighborAccuracy(5)
    metric.update(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="support"):
        metric.compute()


def _compute(shares: list[list[slice]], top_k: int) -> float:
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    queries, query_target, support, target = labelled()
    metric = SoftNearestNeighborAccuracy(5, top_k=top_k)
    own_support, own_queries = shares[distributed.get_rank()]
    metric.update(support[own_support], target[own_support], support=True)
    metric.update(queries[own_queries], query_target[own_queries])
    return metric.compute().item()


SHARES = {
    "even": [[slice(0, None, 2), slice(0, None, 2)], [slice(1, None, 2), slice(1, None, 2)]],
    "uneven": [[slice(0, 3), slice(0, 37)], [slice(3, None), slice(37, None)]],
    "one has nothing": [[slice(0, None), slice(0, None)], [slice(0, 0), slice(0, 0)]],
}


@pytest.mark.ddp
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("top_k", [1, 2])
def test_two_ranks_find_what_one_finds(
    two_ranks: Any, shares: list[list[slice]], top_k: int
) -> None:
    queries, query_target, support, target = labelled()
    metric = SoftNearestNeighborAccuracy(5, top_k=top_k)
    metric.update(support, target, support=True)
    metric.update(queries, query_target)
    expected = metric.compute().item()
    assert two_ranks.run(_compute, shares, top_k) == [expected, expected]
