"""SimMatch against loops over images, values and gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_ssl.methods import SimMatch
from lightning_ssl.state.banks import LabeledBank
from lightning_ssl.types import Batch, Samples

from by_hand import softmax
from steps import at_update, images, logged, read_images, same

CLASSES, WIDTH, LABELED, TEMPERATURE, SMOOTHING, DECAY = 3, 2, 7, 0.3, 0.8, 0.6
LAMBDA_U, LAMBDA_IN = 0.7, 1.6


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


class ByLoops:
    """The method with a dict of embeddings, from https://arxiv.org/abs/2203.06915 and its code."""

    def __init__(self, warmup: int, threshold: float) -> None:
        self.warmup, self.threshold = warmup, threshold
        self.means: list[list[float]] = []
        self.bank: dict[int, tuple[list[float], int]] = {}
        self.kept = 0

    def aligned(self, weak: list[list[float]]) -> list[list[float]]:
        probs = [softmax(z) for z in weak]
        self.means.append([sum(p[c] for p in probs) / len(probs) for c in range(CLASSES)])
        mean = [sum(m[c] for m in self.means[-4:]) / 4 + 1e-6 for c in range(CLASSES)]
        ratios = [[p[c] / mean[c] for c in range(CLASSES)] for p in probs]
        return [[r / sum(ratio) for r in ratio] for ratio in ratios]

    def step(self, t: int, x: Tensor, target: list[int], index: list[int], weak: Tensor,
             strong: Tensor) -> Tensor:  # fmt: skip
        loss = torch.zeros((), dtype=torch.float64)
        for row, y in zip(x, target, strict=True):
            loss = loss - torch.log_softmax(row[:CLASSES], 0)[y] / len(x)
        for p, w, s in zip(self.aligned(weak[:, :CLASSES].tolist()), weak, strong, strict=True):
            q = p
            if t >= self.warmup:
                z = unit(w[CLASSES:].tolist())
                members = list(self.bank.values())
                near = softmax([sum(a * b for a, b in zip(z, f, strict=True)) / TEMPERATURE
                                for f, _ in members])  # fmt: skip
                q = [SMOOTHING * v for v in p]
                for share, (_, y) in zip(near, members, strict=True):
                    q[y] += (1 - SMOOTHING) * share
                unfolded = [share * p[y] for share, (_, y) in zip(near, members, strict=True)]
                z_s = s[CLASSES:] / (s[CLASSES:] @ s[CLASSES:]).sqrt()
                scores = [z_s @ torch.tensor(f, dtype=torch.float64) for f, _ in members]
                log_probs = torch.log_softmax(torch.stack(scores) / TEMPERATURE, 0)
                for share, log_prob in zip(unfolded, log_probs, strict=True):
                    loss = loss - LAMBDA_IN * share / sum(unfolded) * log_prob / len(weak)
            if max(q) >= self.threshold:
                self.kept += 1
                log_probs = torch.log_softmax(s[:CLASSES], 0)
                h = -sum(q[c] * log_probs[c] for c in range(CLASSES))
                loss = loss + LAMBDA_U * h / len(weak)
        self.remember(x[:, CLASSES:].tolist(), target, index)
        return loss

    def remember(self, rows: list[list[float]], target: list[int], index: list[int]) -> None:
        for i in set(index):
            copies = [unit(row) for row, j in zip(rows, index, strict=True) if i == j]
            new = [sum(column) / len(copies) for column in zip(*copies, strict=True)]
            if i in self.bank:
                old = self.bank[i][0]
                new = [DECAY * a + (1 - DECAY) * b for a, b in zip(old, new, strict=True)]
            self.bank[i] = (unit(new), target[index.index(i)])


@pytest.mark.parametrize(("warmup", "threshold"), [(1, 0.7), (20, 0.95)])
def test_steps_equal_loops(warmup: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(warmup)
    method = SimMatch(
        *(CLASSES, LABELED, WIDTH, TEMPERATURE, LAMBDA_IN, DECAY),
        lambda_u=LAMBDA_U, smoothing=SMOOTHING, warmup=warmup, threshold=threshold, window=4,
        backbone="wrn_10_1",
    )  # fmt: skip
    module, loops = read_images(method, WIDTH), ByLoops(warmup, threshold)
    labels = torch.randint(CLASSES, (LABELED,), generator=generator)
    for t in range(50):
        x, weak, strong = (images(n, CLASSES + WIDTH, generator) for n in (3, 6, 6))
        # With repetitions: a small list wraps within a batch.
        index = torch.randint(LABELED, (3,), generator=generator)
        labeled = Samples({"weak": x}, labels[index], index=index)
        at_update(module, t)
        loss = module.training_step(Batch(t, labeled, Samples({"weak": weak, "strong": strong})), 0)
        expected = loops.step(
            *(t, x.flatten(2)[0], labels[index].tolist(), index.tolist()),
            *(weak.flatten(2)[0], strong.flatten(2)[0]),
        )
        same(loss, expected, x, strong)
        # The teacher learns nothing.
        (taught,) = torch.autograd.grad(loss, weak, materialize_grads=True)
        assert not taught.any()
        for i, (feature, y) in loops.bank.items():
            assert module.bank.features[i].tolist() == pytest.approx(feature, abs=1e-12)
            assert module.bank.target[i] == y
        recent = loops.means[-4:]
        shares = [sum(m[c] for m in recent) / len(recent) for c in range(CLASSES)]
        assert logged(module, "predicted") == pytest.approx(shares, abs=1e-12)
        assert module.logged["train/bank_rate"].item() == pytest.approx(len(loops.bank) / LABELED)
    assert 0 < loops.kept < 300


def test_every_embedding_of_the_bank_has_length_one() -> None:
    """Scaling over the images, not over the features, leaves other lengths."""
    generator = torch.Generator().manual_seed(0)
    bank = LabeledBank(6, 4, 0.7)
    for _ in range(10):
        z = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator))
        bank.update(
            z, torch.zeros(5, dtype=torch.int64), torch.randint(5, (5,), generator=generator)
        )
    came = bank.target >= 0
    assert came.tolist() == [True] * 5 + [False]
    torch.testing.assert_close(bank.features.norm(dim=1), came.float())
    assert bank.similarity(z, 0.1).softmax(dim=1)[:, 5].tolist() == [0] * 5


def copies(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, classes and positions of 64 images, of which many are the same."""
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(64, 33, generator=generator)).to(dtype)
    index = torch.randint(9, (64,), generator=generator)
    return z, index % 3, index


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_copies_in_a_batch_count_with_their_mean(decay: float, autocast: bool) -> None:
    bank, (z, target, index) = LabeledBank(12, 33, decay), copies()
    for part in (slice(0, 20), slice(20, 64)):
        before, came = bank.features.double(), bank.target >= 0
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            bank.update(z[part], target[part], index[part])
        for i in range(12):
            rows = [row for row, j in zip(z[part].double(), index[part], strict=True) if i == j]
            wanted = before[i]
            if rows:
                new = sum(rows) / len(rows)
                wanted = decay * before[i] + (1 - decay) * new if came[i] else new
                wanted = wanted / wanted.norm()
                assert bank.target[i] == i % 3
            torch.testing.assert_close(bank.features[i].double(), wanted, rtol=0, atol=1e-6)
    assert (bank.target >= 0).tolist() == [True] * 9 + [False] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_bank_in_half_precision_averages_in_float32(dtype: torch.dtype) -> None:
    bank, (z, target, index) = LabeledBank(9, 33, 0.7).to(dtype), copies()
    wide = LabeledBank(9, 33, 0.7)
    for one in (bank, wide):
        one.update(z, target, index)
    assert bank.features.dtype == dtype
    assert torch.equal(bank.features, wide.features.to(dtype))  # rounded once


class Operations(TorchDispatchMode):
    """Names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_nothing_is_added_up_in_an_order_that_a_gpu_may_choose() -> None:
    bank = LabeledBank(12, 33, 0.7)
    with Operations() as seen:
        bank.update(*copies())
    assert "index_copy_" in seen.names
    free = ("index_add", "scatter_add", "scatter_reduce", "index_put", "index_reduce", "bincount")
    assert [name for name in seen.names if name.startswith(free)] == []


def test_all_copies_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them comes last does not matter, whatever the rows of a product are rounded to."""
    written: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(
        Tensor, "index_copy_", lambda self, dim, index, rows: written.append((index, rows))
    )
    z, target, index = copies()
    noise = 1e-7 * torch.arange(64)[:, None]
    monkeypatch.setattr(Tensor, "__matmul__", lambda a, b: torch.matmul(a, b) + noise)
    LabeledBank(12, 33, 0.7).update(z, target, index)
    assert len(written) == 2
    for where, rows in written:
        for i in where.unique():
            assert len(rows[where == i].unique(dim=0)) == 1


def test_a_batch_must_say_which_images_it_has() -> None:
    module = read_images(SimMatch(CLASSES, LABELED, WIDTH, backbone="wrn_10_1"), WIDTH)
    generator = torch.Generator().manual_seed(0)
    x, weak, strong = (images(n, CLASSES + WIDTH, generator) for n in (3, 6, 6))
    labeled = Samples({"weak": x}, torch.tensor([0, 1, 2]))
    batch = Batch(0, labeled, Samples({"weak": weak, "strong": strong}))
    with pytest.raises(ValueError, match=r"`batch.labeled.index` must hold .*, got None"):
        module.training_step(batch, 0)


def test_an_empty_bank_gives_finite_numbers() -> None:
    module = read_images(SimMatch(CLASSES, LABELED, WIDTH, backbone="wrn_10_1"), WIDTH)
    generator = torch.Generator().manual_seed(0)
    x, weak, strong = (images(n, CLASSES + WIDTH, generator) for n in (3, 6, 6))
    target = torch.tensor([0, 1, 2])
    unlabeled = Samples({"weak": weak, "strong": strong})
    loss = module.training_step(Batch(0, Samples({"weak": x}, target, index=target), unlabeled), 0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x, strong)))


def test_the_projection_has_a_gradient_before_it_counts() -> None:
    """Plain DDP waits for every parameter in every update."""
    module = SimMatch(CLASSES, LABELED, heads=2, backbone="wrn_10_1")
    at_update(module, 0)
    module.log = module.log_dict = lambda *args, **kwargs: None
    target = torch.tensor([0, 1, 2])
    labeled = Samples({"weak": torch.randn(1, 3, 3, 8, 8)}, target, index=target)
    views = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    module.training_step(Batch(0, labeled, Samples(views)), 0).backward()
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": 0}, "`warmup` must be at least 1, got 0"),
        ({"num_labeled": 0}, "`num_labeled` must be at least 1, got 0"),
        ({"bank_decay": 2.0}, r"`bank_decay` must be in \[0, 1\], got 2.0"),
        ({"lambda_in": -1.0}, "`lambda_in` must be at least 0, got -1.0"),
        ({"smoothing": -0.1}, r"`smoothing` must be in \[0, 1\], got -0.1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimMatch(CLASSES, **{"num_labeled": LABELED, "backbone": "wrn_10_1"} | arguments)
