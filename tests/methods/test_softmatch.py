"""SoftMatch over many steps against a loop over images."""

import math

import pytest
import torch

from lightning_ssl.methods import SoftMatch
from lightning_ssl.types import Batch, Samples

from by_hand import best, cross_entropy, labeled_loss, pseudo_label
from steps import EXACT, compare, images, logged, read_images, rows, teach


def aligned(probs, past, shares):
    """A row times the share of each class over its running mean, summing to 1 again."""
    row = [p * (s + 1e-6) / (q + 1e-6) for p, q, s in zip(probs, past, shares, strict=True)]
    return [value / sum(row) for value in row]


@pytest.mark.parametrize(
    ("n_sigma", "decay", "soft", "to"),
    [(2.0, 0.9, None, "uniform"), (3.0, 0.5, 0.5, "uniform"), (1.0, 0.99, None, "labeled"),
     (2.0, 0.8, 2.0, "labeled")],
)  # fmt: skip
def test_sixty_steps_equal_loops(n_sigma, decay, soft, to):
    generator = torch.Generator().manual_seed(3)
    options = {"temperature": soft, "align_to": to, "lambda_u": 1.5, "backbone": "wrn_10_1"}
    module = read_images(SoftMatch(4, n_sigma, decay, **options))
    past, mu, variance, other_labels, whole = [0.25] * 4, 0.25, 1.0, 0, 0
    shares = [0.25] * 4
    for step in range(60):
        x, weak, strong = (images(n, 4, generator, 2.0) for n in (3, 6, 6))
        with torch.no_grad():
            weak[:, :, 0] += 1  # a class that is predicted too often, which alignment corrects
        target = torch.randint(4, (3,), generator=generator)
        batch = Batch(step, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))
        loss = module.training_step(batch, step)

        taught = teach(weak)
        for c in range(4):
            past[c] = decay * past[c] + (1 - decay) * sum(p[c] for p in taught) / 6
            if to == "labeled":
                shares[c] = decay * shares[c] + (1 - decay) * sum(p[c] for p in teach(x)) / 3
        confidences = [max(aligned(p, past, shares)) for p in taught]
        mean = sum(confidences) / 6
        spread = sum((c - mean) ** 2 for c in confidences) / 5  # unbiased: one less than the batch
        mu = decay * mu + (1 - decay) * mean
        variance = decay * variance + (1 - decay) * spread
        unlabeled = torch.zeros((), dtype=torch.float64)
        for p, c, z in zip(taught, confidences, rows(strong), strict=True):
            weight = math.exp(-((min(c - mu, 0.0)) ** 2) / (2 * variance / n_sigma**2))
            whole += weight == 1.0
            unlabeled = unlabeled + weight * cross_entropy(z, pseudo_label(p, soft))
            other_labels += best(p) != best(aligned(p, past, shares))
        expected = labeled_loss(rows(x), target) + 1.5 * unlabeled / 6
        compare(loss, expected, (x, strong), weak)
        assert logged(module, "predicted") == pytest.approx(past, abs=1e-12)  # with this batch
    assert other_labels > 5  # labels are those before the alignment, where it matters
    assert 50 < whole < 350
    torch.testing.assert_close(module.mean_probs.value.tolist(), past, **EXACT)
    torch.testing.assert_close(module.mean.value.item(), mu, **EXACT)
    torch.testing.assert_close(module.variance.value.item(), variance, **EXACT)


def test_the_statistics_start_at_an_even_guess_and_variance_one():
    module = SoftMatch(5, backbone="wrn_10_1")
    assert module.mean.value.item() == pytest.approx(0.2)
    assert module.variance.value.item() == 1
    torch.testing.assert_close(module.mean_probs.value, torch.full((5,), 0.2))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("align_to", "counts", "one of"), ("temperature", 0.0, "above 0 or null"),
     ("decay", -0.1, r"in \[0, 1\)"), ("n_sigma", 0, "above 0"), ("n_sigma", math.inf, "above 0"),
     ("lambda_u", -1, "at least 0")],
)  # fmt: skip
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got '?{value}"):
        SoftMatch(4, backbone="wrn_10_1", **{option: value})


def test_a_batch_of_one_image_and_equal_confidences_leave_finite_weights():
    module = read_images(SoftMatch(4, 2.0, 0.0, backbone="wrn_10_1"))
    x = Samples({"weak": torch.zeros(1, 1, 4, 1, 1, dtype=torch.float64)}, torch.tensor([0]))
    for count in (1, 3, 1):  # three equal images have no variance, with decay 0 from then on
        views = {
            name: torch.zeros(1, count, 4, 1, 1, dtype=torch.float64) for name in ("weak", "strong")
        }
        loss = module.training_step(Batch(0, x, Samples(views)), 0)
        torch.testing.assert_close(loss, torch.tensor(2 * math.log(4), dtype=torch.float64))
    assert module.variance.value == 0
