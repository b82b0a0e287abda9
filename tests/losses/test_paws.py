"""The parts of PAWS' loss against loops over images and classes, values and gradients."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ssl.losses import (
    cosine,
    me_max_loss,
    paws_loss,
    paws_targets,
    sharpen,
    smooth_labels,
    soft_nearest_neighbors,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}
many = pytest.mark.parametrize("seed", range(25))


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).requires_grad_()


def distribution(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return normal(generator, *shape, scale=scale).detach().softmax(dim=-1).requires_grad_()


def same_gradients(found: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    """Compare two results, scalars or not, and how they depend on their inputs."""
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = torch.randn(found.shape, generator=draw(99), dtype=found.dtype)
    for one, two in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(wanted, inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, two, **EXACT)


def stack(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])


def cosine_by_loops(first: Tensor, second: Tensor) -> Tensor:
    def norm(row: Tensor) -> Tensor:
        return sum(x * x for x in row) ** 0.5

    return stack(
        [
            [sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b)) for b in second]
            for a in first
        ]
    )


def neighbors_by_loops(
    queries: Tensor, support: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    rows = []
    for similarities in cosine_by_loops(queries, support):
        weights = [torch.exp(value / temperature) for value in similarities]
        rows.append(
            [
                sum(w * label[k] for w, label in zip(weights, labels, strict=True)) / sum(weights)
                for k in range(labels.shape[1])
            ]
        )
    return stack(rows)


def sharpen_by_loops(rows: Tensor, temperature: float) -> Tensor:
    sharp = []
    for row in rows:
        total = sum(p ** (1 / temperature) for p in row)
        sharp.append([p ** (1 / temperature) / total for p in row])
    return stack(sharp)


@many
def test_similarity_and_its_classifier(seed: int) -> None:
    generator = draw(seed)
    scale, temperature = [(1.0, 0.1), (30.0, 0.5), (1e-3, 0.05)][seed % 3]
    queries, support = normal(generator, 4, 3, scale=scale), normal(generator, 6, 3, scale=scale)
    labels = distribution(generator, 6, 5)
    same_gradients(
        cosine(queries, support) * scale,
        cosine_by_loops(queries, support) * scale,
        queries,
        support,
    )
    same_gradients(
        soft_nearest_neighbors(queries, support, labels, temperature=temperature) * scale,
        neighbors_by_loops(queries, support, labels, temperature) * scale,
        *(queries, support, labels),
    )


def test_the_classifier_sees_directions_only_and_a_row_of_zeros_as_equally_far() -> None:
    generator = draw(0)
    queries, support = normal(generator, 4, 3), normal(generator, 6, 3)
    labels = distribution(generator, 6, 5)
    probs = soft_nearest_neighbors(queries, support, labels)
    scaled = soft_nearest_neighbors(queries * 7, support * torch.rand(6, 1), labels)
    torch.testing.assert_close(probs, scaled, rtol=1e-6, atol=1e-6)
    nowhere = soft_nearest_neighbors(torch.zeros_like(queries), support, labels)
    torch.testing.assert_close(nowhere, labels.mean(dim=0).expand(4, 5), **EXACT)


@pytest.mark.usefixtures("_float64")
class TestLabels:
    def test_of_ten_classes(self) -> None:
        target = torch.arange(10).repeat(3)
        labels = smooth_labels(target, 10, smoothing=0.1)
        assert labels.dtype == torch.float64
        expected = torch.full((30, 10), 0.01)
        expected[torch.arange(30), target] = 0.91
        torch.testing.assert_close(labels, expected, **EXACT)

    @many
    def test_the_share_goes_to_the_classes_that_are_there(self, seed: int) -> None:
        generator = draw(seed)
        smoothing = [0.0, 0.1, 0.5, 0.99, 1.0][seed % 5]
        target = torch.randint(7, (9,), generator=generator)
        present = set(target.tolist())
        expected = [
            [
                (smoothing / len(present) if k in present else 0) + (1 - smoothing) * (k == y)
                for k in range(7)
            ]
            for y in target.tolist()
        ]
        labels = smooth_labels(target, 7, smoothing=smoothing)
        torch.testing.assert_close(labels, torch.tensor(expected), **EXACT)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(9), **EXACT)


@many
def test_sharpening(seed: int) -> None:
    temperature = [0.25, 0.5, 0.1, 1.0, 0.3][seed % 5]
    probs = distribution(draw(seed), 5, 4, scale=2.0)
    same_gradients(
        sharpen(probs, temperature=temperature), sharpen_by_loops(probs, temperature), probs
    )
    assert torch.equal(sharpen(probs), sharpen(probs, temperature=0.25))


def test_sharpening_leaves_a_sure_row_alone_and_passes_no_nan() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    sharp = sharpen(probs)
    assert torch.equal(sharp, probs)
    (gradient,) = torch.autograd.grad(sharp[0, 0], probs)
    assert torch.equal(gradient, torch.zeros(1, 3, dtype=torch.float64))


@many
@pytest.mark.parametrize("views", [2, 3, 4])
def test_targets(seed: int, views: int) -> None:
    temperature = [0.25, 0.5, 0.1][seed % 3]
    probs = distribution(draw(seed), views, 3, 6, scale=3.0)
    large, small = paws_targets(probs, temperature=temperature)
    assert not large.requires_grad
    assert not small.requires_grad
    sharp = [sharpen_by_loops(view, temperature).tolist() for view in probs.detach()]
    cut = 0
    for image in range(3):
        for k in range(6):
            column = [view[image][k] for view in sharp]
            for view in range(views):
                mean = (sum(column) - column[view]) / (views - 1)
                expected = mean if mean >= 1e-4 else 0
                cut += mean < 1e-4
                assert large[view, image, k].item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
            mean = sum(column) / views
            expected = mean if mean >= 1e-4 else 0
            assert small[image, k].item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert cut  # the cases reach the cut


def test_targets_are_cut_after_averaging_and_not_normalised_again() -> None:
    first = torch.tensor([1 - 1.9e-4 - 1.5e-4, 1.9e-4, 1.5e-4], dtype=torch.float64)
    second = torch.tensor([1 - 0.5e-4 - 0.1e-4, 0.5e-4, 0.1e-4], dtype=torch.float64)
    probs = torch.stack([first, second])[:, None]  # sharpened by nothing
    large, small = paws_targets(probs, temperature=1.0)
    zero = second.new_zeros(())
    torch.testing.assert_close(large[0, 0], torch.stack([second[0], zero, zero]), **EXACT)
    torch.testing.assert_close(large[1, 0], first, **EXACT)
    # Entry 1 is above the limit only on average, entry 2 is not even that.
    mean = (first + second) / 2
    torch.testing.assert_close(small[0], torch.stack([mean[0], mean[1], zero]), **EXACT)
    assert small.sum() < 1


def test_small_views_get_the_mean_of_what_is_sharpened() -> None:
    probs = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64)
    _, small = paws_targets(probs)
    assert small[0, 0].item() == pytest.approx((0.9**4 / (0.9**4 + 0.1**4) + 0.5) / 2, rel=1e-12)


@many
@pytest.mark.parametrize("weighted", [False, True])
def test_consistency(seed: int, weighted: bool) -> None:
    generator = draw(seed)
    probs, targets = distribution(generator, 5, 4), distribution(generator, 5, 4, scale=4.0)
    with torch.no_grad():
        targets[targets < 0.05] = 0
    weights = torch.rand(5, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = paws_loss(probs, targets, weights if weighted else None)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        terms = torch.stack([torch.log(probs[row, k] ** -targets[row, k]) for k in range(4)]).sum()
        expected = expected + terms * (weights[row].detach() if weighted else 1) / 5
    torch.testing.assert_close(loss, expected, **EXACT)
    found = torch.autograd.grad(loss, (probs, targets, weights), allow_unused=True)
    (wanted,) = torch.autograd.grad(expected, probs)
    torch.testing.assert_close(found[0], wanted, **EXACT)
    assert found[1:] == (None, None)  # what teaches does not learn


def test_what_is_not_a_target_costs_nothing_even_at_probability_zero() -> None:
    probs = torch.tensor([[0.0, 1.0], [1e-60, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = paws_loss(probs, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, probs)
    assert gradient.tolist() == [[0, -0.5], [0, -0.5]]
    # In the power form this would overflow.
    small = torch.tensor([[1e-30, 1.0]], dtype=torch.float32)
    assert paws_loss(small, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(69.07755)


@many
def test_entropy_of_the_mean(seed: int) -> None:
    probs = distribution(draw(seed), 6, scale=2.0)
    expected = sum(p * torch.log(p) for p in probs)
    same_gradients(me_max_loss(probs), expected, probs)
    assert -math.log(6) <= me_max_loss(probs).item() <= 0


def test_entropy_of_the_mean_at_its_ends() -> None:
    even = torch.full((960,), 1 / 960, dtype=torch.float64)
    assert me_max_loss(even).item() == pytest.approx(-6.866933, abs=1e-6)
    sure = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = me_max_loss(sure)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, sure)
    assert gradient.tolist() == [1, 0, 0]


LOSSES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "cosine": lambda z, s: cosine(z, s),
    "neighbors": lambda z, s: soft_nearest_neighbors(z, s, torch.eye(40).repeat(2, 1)[: len(s)]),
    "sharpen": lambda z, s: sharpen(z.softmax(dim=1)),
    "targets": lambda z, s: torch.cat(
        [part.flatten() for part in paws_targets(z.softmax(dim=1).view(2, -1, z.shape[1]))]
    ),
    "loss": lambda z, s: paws_loss(z.softmax(dim=1), s[: len(z)].softmax(dim=1), z.abs()[:, 0]),
    "me_max": lambda z, s: me_max_loss(sharpen(z.softmax(dim=1)).mean(dim=0)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
class TestHalfPrecision:
    def test_autocast_changes_nothing(self, name: str, dtype: torch.dtype) -> None:
        generator = draw(0)
        z = torch.randn(20, 32, generator=generator, requires_grad=True)
        s = torch.randn(40, 32, generator=generator, requires_grad=True)
        wanted = LOSSES[name](z, s)
        with torch.autocast("cpu", dtype=dtype):
            found = LOSSES[name](z, s)
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
        if not wanted.requires_grad:
            assert name == "targets"
            return
        inputs = [z, s] if name in ("cosine", "neighbors") else [z]
        one, two = (torch.autograd.grad(out.sum(), inputs) for out in (found, wanted))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))

    def test_half_embeddings_are_raised_first(self, name: str, dtype: torch.dtype) -> None:
        generator = draw(1)
        z = torch.randn(20, 32, generator=generator).to(dtype)
        s = torch.randn(40, 32, generator=generator).to(dtype)
        found = LOSSES[name](z, s)
        assert found.dtype == torch.float32
        if name in ("cosine", "neighbors"):
            assert torch.equal(found, LOSSES[name](z.float(), s.float()))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", LOSSES)
def test_float64_stays(name: str) -> None:
    generator = draw(2)
    z = torch.randn(20, 32, generator=generator, dtype=torch.float64)
    s = torch.randn(40, 32, generator=generator, dtype=torch.float64)
    found = LOSSES[name](z, s)
    assert found.dtype == torch.float64
    rounded = LOSSES[name](z.float(), s.float())
    torch.testing.assert_close(found.float(), rounded, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found.float().double(), found)  # nor did it pass through float32


@pytest.mark.parametrize("temperature", [0.25, 0.1, 0.02])
def test_even_predictions_stay_even_however_sharp(temperature: float) -> None:
    """A thousandth to the power 1/T is no float32 any more."""
    even = torch.full((2, 1000), 0.001)
    torch.testing.assert_close(sharpen(even, temperature=temperature), even)


def test_a_training_begins_near_zero() -> None:
    generator = draw(0)
    support = torch.randn(160, 512, generator=generator)
    queries = torch.randn(256, 512, generator=generator)
    labels = smooth_labels(torch.arange(10).repeat(16), 10, smoothing=0.1)
    probs = soft_nearest_neighbors(queries, support, labels)
    large, _ = paws_targets(probs.view(2, 128, 10))
    loss = paws_loss(probs, large.flatten(0, 1))
    me_max = me_max_loss(sharpen(probs).mean(dim=0))
    assert loss.item() == pytest.approx(math.log(10), abs=0.05)
    assert me_max.item() == pytest.approx(-math.log(10), abs=0.05)
    assert abs(loss.item() + me_max.item()) < 0.05
