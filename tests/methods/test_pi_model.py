"""Pi-model against a loop over images, values and gradients."""

import math

import pytest
import torch
from torch import nn

from lightning_ssl.methods import PiModel
from lightning_ssl.types import Batch, Samples

from by_hand import CLASSES, draw_batches, labeled_loss, linear, train_both


def consistency(first, second):
    """Squared error of two softmaxes, averaged over images and classes; the first is fixed."""
    total = torch.zeros((), dtype=torch.float64)
    for fixed, z in zip(first.tolist(), second, strict=True):
        p, whole = torch.exp(z) / torch.exp(z).sum(), sum(math.exp(v) for v in fixed)
        for c, v in enumerate(fixed):
            total = total + (math.exp(v) / whole - p[c]) ** 2
    return total / second.numel()


@pytest.mark.parametrize("ramp", [0.0, 0.5])
def test_sixty_steps_equal_the_paper(ramp):
    steps, weight = 60, 10.0

    def loss_by_hand(step, predict, batch):
        first, second = batch.unlabeled.views["weak"]
        risen = min(1, step / (ramp * steps)) if ramp else 1
        unlabeled = consistency(predict(first).detach(), predict(second))
        return (
            labeled_loss(predict(batch.labeled.views["weak"][0]), batch.labeled.target)
            + risen * weight * unlabeled
        )

    module = linear("PiModel", weight, ramp=ramp)
    train_both(module, draw_batches(steps, weak=2), loss_by_hand)


def test_only_the_second_view_learns():
    module = PiModel(CLASSES, ramp=0, backbone="wrn_10_1").double()
    module.backbone, module.classifier = nn.Flatten(), nn.Identity()
    x, u = (torch.randn(n, 3, 4, 1, 1, dtype=torch.float64).requires_grad_() for n in (1, 2))
    batch = Batch(0, Samples({"weak": x}, torch.tensor([0, 1, 3])), Samples({"weak": u}))
    (slope,) = torch.autograd.grad(module.training_step(batch, 0), u)
    (wanted,) = torch.autograd.grad(10 * consistency(u[0].flatten(1), u[1].flatten(1)), u)
    torch.testing.assert_close(slope, wanted, rtol=1e-12, atol=1e-14)
    assert not slope[0].any()


@pytest.mark.parametrize(
    ("option", "value", "allowed"), [("lambda_u", -1.0, "at least 0"), ("ramp", 2, "in")]
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got {value}"):
        PiModel(4, backbone="wrn_10_1", **{option: value})
