"""FreeMatch over many steps against a loop over images and classes."""

import math

import pytest
import torch

from lightning_ssl.losses import fairness_loss
from lightning_ssl.methods import FreeMatch
from lightning_ssl.state.adaptive_thresholds import SelfAdaptiveThresholds
from lightning_ssl.types import Batch, Samples

from by_hand import SelfAdaptive, best, cross_entropy, labeled_loss, pseudo_label
from steps import EXACT, compare, images, read_images, rows, teach


@pytest.mark.parametrize(
    ("clip", "each", "weight", "decay", "scale", "soft"),
    [((0.0, 1.0), True, 0.5, 0.9, 2.0, 0.5), ((0.9, 0.95), True, 0.01, 0.8, 3.0, None),
     ((0.9, 0.95), False, 0.01, 0.8, 3.0, 2.0), ((0.0, 0.3), False, 1.0, 0.99, 1.0, None)],
)  # fmt: skip
def test_sixty_steps_equal_loops(clip, each, weight, decay, scale, soft):
    generator = torch.Generator().manual_seed(2)
    module = read_images(
        FreeMatch(
            *(4, weight, decay, clip),
            **{"clip_classes": each, "temperature": soft, "lambda_u": 1.5, "backbone": "wrn_10_1"},
        )
    )
    past, kept_counts = SelfAdaptive(4, decay, clip, each), []
    for step in range(60):
        x, weak, strong = (images(n, 4, generator, scale) for n in (3, 6, 6))
        target = torch.randint(4, (3,), generator=generator)
        batch = Batch(step, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))
        loss = module.training_step(batch, step)

        taught = teach(weak)
        past.update(taught)
        kept, unlabeled = [], torch.zeros((), dtype=torch.float64)
        for p, z in zip(taught, rows(strong), strict=True):
            if max(p) >= past.thresholds()[best(p)]:
                kept.append(z)
                unlabeled = unlabeled + cross_entropy(z, pseudo_label(p, soft))
        kept_counts.append(len(kept))
        expected = labeled_loss(rows(x), target) + 1.5 * unlabeled / 6
        expected = expected + weight * past.fairness(kept)
        compare(loss, expected, (x, strong), weak)
    assert 0 < sum(kept_counts) < 360
    torch.testing.assert_close(module.adaptive.confidence.value.item(), past.confidence, **EXACT)
    torch.testing.assert_close(module.adaptive.probs.value.tolist(), past.probs, **EXACT)
    torch.testing.assert_close(module.adaptive.histogram.value.tolist(), past.histogram, **EXACT)


def test_fairness_is_added_so_that_learning_spreads_the_predictions():
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]], requires_grad=True)
    even = torch.tensor([0.5, 0.5])
    histogram = torch.tensor([2 / 3, 1 / 3])
    loss = fairness_loss(logits.softmax(1).mean(0), histogram, torch.tensor([0.2, 0.8]), even)
    (gradient,) = torch.autograd.grad(loss, logits)

    def cross_entropy_to_the_past(values):
        now = values.softmax(1).mean(0) / histogram
        return -(torch.tensor([0.2, 0.8]) * (now / now.sum()).log()).sum()

    better = cross_entropy_to_the_past(logits.detach() - 0.1 * gradient)
    assert better > cross_entropy_to_the_past(logits.detach())
    assert loss.item() == pytest.approx(-cross_entropy_to_the_past(logits).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fairness_of_nothing_is_nothing(dtype):
    mean = torch.zeros(3, dtype=dtype, requires_grad=True)
    zeros, even = torch.zeros(3, dtype=dtype), torch.full((3,), 1 / 3, dtype=dtype)
    loss = fairness_loss(mean, zeros, even, even)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert loss == 0
    assert torch.equal(gradient, zeros)


def test_a_class_that_is_not_kept_counts_as_zero():
    mean = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
    histogram = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    loss = fairness_loss(mean, histogram, even, even)
    expected = (math.log(2 / 3 + 1e-12) + math.log(1 / 3 + 1e-12) + math.log(1e-12)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert gradient[2] == 0
    assert gradient.isfinite().all()
    # Only shares matter.
    torch.testing.assert_close(fairness_loss(7 * mean, 5 * histogram, even, even), loss)


def test_the_first_batch_is_masked_by_thresholds_that_know_it():
    module = read_images(FreeMatch(2, 0.0, 0.0, backbone="wrn_10_1"))  # no memory of the past
    weak = torch.tensor([[4.0, 0.0], [1.0, 0.0]], dtype=torch.float64).view(1, 2, 2, 1, 1)
    u = Samples({"weak": weak, "strong": torch.zeros_like(weak)})
    x = Samples({"weak": torch.zeros(1, 1, 2, 1, 1, dtype=torch.float64)}, torch.tensor([0]))
    # The overall threshold is the mean of both confidences, not 1 / 2: one image is kept.
    assert module.training_step(Batch(0, x, u), 0).item() == pytest.approx(1.5 * math.log(2))


@pytest.mark.parametrize("each", [True, False])
def test_a_rare_class_has_at_least_the_lower_end_in_the_authors_code(each):
    thresholds = SelfAdaptiveThresholds(4, 0.5, (0.9, 0.95), each)
    thresholds.confidence.value.fill_(0.93)
    thresholds.probs.value.copy_(torch.tensor([0.08, 0.76, 0.08, 0.08]))
    found = thresholds.thresholds().tolist()
    rare = 0.93 * 0.08 / 0.76
    assert found == pytest.approx([0.9, 0.93, 0.9, 0.9] if each else [rare, 0.93, rare, rare])


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("decay", 1.0, r"in \[0, 1\)"),
     ("clip", (0.9, 0.8), r"two numbers in \[0, 1\] and not fall"),
     ("clip", (0.2,), "two numbers in"),
     ("clip", (0.9, 1.2), r"two numbers in \[0, 1\]"), ("lambda_fairness", -1, "at least 0")],
)  # fmt: skip
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got"):
        FreeMatch(4, backbone="wrn_10_1", **{option: value})
