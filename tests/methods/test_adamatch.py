"""AdaMatch over many steps against a loop over images, logits and batches."""

import math

import pytest
import torch
from torch import nn

from lightning_ssl.methods import AdaMatch
from lightning_ssl.types import Batch, Samples

from by_hand import cross_entropy, labeled_loss, pseudo_label, softmax
from steps import (
    EXACT,
    compare,
    images,
    read_images,
    rows,
    teach,
)


class Alone(nn.Module):
    """A network whose logits depend on what else is in the batch, as BatchNorm's do."""

    def forward(self, images):
        logits = images.flatten(1)
        return logits * (1 + 0.01 * len(logits))


class Trainer:
    log_every_n_steps = 0

    def __init__(self, done, total):
        self.global_step, self.estimated_stepping_batches = done, total


def silent(module, step, total):
    """As if a trainer had done some of the updates; nothing is logged."""
    module._trainer = Trainer(step, total)
    module.log = module.log_dict = lambda *args, **kwargs: None


def aligned(probs, labeled, unlabeled):
    row = [p * (a + 1e-6) / (b + 1e-6) for p, a, b in zip(probs, labeled, unlabeled, strict=True)]
    return [value / sum(row) for value in row]


@pytest.mark.parametrize(
    ("simple", "threshold", "decay", "window", "ramp", "soft"),
    [(False, 0.9, 0.9, 5, 0.5, None), (False, 1.0, 0.5, 128, 0.2, 0.5),
     (True, 0.95, 0.9, 128, 0.0, None)],
)  # fmt: skip
def test_sixty_steps_equal_loops(simple, threshold, decay, window, ramp, soft):
    generator = torch.Generator().manual_seed(4)
    options = {
        "simple": simple,
        "ramp": ramp,
        "temperature": soft,
        "lambda_u": 1.5,
        "backbone": "wrn_10_1",
    }
    module = read_images(AdaMatch(4, threshold, decay, window, **options))
    module.backbone = Alone()
    exponential, batches, kept = {"x": [0.25] * 4, "u": [0.25] * 4}, [[0.25] * 4] * window, 0
    for step in range(60):
        silent(module, step, 60)
        x, x_strong, weak, strong = (images(n, 4, generator, 2.0) for n in (3, 3, 6, 6))
        target = torch.randint(4, (3,), generator=generator)
        labeled = {"weak": x} if simple else {"weak": x, "strong": x_strong}
        u = Samples({"weak": weak, "strong": strong})
        torch.manual_seed(step)
        loss = module.training_step(Batch(step, Samples(labeled, target), u), step)

        together = 1.15 if simple else 1.18  # of 15 and of 18 images
        logits = [rows(part) * together for part in labeled.values()]
        if not simple:
            torch.manual_seed(step)
            share = torch.rand(6, 4, dtype=torch.float64)  # one of each logit
            logits = [
                z + share[3 * i : 3 * i + 3] * (rows(part) * 1.06 - z)
                for i, (z, part) in enumerate(zip(logits, labeled.values(), strict=True))
            ]
        loss_x = sum(labeled_loss(z, target) for z in logits) / len(logits)

        on_x, on_u = [softmax(z) for z in logits[0]], teach(weak * together)
        for name, taught in (("x", on_x), ("u", on_u)):
            means = [sum(p[c] for p in taught) / len(taught) for c in range(4)]
            exponential[name] = [
                decay * old + (1 - decay) * new
                for old, new in zip(exponential[name], means, strict=True)
            ]
            if name == "u":
                batches = [*batches[1:], means]
        past_u = (
            exponential["u"] if simple else [sum(b) / window for b in zip(*batches, strict=True)]
        )
        relative = threshold * sum(max(p) for p in on_x) / 3
        unlabeled = torch.zeros((), dtype=torch.float64)
        for p, z in zip(on_u, rows(strong), strict=True):
            q = aligned(p, exponential["x"], past_u)
            if max(q) >= relative:
                kept += 1
                unlabeled = unlabeled + cross_entropy(z * together, pseudo_label(q, soft))
        weight = 0.5 - 0.5 * math.cos(min(math.pi, math.pi * step / (60 * ramp))) if ramp else 1.0
        expected = loss_x + weight * 1.5 * unlabeled / 6
        compare(loss, expected, (*labeled.values(), strong), weak)
    assert 40 < kept < 320
    torch.testing.assert_close(module.labeled_probs.value.tolist(), exponential["x"], **EXACT)
    torch.testing.assert_close(module.unlabeled_probs.value.tolist(), past_u, **EXACT)


@pytest.mark.parametrize(("done", "weight"), [(0, 0.0), (25, 0.5), (50, 1.0), (80, 1.0)])
def test_the_weight_rises_along_half_a_cosine(done, weight):
    module = read_images(AdaMatch(2, threshold=0.0, backbone="wrn_10_1"))
    silent(module, done, 100)
    zero = torch.zeros(1, 3, 2, 1, 1, dtype=torch.float64)
    x = Samples({"weak": zero, "strong": zero}, torch.tensor([0, 0, 0]))
    loss = module.training_step(Batch(0, x, Samples({"weak": zero, "strong": zero})), 0)
    assert loss.item() == pytest.approx((1 + weight) * math.log(2))


def test_the_pass_of_labelled_images_alone_leaves_the_statistics_alone():
    torch.manual_seed(0)
    module = AdaMatch(4, ramp=0, backbone="wrn_10_1")
    images = torch.randn(4, 1, 6, 3, 8, 8) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1, 1, 1)
    views = ({"weak": images[i], "strong": images[i + 1]} for i in (0, 2))
    x, u = (Samples(v, torch.zeros(6, dtype=torch.int64)) for v in views)
    module.training_step(Batch(0, x, u), 0)
    stem = module.backbone.stem(torch.cat([part[0] for part in images]))
    first = next(m for m in module.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert first.num_batches_tracked == 1
    torch.testing.assert_close(first.running_mean, 0.1 * stem.mean(dim=(0, 2, 3)))


def test_the_simple_form_needs_no_strong_labelled_view():
    assert AdaMatch(4, backbone="wrn_10_1").views["labeled"] == {"weak": 1, "strong": 1}
    assert AdaMatch(4, simple=True, backbone="wrn_10_1").views["labeled"] == {"weak": 1}


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("threshold", 1.2, r"in \[0, 1\]"), ("decay", 1.0, r"in \[0, 1\)"), ("ramp", -1, "in"),
     ("window", 0, "at least 1"), ("lambda_u", -1, "at least 0")],
)  # fmt: skip
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got {value}"):
        AdaMatch(4, backbone="wrn_10_1", **{option: value})
