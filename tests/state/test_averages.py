"""Running means against lists of what they have seen, on one process and on two."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from lightning_ssl.state.averages import ExponentialMean, RunningMean, WindowMean, uniform

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def draw(step: int) -> Tensor:
    """Two processes' parts of a batch, ``(2, 3)``."""
    generator = torch.Generator().manual_seed(step)
    return torch.rand(2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("length", [1, 4, 128])
def test_window_equals_a_list(length: int) -> None:
    mean = WindowMean(uniform(3).double(), length)
    batches = [uniform(3).double().tolist()] * length
    for step in range(60):
        mean.update(draw(step)[0])
        batches = [*batches[1:], draw(step)[0].tolist()]
        for c in range(3):
            expected = sum(batch[c] for batch in batches) / length
            assert mean.value[c].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.999])
def test_exponential_equals_a_sum(decay: float) -> None:
    mean = ExponentialMean(uniform(3).double(), decay)
    for step in range(60):
        mean.update(draw(step)[0])
        # Written out: the start's share and that of each batch.
        expected = decay ** (step + 1) * uniform(3).double()
        for past in range(step + 1):
            expected = expected + (1 - decay) * decay ** (step - past) * draw(past)[0]
        torch.testing.assert_close(mean.value, expected, **EXACT)


def test_a_number_has_a_mean_too() -> None:
    mean = ExponentialMean(torch.tensor(0.5), 0.5)
    mean.update(torch.tensor(1.0, dtype=torch.bfloat16))
    assert mean.value.item() == 0.75
    assert mean.value.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_keeps_it_in_float32(dtype: torch.dtype) -> None:
    """A step of 0.001 is less than half precision can tell from none near 1."""
    slow = ExponentialMean(torch.tensor(1.0), 0.999)
    window = WindowMean(torch.tensor([0.1, 0.9]), 128)
    module = torch.nn.ModuleList([torch.nn.Linear(1, 1), slow, window]).to(dtype)
    assert {value.dtype for value in module.parameters()} == {dtype}
    assert torch.equal(window.value, torch.tensor([0.1, 0.9]))  # not rounded on the way
    for _ in range(500):
        slow.update(torch.tensor(0.0, dtype=dtype))
    window.update(torch.tensor([0.5, 0.5], dtype=dtype))
    assert slow.value.item() == pytest.approx(0.999**500, rel=1e-4)
    assert window.value[0].item() == pytest.approx((127 * 0.1 + 0.5) / 128, rel=1e-6)
    assert module.double()[1].value.dtype == torch.float64
    assert (window.position.dtype, window.position.item()) == (torch.int64, 1)


def test_what_is_taken_in_keeps_no_graph() -> None:
    for mean in (ExponentialMean(uniform(3)), WindowMean(uniform(3), 2)):
        mean.update(torch.rand(3, requires_grad=True))
        assert not mean.value.requires_grad


def test_a_stored_window_goes_on() -> None:
    whole, resumed = WindowMean(uniform(3).double(), 4), WindowMean(uniform(3).double(), 4)
    for step in range(6):
        whole.update(draw(step)[0])
    resumed.load_state_dict(whole.state_dict())
    for step in range(6, 9):
        whole.update(draw(step)[0])
        resumed.update(draw(step)[0])
    assert torch.equal(whole.value, resumed.value)


def means() -> list[RunningMean]:
    return [ExponentialMean(uniform(3).double(), 0.9), WindowMean(uniform(3).double(), 5)]


def _take_in() -> list[Tensor]:
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    found = means()
    for step in range(60):
        for mean in found:
            mean.update(draw(step)[distributed.get_rank()])
    return [mean.value for mean in found]


@pytest.mark.ddp
def test_two_ranks_have_the_mean_of_the_whole_batch(two_ranks: Any) -> None:
    one = means()
    for step in range(60):
        for mean in one:
            mean.update(draw(step).mean(dim=0))
    first, second = two_ranks.run(_take_in)
    for own, other, mean in zip(first, second, one, strict=True):
        assert torch.equal(own, other)
        torch.testing.assert_close(own, mean.value, **EXACT)


def test_errors_name_argument_and_value() -> None:
    with pytest.raises(ValueError, match="`window` must be at least 1, got 0"):
        WindowMean(uniform(3), 0)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"`decay` must be in \[0, 1\), got {decay}"):
            ExponentialMean(uniform(3), decay)
