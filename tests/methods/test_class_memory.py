"""FlexMatch's memory against loops over its entries, on one process and on two."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from lightning_ssl.methods.class_memory import ClassMemory
from lightning_ssl.types import Samples

MAPPINGS = {
    "convex": lambda x: x / (2 - x),
    "linear": lambda x: x,
    "concave": lambda x: math.log(1 + x) / math.log(2),
}


def draw(step: int, images: int = 12, total: int = 40) -> tuple[Tensor, Tensor]:
    """Predictions for five classes, the first of which is the easiest, and different images."""
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(images, 5, generator=generator, dtype=torch.float64) * 3
    logits[:, 0] += 2
    return logits.softmax(1), torch.randperm(total, generator=generator)[:images]


def thresholds_by_loops(entries: list[int], tau: float, mapping: str, warmup: bool) -> list[float]:
    """Equations 5 to 11 of https://arxiv.org/abs/2110.08263."""
    counts, unused = [0] * 5, 0
    for entry in entries:
        if entry == -1:
            unused += 1
        else:
            counts[entry] += 1
    most = max(*counts, unused) if warmup else max(counts)
    return [tau * MAPPINGS[mapping](c / most) if most else 0.0 for c in counts]


def remember_by_loops(entries: list[int], probs: Tensor, index: Tensor, tau: float) -> None:
    for row, n in zip(probs.tolist(), index.tolist(), strict=True):
        if max(row) >= tau:
            entries[n] = row.index(max(row))


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("warmup", [True, False])
def test_eighty_updates_equal_loops(mapping: Any, warmup: bool) -> None:
    memory = ClassMemory(5, 40, 0.9, mapping, warmup)
    entries, seen = [-1] * 40, []
    for step in range(80):
        expected = thresholds_by_loops(entries, 0.9, mapping, warmup)
        found = memory.thresholds()
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        seen.append(found)
        probs, index = draw(step)
        memory.update(probs, index)
        remember_by_loops(entries, probs, index, 0.9)
        assert memory.classes.tolist() == entries
    assert not seen[0].any()
    # The easy class is at the top, some other is not.
    assert seen[-1][0] == pytest.approx(0.9)
    assert seen[-1].min() < 0.5


def test_an_entry_is_replaced_never_erased() -> None:
    memory = ClassMemory(2, 3, 0.8)
    memory.update(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([2, 0]))
    assert memory.classes.tolist() == [-1, -1, 0]
    memory.update(torch.tensor([[0.4, 0.6], [0.1, 0.9]]), torch.tensor([2, 1]))
    assert memory.classes.tolist() == [-1, 1, 0]
    memory.update(torch.tensor([[0.1, 0.9]]), torch.tensor([2]))
    assert memory.classes.tolist() == [-1, 1, 1]


def test_the_images_never_predicted_with_confidence_hold_the_thresholds_down() -> None:
    memory, without = (ClassMemory(2, 10, 0.8, "linear", warmup) for warmup in (True, False))
    for m in (memory, without):
        m.update(torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.95, 0.05]]), torch.tensor([7, 1, 3]))
    assert memory.thresholds().tolist() == pytest.approx([0.8 * 2 / 7, 0.8 * 1 / 7])
    assert without.thresholds().tolist() == pytest.approx([0.8, 0.4])


def test_of_two_classes_of_an_image_in_one_batch_the_larger_stays() -> None:
    for rows in ([[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]):
        memory = ClassMemory(2, 3, 0.8)
        memory.update(torch.tensor(rows), torch.tensor([1, 1]))
        assert memory.classes.tolist() == [-1, 1, -1]


def _remember() -> Tensor:
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    own = slice(distributed.get_rank(), None, 2)
    memory = ClassMemory(5, 40, 0.9)
    for step in range(80):
        probs, index = draw(step)
        memory.update(probs[own], index[own])
    return memory.classes


@pytest.mark.ddp
def test_two_ranks_remember_what_one_does(two_ranks: Any) -> None:
    entries = [-1] * 40
    for step in range(80):
        remember_by_loops(entries, *draw(step), 0.9)
    assert [found.tolist() for found in two_ranks.run(_remember)] == [entries, entries]


def test_a_batch_must_say_which_images_it_has() -> None:
    memory, nothing = ClassMemory(2, 3, 0.8), Samples({}).index
    with pytest.raises(ValueError, match=r"`batch.unlabeled.index` must hold .*, got None"):
        memory.update(torch.tensor([[0.9, 0.1]]), nothing)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("threshold", -0.1, r"in \[0, 1\]"), ("mapping", "cubic", "one of"),
     ("num_unlabeled", 0, "at least 1")],
)  # fmt: skip
def test_errors_name_argument_and_value(option: str, value: Any, allowed: str) -> None:
    options: dict[str, Any] = {"num_classes": 5, "num_unlabeled": 9, "threshold": 0.9}
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got '?{value}"):
        ClassMemory(**{**options, option: value})
