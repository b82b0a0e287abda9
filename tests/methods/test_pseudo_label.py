"""Pseudo-label in one stage against a loop over images."""

import pytest
import torch
from torch import nn

from lightning_ssl.methods import PseudoLabel, pseudo_label
from lightning_ssl.optim.ramps import ramp_up
from lightning_ssl.types import Batch, Samples

from by_hand import (
    Memory,
    cross_entropy,
    draw_batches,
    labeled_loss,
    linear,
    of_steps,
    train_both,
)  # fmt: skip


@pytest.mark.parametrize(("threshold", "lambda_u"), [(0.95, 1.0), (0.85, 2.5), (0.0, 1.0)])
def test_training_step_equals_loops(threshold, lambda_u, monkeypatch):
    # A run that is at a quarter of the ramp.
    monkeypatch.setattr(pseudo_label, "ramp_up", lambda module, ramp: {0.3: 0.25}[ramp])
    generator = torch.Generator().manual_seed(0)
    module = PseudoLabel(4, threshold, lambda_u, ramp=0.3, backbone="wrn_10_1").double()
    # The images are the logits: the network under test is the identity.
    module.backbone, module.classifier = nn.Flatten(), nn.Identity()
    x, u = (
        (torch.randn(1, n, 4, 1, 1, generator=generator, dtype=torch.float64) * 3).requires_grad_()
        for n in (3, 8)
    )
    target = torch.tensor([0, 3, 2])
    loss = module.training_step(Batch(0, Samples({"weak": x}, target), Samples({"weak": u})), 0)
    expected, kept = torch.zeros((), dtype=torch.float64), 0
    for z, y in zip(x.flatten(2)[0], target, strict=True):
        expected = expected - torch.log(torch.exp(z[y]) / torch.exp(z).sum()) / 3
    for z in u.flatten(2)[0]:
        p = torch.exp(z) / torch.exp(z).sum()
        if p.max() >= threshold:
            kept += 1
            expected = expected - 0.25 * lambda_u * torch.log(p.max()) / 8
    assert 0 < kept < 8 or threshold == 0
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(value, (x, u)) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_sixty_steps_with_class_thresholds_equal_the_papers():
    threshold, weight, memory, kept, limits_0, unseen = 0.7, 2.0, Memory(12, 0.7), [], [], []

    def loss_by_hand(step, predict, batch):
        loss, u = (
            labeled_loss(predict(batch.labeled.views["weak"][0]), batch.labeled.target),
            batch.unlabeled,
        )
        rows, limits = predict(u.views["weak"][0]), memory.thresholds()
        probs = rows.detach().softmax(1).tolist()
        for p, z in zip(probs, rows, strict=True):
            label = p.index(max(p))
            kept.append(max(p) >= limits[label])
            loss = loss + weight * kept[-1] * cross_entropy(z, label) / len(probs)
        memory.update(probs, u.index.tolist())
        limits_0.append(limits[0])
        unseen.append(memory.unseen())
        return loss

    module = linear(
        "PseudoLabel", threshold, weight, ramp=0, class_thresholds=True, num_unlabeled=12
    )
    logged = train_both(module, draw_batches(60, 12, weak=1), loss_by_hand)
    assert of_steps(logged, "threshold_0") == pytest.approx(limits_0, abs=1e-6)
    assert of_steps(logged, "unseen_rate") == pytest.approx(unseen, abs=1e-6)
    assert len(set(unseen)) > 2
    assert module.memory.classes.tolist() == memory.classes
    assert kept[:5] == [True] * 5  # thresholds are 0 at the start
    assert False in kept


class Trainer:
    def __init__(self, done, total):
        self.global_step, self.estimated_stepping_batches = done, total


@pytest.mark.parametrize(
    ("done", "ramp", "weight"),
    [(0, 0.4, 0.0), (20, 0.4, 0.5), (40, 0.4, 1.0), (99, 0.4, 1.0), (0, 0.0, 1.0), (50, 1.0, 0.5)],
)
def test_the_ramp_is_a_line_then_one(done, ramp, weight):
    module = PseudoLabel(4, backbone="wrn_10_1")
    module._trainer = Trainer(done, 100)
    assert ramp_up(module, ramp) == pytest.approx(weight)


def test_a_ramp_needs_an_end():
    module = PseudoLabel(4, backbone="wrn_10_1")
    module._trainer = Trainer(3, float("inf"))
    assert ramp_up(module, 0) == 1
    with pytest.raises(ValueError, match=r"`ramp` must be 0, got 0\.4, in a run without end"):
        ramp_up(module, 0.4)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("threshold", 1.2, r"in \[0, 1\]"), ("lambda_u", -1, "at least 0"), ("ramp", -0.1, "in")],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got {value}"):
        PseudoLabel(4, backbone="wrn_10_1", **{option: value})
