"""FlexMatch's memory against loops over its entries, on one process and on two."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from lightning_ssl.state.class_memory import ClassMemory
from lightning_ssl.types import Samples

from by_hand import MAPPINGS, Memory


def draw(step: int, images: int = 12, total: int = 40) -> tuple[Tensor, Tensor]:
    """Predictions for five classes, the first of which is the easiest, and different images."""
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(images, 5, generator=generator, dtype=torch.float64) * 3
    logits[:, 0] += 2
    return logits.softmax(1), torch.randperm(total, generator=generator)[:images]


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("warmup", [True, False])
def test_eighty_updates_equal_loops(mapping: Any, warmup: bool) -> None:
    memory = ClassMemory(5, 40, 0.9, mapping, warmup)
    loops, seen = Memory(40, 0.9, 5, mapping, warmup), []
    for step in range(80):
        found = memory.thresholds()
        assert found.tolist() == pytest.approx(loops.thresholds(), abs=1e-6)
        seen.append(found)
        probs, index = draw(step)
        memory.update(probs, index)
        loops.update(probs.tolist(), index.tolist())
        assert memory.classes.tolist() == loops.classes
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
    loops = Memory(40, 0.9, 5)
    for step in range(80):
        probs, index = draw(step)
        loops.update(probs.tolist(), index.tolist())
    assert [found.tolist() for found in two_ranks.run(_remember)] == [loops.classes] * 2


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
