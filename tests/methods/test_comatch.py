"""CoMatch against loops over images and over all the past, values and gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ssl.methods import CoMatch
from lightning_ssl.state.banks import RecentBank
from lightning_ssl.types import Batch, Samples

from by_hand import softmax
from steps import images, logged, read_images, same

CLASSES, WIDTH, TEMPERATURE, SMOOTHING = 3, 2, 0.3, 0.95
LAMBDA_U, LAMBDA_C = 0.7, 1.6


def unit(vector: Tensor) -> Tensor:
    return vector / (vector @ vector).sqrt()


class ByLoops:
    """The method with lists that grow, from https://arxiv.org/abs/2011.11183 and its code."""

    def __init__(self, window: int, bank: int, threshold: float, graph: float) -> None:
        self.means: list[list[float]] = []
        self.past: list[tuple[list[float], list[float]]] = []
        self.window, self.bank = window, bank
        self.threshold, self.graph = threshold, graph
        self.kept, self.linked = 0, 0

    def pseudo_labels(self, weak: list[list[float]], embedded: list[list[float]]) -> Any:
        probs = [softmax(z) for z in weak]
        self.means.append([sum(p[c] for p in probs) / len(probs) for c in range(CLASSES)])
        recent = self.means[-self.window :]
        # A window that is not full scales all classes alike, which only the 1e-6 can tell.
        mean = [sum(m[c] for m in recent) / self.window + 1e-6 for c in range(CLASSES)]
        aligned = []
        for p in probs:
            ratio = [p[c] / mean[c] for c in range(CLASSES)]
            aligned.append([r / sum(ratio) for r in ratio])
        if len(self.past) < self.bank:
            return aligned, aligned
        smoothed = []
        for p, z in zip(aligned, embedded, strict=True):
            near = [
                math.exp(sum(a * b for a, b in zip(z, f, strict=True)) / TEMPERATURE)
                for f, _ in self.past[-self.bank :]
            ]
            mixed = [SMOOTHING * v for v in p]
            for a, (_, q) in zip(near, self.past[-self.bank :], strict=True):
                for c in range(CLASSES):
                    mixed[c] += (1 - SMOOTHING) * a / sum(near) * q[c]
            smoothed.append(mixed)
        return aligned, smoothed

    def step(
        self, x: Tensor, target: list[int], weak: Tensor, strong: Tensor, other: Tensor
    ) -> Any:
        loss = torch.zeros((), dtype=torch.float64)
        for row, y in zip(x, target, strict=True):
            loss = loss - torch.log_softmax(row[:CLASSES], 0)[y] / len(x)
        embedded = [unit(row[CLASSES:]).tolist() for row in weak.detach()]
        aligned, q = self.pseudo_labels(weak.detach()[:, :CLASSES].tolist(), embedded)
        count = len(weak)
        for row, p in zip(strong, q, strict=True):
            if max(p) >= self.threshold:
                self.kept += 1
                log_probs = torch.log_softmax(row[:CLASSES], 0)
                h = -sum(p[c] * log_probs[c] for c in range(CLASSES))
                loss = loss + LAMBDA_U * h / count
        for i in range(count):
            weights = []
            for j in range(count):
                alike = sum(a * b for a, b in zip(q[i], q[j], strict=True))
                weights.append(1.0 if i == j else alike if alike >= self.graph else 0.0)
                self.linked += i != j and alike >= self.graph
            z = unit(strong[i, CLASSES:])
            scores = torch.stack([z @ unit(row[CLASSES:]) / TEMPERATURE for row in other])
            log_probs = torch.log_softmax(scores, 0)
            h = -sum(w / sum(weights) * log_probs[j] for j, w in enumerate(weights))
            loss = loss + LAMBDA_C * h / count
        self.past += list(zip(embedded, aligned, strict=True))
        for row, y in zip(x.detach(), target, strict=True):
            hot = [float(c == y) for c in range(CLASSES)]
            self.past.append((unit(row[CLASSES:]).tolist(), hot))
        return loss


@pytest.mark.parametrize(
    ("bank", "threshold", "graph"),
    # A bank of several batches, one that a batch overfills, one that no batch divides.
    [(27, 0.8, 0.5), (5, 0.95, 0.8), (20, 0.6, 0.2)],
)
def test_steps_equal_loops(bank: int, threshold: float, graph: float) -> None:
    generator = torch.Generator().manual_seed(bank)
    module = read_images(
        CoMatch(
            *(CLASSES, WIDTH, TEMPERATURE, LAMBDA_C),
            lambda_u=LAMBDA_U,
            smoothing=SMOOTHING,
            threshold=threshold,
            graph_threshold=graph,
            bank_size=bank,
            window=4,
            backbone="wrn_10_1",
        ),
        WIDTH,
    )
    loops = ByLoops(4, bank, threshold, graph)
    for _ in range(50):
        x, weak, strong, other = (images(n, CLASSES + WIDTH, generator) for n in (3, 6, 6, 6))
        target = torch.randint(CLASSES, (3,), generator=generator)
        views = {"weak": weak, "strong": strong, "simclr": other}
        loss = module.training_step(Batch(0, Samples({"weak": x}, target), Samples(views)), 0)
        expected = loops.step(
            *(x.flatten(2)[0], target.tolist(), weak.flatten(2)[0]),
            *(strong.flatten(2)[0], other.flatten(2)[0]),
        )
        same(loss, expected, x, weak, strong, other)
        recent = loops.means[-4:]
        shares = [sum(m[c] for m in recent) / len(recent) for c in range(CLASSES)]
        assert logged(module, "predicted") == pytest.approx(shares, abs=1e-12)
        rate = min(1, len(loops.past) / bank)
        assert module.logged["train/bank_rate"].item() == pytest.approx(rate)
    assert 0 < loops.kept < 300
    assert 0 < loops.linked < 50 * 30


def test_the_bank_keeps_the_last_in_any_order_of_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, past = RecentBank(7, 2, 3), torch.zeros(0, 5)
    for count in (3, 4, 1, 20, 7, 2, 8, 6):
        rows = torch.rand(count, 5, generator=generator)
        bank.update(rows[:, :2], rows[:, 2:])
        past = torch.cat([past, rows])
        held = torch.cat([bank.features, bank.probs], dim=1)
        held = held[held.sum(dim=1) > 0]
        assert sorted(held.tolist()) == sorted(past[-7:].tolist())


def test_nothing_is_mixed_before_the_bank_is_full() -> None:
    bank, probs = RecentBank(4, 2, 2), torch.tensor([[0.6, 0.4]])
    z = torch.tensor([[1.0, 0.0]])
    bank.update(z.expand(3, 2), torch.tensor([[0.0, 1.0]]).expand(3, 2))
    mixed = bank.smooth(probs, z, smoothing=0.5, temperature=0.2)
    torch.testing.assert_close(mixed, probs, rtol=0, atol=0)
    bank.update(z, torch.tensor([[0.0, 1.0]]))
    mixed = bank.smooth(probs, z, smoothing=0.5, temperature=0.2)
    torch.testing.assert_close(mixed, torch.tensor([[0.3, 0.7]]))


def test_the_embedding_is_the_mean_of_the_heads() -> None:
    """EPASS: averaged before they are scaled to length 1."""
    generator = torch.Generator().manual_seed(0)
    module = read_images(CoMatch(CLASSES, WIDTH, heads=3, backbone="wrn_10_1"), 2, 2, 2)
    view = images(4, CLASSES + 6, generator)
    ((_, z),) = module.embed_together(view)
    for row, found in zip(view.flatten(2)[0], z, strict=True):
        heads = row[CLASSES:]
        mean = torch.stack([heads[0] + heads[2] + heads[4], heads[1] + heads[3] + heads[5]]) / 3
        torch.testing.assert_close(found, unit(mean))
    assert len(CoMatch(CLASSES, heads=3, backbone="wrn_10_1").projections) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bank_size": 0}, "`bank_size` must be at least 1, got 0"),
        ({"heads": 0}, "`heads` must be at least 1, got 0"),
        ({"embedding_dim": 0}, "`embedding_dim` must be at least 1, got 0"),
        ({"window": 0}, "`window` must be at least 1, got 0"),
        ({"graph_threshold": 1.5}, r"`graph_threshold` must be in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"lambda_c": -1.0}, "`lambda_c` must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoMatch(CLASSES, backbone="wrn_10_1", **arguments)
