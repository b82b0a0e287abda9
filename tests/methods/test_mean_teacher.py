"""Mean Teacher against sixty updates by hand, its teacher included."""

import pytest
import torch

from lightning_ssl.methods import MeanTeacher

from by_hand import draw_batches, labeled_loss, linear, train_both


@pytest.mark.parametrize(("decay", "ramp"), [(0.9, 0.0), (0.5, 0.5)])
def test_sixty_steps_equal_the_paper(decay, ramp):
    steps, weight = 60, 20.0
    module = linear("MeanTeacher", weight, ramp=ramp, ema_decay=decay)
    first = [value.detach().clone() for value in module.classifier.parameters()]
    teacher = {"weight": first[0], "bias": first[1]}

    def loss_by_hand(step, predict, batch):
        one, other = batch.unlabeled.views["weak"]
        total = torch.zeros((), dtype=torch.float64)
        for image, z in zip(one, predict(other), strict=True):
            fixed = torch.exp(teacher["weight"] @ image.flatten() + teacher["bias"])
            p = torch.exp(z) / torch.exp(z).sum()
            total = total + ((fixed / fixed.sum() - p) ** 2).sum() / 4
        risen = min(1, step / (ramp * steps)) if ramp else 1
        return labeled_loss(
            predict(batch.labeled.views["weak"][0]), batch.labeled.target
        ) + risen * weight * total / len(other)

    def average(predict):
        bias = predict(torch.zeros(1, 6, dtype=torch.float64))[0]
        weight = (predict(torch.eye(6, dtype=torch.float64)) - bias).T
        teacher["weight"] = decay * teacher["weight"] + (1 - decay) * weight
        teacher["bias"] = decay * teacher["bias"] + (1 - decay) * bias

    train_both(module, draw_batches(steps, weak=2), loss_by_hand, average)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("lambda_u", -1.0, "at least 0"),
        ("ramp", 2, "in"),
        ("ema_decay", 0.0, r"in \(0, 1\) for MeanTeacher"),
    ],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got {value}"):
        MeanTeacher(4, backbone="wrn_10_1", **{option: value})
