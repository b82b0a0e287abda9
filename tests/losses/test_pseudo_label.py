"""Pieces of the MixMatch family against loops over rows and classes, values and gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_ssl.losses import (
    align,
    confident,
    distance_loss,
    mixup,
    pseudo_label_loss,
    sharpen,
    squared_error,
    weighted_cross_entropy,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SEEDS = range(50)


def drawn(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def probabilities(seed: int, *shape: int) -> Tensor:
    return drawn(seed + 100, *shape).softmax(-1)


def compare(loss: Tensor, expected: Tensor, *learn: Tensor) -> None:
    torch.testing.assert_close(loss, expected, **EXACT)
    found, wanted = (torch.autograd.grad(value, learn) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, **EXACT)


def log_softmax(row: Tensor) -> Tensor:
    return row - torch.log(torch.exp(row).sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_align(seed: int) -> None:
    probs = probabilities(seed, 6, 4).requires_grad_()
    target, model = probabilities(seed + 1, 4), probabilities(seed + 2, 5, 4).mean(dim=0)
    factor = drawn(seed + 3, 6, 4)
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(6):
        row = [probs[b, c] * (target[c] + 1e-6) / (model[c] + 1e-6) for c in range(4)]
        expected = expected + sum(f * v for f, v in zip(factor[b], row, strict=True)) / sum(row)
    compare((align(probs, target, model) * factor).sum(), expected, probs)


def test_align_corrects_each_class_by_its_own_mean() -> None:
    # A mean over classes as well would be 1/C on both sides, and nothing would change.
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    found = align(probs, torch.tensor([0.5, 0.5]), probs.mean(dim=0))
    assert found[:, 0].tolist() == pytest.approx([0.6923, 0.3684], abs=1e-4)


def test_align_cancels_a_factor_of_the_mean() -> None:
    """A window that starts at zeros holds the mean times the share of slots that are filled."""
    probs, target = probabilities(0, 6, 4), probabilities(1, 4)
    found = align(probs, target, probs.mean(dim=0) / 32)
    torch.testing.assert_close(found, align(probs, target, probs.mean(dim=0)), rtol=0, atol=1e-4)


def test_align_stays_finite_where_a_class_is_never_predicted() -> None:
    found = align(torch.tensor([[1.0, 0.0]]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == [[1, 0]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_weighted_cross_entropy(seed: int, soft: bool, weighted: bool) -> None:
    logits = drawn(seed, 6, 4).requires_grad_()
    target = probabilities(seed, 6, 4).requires_grad_()
    label = target.detach().argmax(1)
    # Some rows weigh nothing; the mean divides by all of them.
    weight = drawn(seed + 1, 6).clamp(min=0).requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(6):
        one = [target[b, c].item() if soft else float(label[b] == c) for c in range(4)]
        loss = -sum(one[c] * log_softmax(logits[b])[c] for c in range(4))
        expected = expected + (weight[b].item() if weighted else 1.0) * loss / 6
    goal = target if soft else label
    loss = weighted_cross_entropy(logits, goal, weight if weighted else None)
    compare(loss, expected, logits)
    others = torch.autograd.grad(
        weighted_cross_entropy(logits, goal, weight), (target, weight), allow_unused=True
    )
    assert others == (None, None)


def test_a_mask_does_not_change_what_the_mean_divides_by() -> None:
    logits, label = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
    mask = torch.tensor([True, False, False, False])
    assert weighted_cross_entropy(logits, label, mask).item() == pytest.approx(math.log(2) / 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_squared_error(seed: int) -> None:
    logits = drawn(seed, 6, 5).requires_grad_()
    target = probabilities(seed, 6, 5).requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(6):
        probs = torch.exp(log_softmax(logits[b]))
        # Over rows and over classes: the factor C of which copies of the code disagree.
        expected = expected + sum((probs[c] - target[b, c].item()) ** 2 for c in range(5)) / 30
    loss = squared_error(logits, target)
    compare(loss, expected, logits)
    (gradient,) = torch.autograd.grad(squared_error(logits, target), target, allow_unused=True)
    assert gradient is None


def test_a_weighted_squared_error_divides_by_all_rows() -> None:
    logits, target = drawn(0, 4, 3).requires_grad_(), probabilities(0, 4, 3)
    weight = torch.tensor([0.0, 1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    rows = zip(weight.tolist(), logits, target, strict=True)
    expected = sum(w * squared_error(z[None], t[None]) for w, z, t in rows) / 4
    loss = squared_error(logits, target, weight)
    compare(loss, expected, logits)
    (gradient,) = torch.autograd.grad(loss, weight, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.6, torch.tensor([0.5, 0.9, 0.7], dtype=torch.float64)])
def test_confident_and_its_loss(seed: int, threshold: float | Tensor) -> None:
    probs = probabilities(seed, 8, 3).requires_grad_()
    logits = drawn(seed, 8, 3).requires_grad_()
    label, mask = confident(probs, threshold)
    expected, kept = torch.zeros((), dtype=torch.float64), []
    for b, row in enumerate(probs.tolist()):
        best = row.index(max(row))
        limit = threshold if isinstance(threshold, float) else threshold[best].item()
        kept.append(row[best] >= limit)
        assert label[b].item() == best
        if kept[-1]:
            expected = expected - log_softmax(logits[b])[best] / 8
    assert mask.tolist() == kept
    loss, same = pseudo_label_loss(logits, probs, threshold=threshold)
    assert torch.equal(same, mask)
    if any(kept):
        compare(loss, expected, logits)
    (gradient,) = torch.autograd.grad(loss, probs, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(3, 2, 2), (4,)])
def test_mixup(seed: int, shape: tuple[int, ...]) -> None:
    values = drawn(seed, 5, *shape).requires_grad_()
    partner = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    weight = torch.rand(5, generator=torch.Generator().manual_seed(seed + 9), dtype=torch.float64)
    mixed = mixup(values, partner, weight)
    factor = drawn(seed + 2, 5, *shape)
    expected = torch.stack(
        [
            weight[n].item() * values[n] + (1 - weight[n].item()) * values[partner[n].item()]
            for n in range(5)
        ]
    )
    torch.testing.assert_close(mixed, expected, **EXACT)
    compare((mixed * factor).sum(), (expected * factor).sum(), values)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_sharpen(seed: int, temperature: float) -> None:
    probs = probabilities(seed, 6, 4).requires_grad_()
    factor = drawn(seed + 1, 6, 4)
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(6):
        powers = [probs[b, c] ** (1 / temperature) for c in range(4)]
        expected = expected + sum(f * p for f, p in zip(factor[b], powers, strict=True)) / sum(
            powers
        )
    compare((sharpen(probs, temperature=temperature) * factor).sum(), expected, probs)


@pytest.mark.parametrize("seed", SEEDS)
def test_distance(seed: int) -> None:
    first, second = (drawn(seed + i, 6, 5).requires_grad_() for i in (0, 10))
    weight = drawn(seed + 20, 6).clamp(min=0).requires_grad_()
    expected, positive = torch.zeros((), dtype=torch.float64), 0
    for b in range(6):
        lengths = [row[b].square().sum().sqrt() for row in (first, second)]
        cosine = (first[b] * second[b]).sum() / (lengths[0] * lengths[1])
        if cosine > 0:
            positive += 1
            expected = expected + weight[b].item() * cosine / 6
    assert 0 < positive < 6
    loss = distance_loss(first, second, weight)
    compare(loss, expected, first, second)
    (gradient,) = torch.autograd.grad(
        distance_loss(first, second, weight), weight, allow_unused=True
    )
    assert gradient is None


HALF: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weighted": weighted_cross_entropy,
    "squared": squared_error,
    "align": lambda z, p: align(p, p[0], p[1]).sum(),
    "distance": lambda z, p: distance_loss(z, p, p[:, 0]),
}


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(name: str, dtype: torch.dtype) -> None:
    logits, probs = 20 * drawn(0, 4, 3).to(dtype), probabilities(0, 4, 3).to(dtype)
    found, wanted = HALF[name](logits, probs), HALF[name](logits.double(), probs.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
