"""RoPAWS' probabilities against an explicit inverse and the recursion they solve."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lightning_ssl.losses import ropaws_probs, smooth_labels, soft_nearest_neighbors

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SETTINGS = [(0.1, 0.1, 5.0), (0.1, 3.0, 5.0), (0.5, 0.1, 0.2), (0.05, 1.0, 1.0)]
many = pytest.mark.parametrize("seed", range(24))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(seed: int, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Five queries, six supports and their labels; the last class has none."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(5, 3, generator=generator).requires_grad_()
    support = torch.randn(6, 3, generator=generator).requires_grad_()
    labels = smooth_labels(torch.tensor([0, 1, 2, 2, 0, 1]), classes, smoothing=0.1 * (seed % 2))
    return queries, support, labels


def weights_by_loops(
    queries: Tensor, support: Tensor, tau: float, tau_prior: float, label_ratio: float
) -> tuple[Tensor, Tensor]:
    """What each query takes from each support and from each other query."""

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()

    ratio = label_ratio * len(queries) / len(support)
    to_support, to_queries = [], []
    for i, query in enumerate(queries):
        near = [ratio * torch.exp(cos(query, s) / tau) for s in support]
        others = [
            torch.zeros(()) if i == j else torch.exp(cos(query, other) / tau)
            for j, other in enumerate(queries)
        ]
        prior = torch.exp((max(cos(query, s) for s in support) - 1) / tau_prior)
        total = sum(near) + sum(others)
        to_support.append(torch.stack([prior * value / total for value in near]))
        to_queries.append(torch.stack([prior * value / total for value in others]))
    return torch.stack(to_support), torch.stack(to_queries)


def fill_up(known: Tensor, present: list[int]) -> Tensor:
    """Spread what is missing to 1 evenly over the classes that have a label."""
    rows = []
    for row in known:
        missing = (1 - row.sum()) / len(present)
        rows.append(torch.stack([p + missing * (k in present) for k, p in enumerate(row)]))
    return torch.stack(rows)


@many
def test_equals_the_explicit_inverse(seed: int) -> None:
    queries, support, labels = draw(seed)
    setting = SETTINGS[seed % 4]
    names = ("temperature", "prior_temperature", "label_ratio")
    probs, belief = ropaws_probs(queries, support, labels, **dict(zip(names, setting, strict=True)))
    to_support, to_queries = weights_by_loops(queries, support, *setting)
    known = torch.linalg.inv(torch.eye(5) - to_queries) @ (to_support @ labels)
    expected = fill_up(known, [0, 1, 2])
    torch.testing.assert_close(probs, expected, **EXACT)
    torch.testing.assert_close(belief, known.sum(dim=1), **EXACT)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(5), **EXACT)
    assert (probs[:, 3] == 0).all()
    scale = torch.arange(20.0).view(5, 4)
    gradients = [
        torch.autograd.grad((out * scale).sum(), (queries, support)) for out in (probs, expected)
    ]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


@many
def test_solves_the_recursion(seed: int) -> None:
    queries, support, labels = (values.detach() for values in draw(seed))
    setting = SETTINGS[seed % 4]
    probs, _ = ropaws_probs(
        queries,
        support,
        labels,
        temperature=setting[0],
        prior_temperature=setting[1],
        label_ratio=setting[2],
    )
    to_support, to_queries = weights_by_loops(queries, support, *setting)
    known = torch.zeros(5, 4)
    for _ in range(20_000):
        before, known = known, to_support @ labels + to_queries @ known
        if (known - before).abs().max() < 1e-15:
            break
    torch.testing.assert_close(probs, fill_up(known, [0, 1, 2]), rtol=1e-10, atol=1e-11)


@many
def test_without_doubt_or_unlabelled_images_it_is_paws(seed: int) -> None:
    queries, support, labels = draw(seed)
    probs, belief = ropaws_probs(queries, support, labels, prior_temperature=1e15, label_ratio=1e15)
    wanted = soft_nearest_neighbors(queries, support, labels)
    torch.testing.assert_close(probs, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(belief, torch.ones(5), rtol=1e-9, atol=1e-9)
    # One image has no other to ask.
    alone, _ = ropaws_probs(queries[:1], support, labels, prior_temperature=1e15)
    torch.testing.assert_close(alone, wanted[:1], **EXACT)


def test_what_is_far_from_all_labels_is_doubted() -> None:
    support, labels = torch.eye(3)[:2], torch.eye(3)[:2]
    queries = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    probs, belief = ropaws_probs(queries, support, labels, prior_temperature=0.1)
    # All it can have is e^(-1 / 0.1).
    assert 0 < belief[0] < math.exp(-10)
    assert belief[1] > 0.99
    torch.testing.assert_close(probs[0], torch.tensor([0.5, 0.5, 0]), rtol=1e-4, atol=1e-4)
    assert probs[1, 1] > 0.99


def test_an_unlabelled_image_passes_the_class_on() -> None:
    angles = torch.tensor([0.0, 0.5, 1.0, 3.0])
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    support, labels = points[[0, 3]], torch.eye(2)
    near, far = points[1:2], points[2:3]
    options = {"prior_temperature": 1e9, "label_ratio": 1.0, "temperature": 0.2}
    together, _ = ropaws_probs(torch.cat([near, far]), support, labels, **options)
    assert together[1, 0] > 0.5
    # The far image listens to the near one more than to the supports it is far from.
    support_far = soft_nearest_neighbors(far, support, labels, temperature=0.2)
    between = sorted([support_far[0, 0].item(), together[0, 0].item()])
    assert between[0] < together[1, 0].item() < between[1]


@many
def test_the_order_of_images_does_not_matter(seed: int) -> None:
    queries, support, labels = draw(seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    probs, belief = ropaws_probs(queries, support, labels)
    again, again_belief = ropaws_probs(queries[order], support.flip(0), labels.flip(0))
    torch.testing.assert_close(again, probs[order], **EXACT)
    torch.testing.assert_close(again_belief, belief[order], **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_out(dtype: torch.dtype) -> None:
    queries, support, labels = (values.detach().float() for values in draw(0))
    wanted = ropaws_probs(queries, support, labels)
    with torch.autocast("cpu", dtype=dtype):
        found = ropaws_probs(queries, support, labels)
    half = ropaws_probs(queries.to(dtype), support.to(dtype), labels)
    raised = ropaws_probs(queries.to(dtype).float(), support.to(dtype).float(), labels)
    for a, b in ((found, wanted), (half, raised)):
        assert a[0].dtype == a[1].dtype == torch.float32
        assert all(torch.equal(one, two) for one, two in zip(a, b, strict=True))
    assert ropaws_probs(*draw(0))[0].dtype == torch.float64


@pytest.mark.parametrize("seed", range(20))
def test_rounding_makes_no_probability_negative(seed: int) -> None:
    """A negative one has no root, and sharpening would make the loss NaN."""
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(50, 16, generator=generator, dtype=torch.float32)
    queries = support[:40] + 1e-3 * torch.randn(40, 16, generator=generator, dtype=torch.float32)
    labels = smooth_labels(torch.arange(50) % 10, 10).float()
    probs, belief = ropaws_probs(queries, support, labels, temperature=0.05)
    assert probs.min() >= 0
    assert belief.max() <= 1
