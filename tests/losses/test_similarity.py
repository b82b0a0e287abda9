"""What similarities say about classes, and classes about similarities, by loops."""

import math

import pytest
import torch

from lightning_ssl.losses import aggregate, kl_divergence, pseudo_label_graph, unfold

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def shares(row):
    exponentials = [math.exp(v) for v in row]
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize("seed", range(50))
def test_aggregating_and_unfolding_equal_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(4, 7, generator=generator, dtype=torch.float64) * 3
    probs = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    probs = probs / probs.sum(dim=1, keepdim=True)
    target = torch.randint(3, (7,), generator=generator)
    added, unfolded = torch.zeros(4, 3, dtype=torch.float64), []
    for b, row in enumerate(similarity.tolist()):
        for share, y in zip(shares(row), target.tolist(), strict=True):
            added[b, y] += share
        agree = [s * probs[b, y].item() for s, y in zip(shares(row), target.tolist(), strict=True)]
        unfolded.append([value / sum(agree) for value in agree])
    torch.testing.assert_close(aggregate(similarity, target, 3), added, **EXACT)
    found = unfold(similarity, probs, target)
    torch.testing.assert_close(found, torch.tensor(unfolded, dtype=torch.float64), **EXACT)


def test_classes_that_no_labelled_image_has_leave_finite_shares():
    """All products are 0 in float32; what is more similar still counts more."""
    probs = torch.tensor([[1.0, 0.0]])
    found = unfold(torch.tensor([[0.0, math.log(3)]]), probs, torch.tensor([1, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    similarity, target = torch.randn(4, 7).to(dtype), torch.randint(3, (7,))
    probs = torch.rand(4, 3).softmax(1).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        outputs = (
            aggregate(similarity, target, 3),
            unfold(similarity, probs, target),
            pseudo_label_graph(probs),
        )
    for out in outputs:
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.sum(dim=1), torch.ones(4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_the_graph_equals_loops_on_each_process(seed):
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.randn(6, 3, generator=generator, dtype=torch.float64) * 3).softmax(1)
    threshold = [0.0, 0.5, 0.8, 1.0][seed % 4]
    rows = []
    for i, p in enumerate(probs.tolist()):
        row = []
        for j, q in enumerate(probs.tolist()):
            alike = sum(a * b for a, b in zip(p, q, strict=True))
            row.append(1.0 if i == j else alike if alike >= threshold else 0.0)
        rows.append([value / sum(row) for value in row])
    wanted = torch.tensor(rows, dtype=torch.float64)
    found = pseudo_label_graph(probs, threshold=threshold)
    torch.testing.assert_close(found, wanted, **EXACT)
    parts = [
        pseudo_label_graph(probs[start : start + 2], probs, threshold=threshold, offset=start)
        for start in (0, 2, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), wanted, **EXACT)


def test_the_graph_links_images_that_are_as_alike_as_the_threshold():
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])  # whose products are exact
    wanted = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 2 / 3, 0.0], [1 / 3, 0.0, 2 / 3]])
    torch.testing.assert_close(pseudo_label_graph(probs, threshold=0.5), wanted)


def test_a_weighted_divergence_divides_by_all_rows():
    generator = torch.Generator().manual_seed(0)
    z, other = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    total = sum(
        w * kl_divergence(a[None], b[None]) for w, a, b in zip(weight, z, other, strict=True)
    )
    torch.testing.assert_close(kl_divergence(z, other, weight), total / 5, **EXACT)
    mask = weight > 0
    kept = kl_divergence(z[mask], other[mask]) * 3 / 5
    torch.testing.assert_close(kl_divergence(z, other, mask), kept, **EXACT)
