"""Soft labels and votes of several models against loops, values and gradients."""

import math

import pytest
import torch

from lightning_ssl.evaluation.ensemble import mean_of_models
from lightning_ssl.losses import cross_entropy, soft_label_loss

GENERATOR = torch.Generator().manual_seed(0)
VIEWS, ROWS, CLASSES = 2, 5, 4
LOGITS = 3 * torch.randn(VIEWS, ROWS, CLASSES, generator=GENERATOR, dtype=torch.float64)
PROBS = torch.rand(ROWS, CLASSES, generator=GENERATOR, dtype=torch.float64)
PROBS[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
PROBS[1, 2] = 0
PROBS /= PROBS.sum(dim=1, keepdim=True)


def test_value_and_gradient_by_loop() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = soft_label_loss(logits, PROBS)
    loss.backward()
    total, slopes = 0.0, torch.zeros_like(LOGITS)
    for v in range(VIEWS):
        for b in range(ROWS):
            powers = [math.exp(float(z)) for z in LOGITS[v, b]]
            p = [power / sum(powers) for power in powers]
            for c, t in enumerate(PROBS[b].tolist()):
                if t > 0:
                    total += t * math.log(t / p[c]) / ROWS
                slopes[v, b, c] = (p[c] - t) / ROWS
    assert loss.item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(logits.grad, slopes, rtol=1e-9, atol=1e-12)


def test_of_certain_labels_it_is_the_cross_entropy_and_of_met_ones_zero() -> None:
    target = torch.tensor([0, 3, 1, 1, 2])
    certain = soft_label_loss(LOGITS, torch.eye(CLASSES)[target])
    expected = cross_entropy(LOGITS[0], target) + cross_entropy(LOGITS[1], target)
    torch.testing.assert_close(certain, expected)
    met = PROBS.clamp_min(1e-9)
    same = soft_label_loss(met.log().expand(VIEWS, -1, -1), met / met.sum(1, keepdim=True))
    assert abs(same.item()) < 1e-12
    half = soft_label_loss(LOGITS.half() * 20, PROBS.half())  # a range that half precision lacks
    assert half.dtype == torch.float32
    assert torch.isfinite(half)


@pytest.mark.parametrize("votes", [True, False])
def test_ensemble_by_loop(votes: bool) -> None:
    models = torch.rand(3, 50, CLASSES, generator=GENERATOR, dtype=torch.float64) ** 2
    models /= models.sum(dim=2, keepdim=True)
    probs, label = mean_of_models(models, votes)
    ties = 0
    for row in range(50):
        mean = [float(sum(m[row, c] for m in models)) / 3 for c in range(CLASSES)]
        counts = [0.0] * CLASSES
        for m in models:
            counts[max(range(CLASSES), key=lambda c: float(m[row, c]))] += 1 / 3
        expected = counts if votes else mean
        assert probs[row].tolist() == pytest.approx(expected, abs=1e-12)
        best = [c for c in range(CLASSES) if expected[c] > max(expected) - 1e-9]
        ties += len(best) > 1
        assert int(label[row]) == max(best, key=lambda c: mean[c])
    assert (ties > 0) == votes
