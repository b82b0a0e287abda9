"""What MixUp draws, and that images and targets are mixed alike."""

import math

import pytest
import torch

from lightning_ssl.losses import mixup
from lightning_ssl.methods.draws.mixup import draw_mixup
from lightning_ssl.methods.draws.partners import draw_box

LIKE = torch.zeros(())


@pytest.mark.parametrize("count", [1, 2, 17])
def test_partners_are_a_permutation(count):
    partner, weight = draw_mixup(count, 0.75, LIKE)
    assert partner.sort().values.tolist() == list(range(count))
    assert weight.shape == (count,)


def test_every_partner_is_as_likely():
    torch.manual_seed(0)
    counts = torch.zeros(5, 5)
    for _ in range(2000):
        counts[torch.arange(5), draw_mixup(5, 0.75, LIKE)[0]] += 1
    # Standard deviation 18.
    assert (counts - 400).abs().max() < 80, counts


@pytest.mark.parametrize("alpha", [0.25, 0.75, 1.0, 4.0])
def test_weights_are_the_larger_part_of_a_beta_draw_of_each_row(alpha):
    torch.manual_seed(0)
    _, weight = draw_mixup(40_000, alpha, LIKE)
    assert weight.min() >= 0.5
    assert weight.max() <= 1
    assert weight.unique().numel() > 10_000  # not one for all rows
    # Moments of max(v, 1 - v) by integration of the density.
    v = torch.linspace(0.5, 1, 200_001, dtype=torch.float64)[:-1] + 0.5 / 400_000
    density = (v * (1 - v)) ** (alpha - 1)
    density = density / density.sum()
    mean = (density * v).sum()
    deviation = math.sqrt((density * (v - mean) ** 2).sum())
    assert weight.double().mean().item() == pytest.approx(mean.item(), abs=0.005)
    assert weight.double().std().item() == pytest.approx(deviation, abs=0.005)


def test_a_shared_weight_is_one_draw_for_all_rows():
    torch.manual_seed(0)
    drawn = []
    for _ in range(4000):
        partner, weight = draw_mixup(3, 0.5, LIKE, True)
        assert partner.sort().values.tolist() == [0, 1, 2]
        assert weight.unique().numel() == 1
        drawn.append(weight[0].item())
    # Of max(v, 1 - v) with v from the arcsine law: 1/2 + 1/pi.
    assert sum(drawn) / len(drawn) == pytest.approx(0.5 + 1 / math.pi, abs=0.01)


def test_without_alpha_every_row_stays_itself():
    partner, weight = draw_mixup(9, 0, LIKE)
    values = torch.randn(9, 3, 2, 2)
    assert torch.equal(mixup(values, partner, weight), values)


def test_the_seed_decides():
    torch.manual_seed(3)
    first = draw_mixup(9, 0.75, LIKE)
    torch.manual_seed(3)
    again, other = draw_mixup(9, 0.75, LIKE), draw_mixup(9, 0.75, LIKE)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_of_a_run_changes_no_draw(dtype):
    """With `--trainer.precision bf16-true` half precision is the default inside a step."""

    def draw():
        torch.manual_seed(3)
        return *draw_mixup(9, 0.75, LIKE), draw_mixup(9, 0, LIKE)[1], draw_box(32, 16.0)

    expected = draw()
    torch.set_default_dtype(dtype)
    try:
        found = draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))
    assert [value.dtype for value in found[1:3]] == [torch.float32] * 2
    assert found[3] == expected[3]
