"""Contrastive losses against loops over pairs of images, values and gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_ssl.losses import nt_xent_loss, smooth_labels, soft_suncet_loss, suncet_loss

EXACT = {"rtol": 1e-12, "atol": 1e-12}
many = pytest.mark.parametrize("seed", range(25))


def embeddings(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def similarity(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    return torch.exp((a @ b) / (a @ a).sqrt() / (b @ b).sqrt() / temperature)


def nt_xent_by_loops(z: Tensor, keys: Tensor, temperature: float, offset: int) -> Tensor:
    n, total = len(z) // 2, torch.zeros((), dtype=torch.float64)
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = sum(
            similarity(z[i], keys[j], temperature) for j in range(len(keys)) if j != offset + i
        )
        total = total - torch.log(similarity(z[i], keys[offset + partner], temperature) / others)
    return total / (2 * n)


def suncet_by_loops(
    z: Tensor,
    target: list[int],
    keys: Tensor,
    key_target: list[int],
    temperature: float,
    start: int,
) -> Tensor:
    """Negative logarithm of the softmax's mass on the class, by probabilities of all classes."""
    total = torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(target):
        mass = {}
        for j, other in enumerate(key_target):
            if j != start + i:
                mass[other] = mass.get(other, 0) + similarity(z[i], keys[j], temperature)
        if y in mass:
            total = total - torch.log(mass[y] / sum(mass.values()))
    return total / len(target)


def same(found: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(found, wanted, **EXACT)
    gradients = (torch.autograd.grad(out, inputs, retain_graph=True) for out in (found, wanted))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, **EXACT)


@many
def test_nt_xent_of_one_process(seed: int) -> None:
    temperature = [0.1, 0.5, 1.0][seed % 3]
    z = embeddings(seed, 8, 3)
    same(nt_xent_loss(z, temperature=temperature), nt_xent_by_loops(z, z, temperature, 0), z)


@many
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_nt_xent_among_keys_of_three_processes(seed: int, rank: int) -> None:
    parts = [embeddings(100 * seed + r, 4, 3) for r in range(3)]
    keys, offset = torch.cat(parts), 4 * rank
    found = nt_xent_loss(parts[rank], keys, temperature=0.2, offset=offset)
    same(found, nt_xent_by_loops(parts[rank], keys, 0.2, offset), *parts)


@many
def test_detached_keys_change_the_gradient_and_not_the_value(seed: int) -> None:
    z = embeddings(seed, 8, 3)
    standard, detached = nt_xent_loss(z), nt_xent_loss(z, z.detach())
    same(detached, nt_xent_by_loops(z, z.detach(), 0.1, 0), z)
    assert torch.equal(standard, detached)
    (one,), (two,) = torch.autograd.grad(standard, z), torch.autograd.grad(detached, z)
    # Nor is it a multiple of it.
    ratio = (one / two).flatten()
    assert ratio.max() - ratio.min() > 0.1


def test_an_image_and_its_other_view_alone_are_found() -> None:
    z = embeddings(0, 2, 3)
    loss = nt_xent_loss(z)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, z)
    assert not gradient.any()


def test_identical_embeddings_cannot_be_told_apart() -> None:
    assert nt_xent_loss(torch.ones(8, 3)).item() == pytest.approx(math.log(7))
    target = torch.tensor([0, 0, 0, 1, 1])
    expected = (3 * math.log(4 / 2) + 2 * math.log(4 / 1)) / 5
    assert suncet_loss(torch.ones(5, 3), target).item() == pytest.approx(expected)


@many
def test_suncet_of_one_process(seed: int) -> None:
    temperature = [0.1, 0.5, 1.0][seed % 3]
    z, target = embeddings(seed, 8, 3), [0, 0, 1, 2, 2, 2, 1, 3]  # the last is alone
    found = suncet_loss(z, torch.tensor(target), temperature=temperature)
    same(found, suncet_by_loops(z, target, z, target, temperature, 0), z)


@many
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_suncet_among_keys_of_three_processes(seed: int, rank: int) -> None:
    parts = [embeddings(100 * seed + r, 3, 4) for r in range(3)]
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, (9,), generator=generator)
    own = targets[3 * rank : 3 * rank + 3]
    keys = torch.cat(parts)
    found = suncet_loss(parts[rank], own, keys, targets, temperature=0.3, offset=3 * rank)
    args = (parts[rank], own.tolist(), keys, targets.tolist(), 0.3, 3 * rank)
    same(found, suncet_by_loops(*args), *parts)


@many
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_suncet_of_smoothed_labels_among_keys_of_three_processes(
    seed: int, smoothing: float
) -> None:
    """Both sides are smoothed over the classes that are there, three of four."""
    parts = [embeddings(100 * seed + r, 3, 4) for r in range(3)]
    targets, keys, total = [0, 1, 3, 3, 0, 1, 1, 3, 0], torch.cat(parts), torch.zeros(()).double()
    for i in range(3):
        weights = [similarity(parts[1][i], k, 0.3) if j != 3 + i else 0 for j, k in enumerate(keys)]
        for c in (0, 1, 3):
            labels = [(1 - smoothing) * (y == c) + smoothing / 3 for y in targets]
            mass = sum(w * y for w, y in zip(weights, labels, strict=True)) / sum(weights)
            total = total - labels[3 + i] * torch.log(mass)
    rows = [
        [(1 - smoothing) * (y == c) + smoothing / 3 * (c != 2) for c in range(4)] for y in targets
    ]
    labels = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(
        smooth_labels(torch.tensor(targets), 4, smoothing=smoothing), labels.float()
    )
    found = soft_suncet_loss(parts[1], labels, keys, temperature=0.3, offset=3)
    same(found, total / 3, *parts)
    if not smoothing:
        args = (torch.tensor(targets[3:6]), keys, torch.tensor(targets))
        same(found, suncet_loss(parts[1], *args, temperature=0.3, offset=3), *parts)


@many
def test_two_views_per_class_make_suncet_nt_xent(seed: int) -> None:
    z = embeddings(seed, 8, 3)
    same(suncet_loss(z, torch.arange(4).repeat(2)), nt_xent_loss(z), z)


@pytest.mark.parametrize("target", [[0, 1, 2], [0, 0, 1], [0]])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_row_alone_in_its_class_counts_nothing(target: list[int], scale: float) -> None:
    z = (embeddings(3, len(target), 4).detach() * scale).requires_grad_()
    loss = suncet_loss(z, torch.tensor(target), temperature=0.01)
    # Where NaN appears, even if it is masked later, `Trainer(detect_anomaly=True)` stops.
    with torch.autograd.set_detect_anomaly(len(target) > 1):
        (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()
    if len(set(target)) == len(target):
        assert loss.item() == 0
        assert not gradient.any()
    else:
        wanted = suncet_by_loops(z, target, z, target, 0.01, 0)
        torch.testing.assert_close(loss, wanted, **EXACT)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nt_xent": lambda z: nt_xent_loss(z),
    "nt_xent_detached": lambda z: nt_xent_loss(z, z.detach()),
    "suncet": lambda z: suncet_loss(z, torch.arange(len(z)) % 5),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_out(name: str, dtype: torch.dtype) -> None:
    z = embeddings(0, 20, 32).detach().float().requires_grad_()
    wanted = LOSSES[name](z)
    with torch.autocast("cpu", dtype=dtype):
        found = LOSSES[name](z)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    one, two = (torch.autograd.grad(loss, z)[0] for loss in (found, wanted))
    assert torch.equal(one, two)
    half = z.detach().to(dtype)
    assert torch.equal(LOSSES[name](half), LOSSES[name](half.float()))


@pytest.mark.parametrize("name", LOSSES)
def test_float64_stays(name: str) -> None:
    z = embeddings(0, 20, 32)
    assert LOSSES[name](z).dtype == torch.float64
    assert LOSSES[name](z).item() != LOSSES[name](z.float()).item()


@pytest.mark.parametrize("name", LOSSES)
def test_a_small_temperature_does_not_overflow(name: str) -> None:
    z = embeddings(1, 10, 3)
    loss = LOSSES[name](z)
    cold = {
        "nt_xent": lambda: nt_xent_loss(z, temperature=1e-4),
        "nt_xent_detached": lambda: nt_xent_loss(z, z.detach(), temperature=1e-4),
        "suncet": lambda: suncet_loss(z, torch.arange(10) % 5, temperature=1e-4),
    }[name]()
    assert cold.isfinite()
    assert cold > loss
    assert torch.autograd.grad(cold, z)[0].isfinite().all()
