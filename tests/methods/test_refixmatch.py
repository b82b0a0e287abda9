"""ReFixMatch against a loop over images, values and gradients."""

import pytest
import torch

from lightning_ssl.methods import ReFixMatch
from lightning_ssl.types import Batch, Samples

from by_hand import draw_batches, linear, train_both
from steps import images, read_images, same


def loss_by_loops(x, target, weak, strong, threshold, lambda_u, temperature):
    """Hard labels from the threshold on, KL of both tempered predictions below it."""
    loss, hard = torch.zeros((), dtype=torch.float64), 0
    for z, y in zip(x, target, strict=True):
        loss = loss - torch.log_softmax(z, 0)[y] / len(x)
    for w, s in zip(weak, strong, strict=True):
        p = torch.softmax(w, 0)
        if p.max() >= threshold:
            hard += 1
            term = -torch.log_softmax(s, 0)[p.argmax()]
        else:
            soft = torch.softmax(w / temperature, 0)
            log_student = torch.log_softmax(s / temperature, 0)
            term = sum(a * (torch.log(a) - b) for a, b in zip(soft, log_student, strict=True))
        loss = loss + lambda_u * term / len(weak)
    return loss, hard


@pytest.mark.parametrize("separate_weak", [False, True])
@pytest.mark.parametrize(("threshold", "lambda_u", "temperature"), [(0.8, 1.0, 0.5), (0.6, 3, 0.2)])
def test_steps_equal_loops(threshold, lambda_u, temperature, separate_weak):
    generator = torch.Generator().manual_seed(0)
    module = read_images(
        ReFixMatch(
            *(4, threshold),
            temperature=temperature,
            lambda_u=lambda_u,
            separate_weak=separate_weak,
            backbone="wrn_10_1",
        )
    )
    kept = 0
    for _ in range(50):
        x, weak, strong = (images(n, 4, generator) for n in (3, 6, 6))
        target = torch.randint(4, (3,), generator=generator)
        unlabeled = Samples({"weak": weak, "strong": strong})
        loss = module.training_step(Batch(0, Samples({"weak": x}, target), unlabeled), 0)
        expected, hard = loss_by_loops(
            *(x.flatten(2)[0], target, weak.detach().flatten(2)[0], strong.flatten(2)[0]),
            *(threshold, lambda_u, temperature),
        )
        same(loss, expected, x, weak, strong)
        kept += hard
    assert 0 < kept < 300


def test_teachers_give_the_weights_no_gradient():
    """The images of the test above have gradients of their own, the network's weights had none."""
    module = linear("ReFixMatch", 0.7, lambda_u=2.0)

    def loss_by_hand(step, predict, batch):
        x, u = batch.labeled, batch.unlabeled.views
        logits = [predict(view[0]) for view in (x.views["weak"], u["weak"], u["strong"])]
        weak = logits[1].detach()
        return loss_by_loops(logits[0], x.target, weak, logits[2], 0.7, 2.0, 0.5)[0]

    train_both(module, draw_batches(40, weak=1, strong=1), loss_by_hand)


def test_a_correction_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="`imbalance` must be null for ReFixMatch, which learns"):
        ReFixMatch(4, imbalance="ABCHead", class_counts=[1, 2, 3, 4], backbone="wrn_10_1")


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match="`temperature` must be above 0, got 0"):
        ReFixMatch(4, temperature=0, backbone="wrn_10_1")
