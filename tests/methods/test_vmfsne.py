"""vMF-SNE against loops over rows: neighbourhoods, loss, a step; and what becomes of its head."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl.data import open_source
from lightning_ssl.evaluation import classify_by_neighbors
from lightning_ssl.losses import vmf_neighbors, vmf_sne_loss
from lightning_ssl.methods import PAWS, VMFSNE
from lightning_ssl.types import Batch, Samples

from runs import differences, fit, load
from steps import same


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def cosines(rows: Tensor) -> list[list[Tensor]]:
    lengths = [(row @ row).sqrt() for row in rows]
    return [
        [(a @ b) / m / n for b, n in zip(rows, lengths, strict=True)]
        for a, m in zip(rows, lengths, strict=True)
    ]


def attend(row: list[float], own: int, kappa: float) -> list[float]:
    weights = [0.0 if j == own else math.exp(kappa * (c - 1)) for j, c in enumerate(row)]
    return [w / sum(weights) for w in weights]


def solve(row: list[float], own: int, perplexity: float) -> tuple[list[float], float]:
    """Double or halve the concentration until it is bracketed, then halve the bracket."""
    low, high, kappa = 0.0, math.inf, 1.0
    for _ in range(200):
        entropy = -sum(p * math.log(p) for p in attend(row, own, kappa) if p > 0)
        if entropy > math.log(perplexity):
            low, kappa = kappa, min(2 * kappa, (kappa + high) / 2)
        else:
            high, kappa = kappa, max(kappa / 2, (kappa + low) / 2)
    return attend(row, own, kappa), kappa


def neighbors_by_loops(rows: Tensor, perplexity: float) -> tuple[Tensor, Tensor]:
    near = [[c.item() for c in row] for row in cosines(rows.detach())]
    found = [solve(row, i, perplexity) for i, row in enumerate(near)]
    return tuple(torch.tensor(part, dtype=torch.float64) for part in zip(*found, strict=True))  # type: ignore[return-value]


def loss_by_loops(z: Tensor, p: Tensor, tau: float) -> Tensor:
    near, n = cosines(z), len(z)
    sums = [sum(torch.exp(near[i][j] / tau) for j in range(n) if j != i) for i in range(n)]
    q = [[torch.exp(near[i][j] / tau) / sums[i] for j in range(n)] for i in range(n)]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if i != j:
                wanted = (p[i, j] + p[j, i]) / (2 * n)
                total = total + wanted * torch.log(wanted / ((q[i][j] + q[j][i]) / (2 * n)))
    return total


@pytest.mark.parametrize(("count", "perplexity", "spread"), [
    (40, 30.0, 1.0), (34, 30.0, 0.01), (12, 5.0, 1.0), (12, 1.5, 30.0), (9, 7.5, 0.2),
])  # fmt: skip
def test_every_row_has_as_many_neighbours(count: int, perplexity: float, spread: float) -> None:
    # Around one point, as features are: all cosines are near 1 where the spread is small.
    rows = draw(count, count, 6) * spread + 1
    p, kappa = vmf_neighbors(rows, rows, perplexity=perplexity)
    entropy = -torch.special.xlogy(p, p).sum(dim=1)
    torch.testing.assert_close(
        entropy.exp(), torch.full_like(entropy, perplexity), rtol=1e-8, atol=0
    )
    wanted, concentrations = neighbors_by_loops(rows, perplexity)
    torch.testing.assert_close(p, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(kappa, concentrations, rtol=1e-7, atol=0)
    parts = [vmf_neighbors(rows[k : k + 4], rows, perplexity=perplexity, offset=k)[0]
             for k in range(0, count, 4)]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), p, rtol=1e-9, atol=1e-12)


def test_rows_that_are_equal_stay_finite() -> None:
    rows = draw(0, 3, 5).repeat(4, 1).float()  # no concentration leaves less than three neighbours
    p, kappa = vmf_neighbors(rows, rows, perplexity=2.0)
    assert p.isfinite().all()
    assert kappa.isfinite().all()
    loss = vmf_sne_loss(rows.requires_grad_(), p)
    loss.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("perplexity", [0.5, 30.0, 31.0])
def test_a_step_needs_more_rows_than_the_perplexity(perplexity: float) -> None:
    rows = draw(0, 31, 4)
    with pytest.raises(ValueError, match=rf"`perplexity` must be .* below 30, .* got {perplexity}"):
        vmf_neighbors(rows, rows, perplexity=perplexity)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_the_loss(tau: float) -> None:
    z, rows = draw(1, 9, 4).requires_grad_(), draw(2, 9, 6)
    p, _ = vmf_neighbors(rows, rows, perplexity=3.0)
    same(vmf_sne_loss(z, p, temperature=tau), loss_by_loops(z, p, tau), z)
    alike, _ = vmf_neighbors(z, z, perplexity=3.0)
    assert vmf_sne_loss(z, alike).item() > 0
    assert vmf_sne_loss(rows, (cosines_matrix(rows) / 0.1).softmax(dim=1)).item() == (
        pytest.approx(0, abs=1e-12)
    )


def cosines_matrix(rows: Tensor) -> Tensor:
    found = torch.tensor([[c.item() for c in row] for row in cosines(rows)], dtype=torch.float64)
    return found.fill_diagonal_(-math.inf)


@pytest.mark.parametrize("two_heads", [False, True])
@pytest.mark.parametrize("local_views", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_a_step(cached: bool, local_views: int, two_heads: bool) -> None:
    module = VMFSNE(4, perplexity=5.0, local_views=local_views, temperature=0.2,
                    backbone="wrn_10_1", output_dim=3, head_args={"norm": "none"},
                    prediction_head=two_heads).double()  # fmt: skip
    module.backbone = nn.Flatten()
    module.projection = nn.Sequential(nn.Linear(6, 3), nn.Tanh()).double()
    logged: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, value)  # type: ignore
    shape = (6,) if cached else (6, 1, 1)
    views = {
        "global": draw(1, 2, 5, *shape),
        **({"local": draw(2, 2, 5, *shape)} if local_views else {}),
    }
    assert {name: len(view) for name, view in views.items()} == dict(module.views["unlabeled"])
    for view in views.values():
        view.requires_grad_()
    loss = module.training_step(Batch(0, None, Samples(views)), 0)  # type: ignore[arg-type]

    rows = torch.cat([view.reshape(-1, 6) for view in views.values()])
    z = module.projection(rows)
    z = z if module.prediction is None else module.prediction(z)
    p, kappa = neighbors_by_loops(rows, 5.0)
    learn = [*views.values(), *module.parameters()]
    wanted = loss_by_loops(z, p, 0.2)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-10)
    for one, two in zip(
        torch.autograd.grad(loss, learn), torch.autograd.grad(wanted, learn), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(logged["train/concentration"], kappa.mean(), rtol=1e-7, atol=0)


def test_a_head_keeps_the_neighbourhoods_that_a_random_one_loses() -> None:
    digits = open_source("digits")
    rows, classes = (
        [part.pixels[:, 0].flatten(1).float() / 255 for part in (digits.train, digits.test)],
        [part.targets for part in (digits.train, digits.test)],
    )
    some = torch.cat([(classes[0] == c).nonzero()[:4, 0] for c in range(10)])
    torch.manual_seed(0)
    module = VMFSNE(10, backbone="wrn_10_1", freeze_backbone=True, output_dim=32)
    assert module.num_features == 64  # as many as a digit has pixels, which stand for features
    optimizer = torch.optim.AdamW(module.projection.parameters(), 1e-3)
    found = []
    for steps in (0, 100):
        for _ in range(steps):
            batch = rows[0][torch.randperm(len(rows[0]))[:128]][None]
            loss = module.training_step(
                Batch(0, None, Samples({"global": batch.repeat(2, 1, 1)})), 0
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        module.fit_support(rows[0][some], classes[0][some])
        right = module.eval()(rows[1]).argmax(dim=1) == classes[1]
        found.append(right.float().mean().item())
        module.train()
    raw = classify_by_neighbors(rows[1], rows[0][some], classes[0][some], 10).argmax(dim=1)
    found.append((raw == classes[1]).float().mean().item())
    assert found[0] < found[2] - 0.1
    assert found[1] > found[2] - 0.03


def test_paws_takes_its_checkpoint_as_it_is() -> None:
    small = (
        "--model.perplexity",
        "10",
        "--model.freeze_backbone",
        "true",
        "--model.output_dim",
        "16",
    )
    fit("VMFSNE", "a", 3, *small)
    trained = load("a")["state_dict"]
    module = PAWS(10, backbone="wrn_10_1", output_dim=16, weights="a/checkpoints/last.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.start_from_weights()
    assert differences(dict(module.state_dict()), trained) == []


@pytest.mark.parametrize(("name", "value"), [
    ("perplexity", 0.5), ("global_views", 0), ("local_views", -1), ("temperature", 0.0),
])  # fmt: skip
def test_arguments_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be .*, got {value}\."):
        VMFSNE(4, backbone="wrn_10_1", **{name: value})
