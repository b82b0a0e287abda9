"""Dash against 160 updates by hand: the warm-up, its loss, the falling threshold, both targets."""

import math
from fractions import Fraction

import pytest
import torch

from lightning_ssl.methods import Dash
from lightning_ssl.types import Batch, Samples

from by_hand import CLASSES, cross_entropy, draw_batches, labeled_loss, linear, train_both
from steps import at_update, read_images

STEPS = 160


@pytest.mark.parametrize(("warmup", "official"), [(80, False), (0, False), (80, True)])
def test_all_steps_equal_the_paper_or_its_code(warmup, official):
    rho_min, gamma, scale, temperature, weight = 0.1, 1.27, 1.3, 0.7, 2.0
    losses, ks, kinds, kept = [torch.tensor(math.log(CLASSES)).item()] * 64, [], [], []

    def loss_by_hand(step, predict, batch):
        loss = labeled_loss(predict(batch.labeled.views["weak"][0]), batch.labeled.target)
        if step < warmup and not official:
            losses.append(loss.item())
            return loss
        start = sum(losses[-64:]) / 64
        k = (step - warmup) // 5
        rho = max(scale * gamma**-k * start, rho_min) if step >= warmup else 500.0
        ks.extend([k] * (step >= warmup))
        kinds.append("hard" if rho == rho_min else "soft")
        u = batch.unlabeled.views
        probs, unlabeled, count = predict(u["weak"][0]).detach().softmax(1).tolist(), 0.0, 0
        for p, z in zip(probs, predict(u["strong"][0]), strict=True):
            label = p.index(max(p))
            kept.append(-math.log(p[label]) <= rho)
            powers = [v ** (1 / temperature) for v in p]
            soft = [v / sum(powers) for v in powers]
            target = [float(c == label) for c in range(CLASSES)] if kinds[-1] == "hard" else soft
            h = sum(q * cross_entropy(z, c) for c, q in enumerate(target))
            unlabeled, count = unlabeled + kept[-1] * h, count + kept[-1]
        if step < warmup:
            losses.append(unlabeled.item() / len(probs))
        return loss + weight * unlabeled / (max(count, 1) if official else len(probs))

    values = (warmup / STEPS, 5 / STEPS, gamma, scale, rho_min, temperature)
    module = linear("Dash", *values, official=official, lambda_u=weight)
    train_both(module, draw_batches(STEPS, weak=1, strong=1), loss_by_hand)
    assert ks[0] == 0
    assert ks[-1] == (STEPS - warmup - 1) // 5
    assert sorted(set(kinds)) == ["hard", "soft"]
    assert {True, False} == set(kept)
    start = module.rho_start.value.item()
    assert start == pytest.approx(sum(losses[-64:]) / 64, abs=1e-12)
    assert (start < 0.9 * math.log(CLASSES)) == (warmup > 0)
    # Pulled from the images kept and dropped in the same step.
    assert not official or 0.5 < sum(kept) / len(kept) < 1


@pytest.mark.parametrize("total", [160, 1000, 2**20])
def test_the_threshold_falls_when_a_period_is_over(total):
    """Which is exact: in floats 0.54 has 17 periods of 0.03."""
    module = read_images(Dash(4, rho_min=1e-9, backbone="wrn_10_1"))
    images = {name: torch.zeros(1, 2, 4, 1, 1).double() for name in ("weak", "strong")}
    batch = Batch(0, Samples(images, torch.tensor([0, 1])), Samples(images))
    for k in range(32):
        update = math.ceil(total * (Fraction("0.05") + k * Fraction("0.03")))
        for step, periods in ((update - 1, k - 1), (update, k)):
            at_update(module, step)
            module._trainer.estimated_stepping_batches = total
            module.training_step(batch, 0)
            expected = 1.0001 * 1.27**-periods * math.log(4)
            found = module.logged.get("train/rho")
            assert (found is None) == (periods < 0)
            assert found is None or found.item() == pytest.approx(expected)


def test_the_warm_up_sees_labelled_images_alone():
    module = Dash(4, backbone="wrn_10_1")
    module._trainer = type(
        "Trainer", (), {"global_step": 0, "estimated_stepping_batches": 9, "log_every_n_steps": 0}
    )()
    module.log = module.log_dict = lambda *args, **kwargs: None
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    batch = draw_batches(1, weak=1, strong=1)[0]
    views = {name: torch.randn(1, 5, 3, 8, 8) for name in ("weak", "strong")}
    x = {"weak": torch.randn(1, 3, 3, 8, 8)}
    batch = batch._replace(
        labeled=batch.labeled._replace(views=x), unlabeled=batch.unlabeled._replace(views=views)
    )
    module.training_step(batch, 0)
    module._trainer.global_step = 1
    module.training_step(batch, 0)
    assert seen == [3, 13]
    assert module.rho_start.position == 1  # what comes after the warm-up does not count


def test_the_config_has_the_updates_of_the_toolboxes(printed):
    config = printed("dash")
    model, steps = config["model"], config["trainer"]["max_steps"]
    assert model["warmup"] * steps == 2048
    assert model["period"] * steps == 10 * 1024


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("warmup", 1.1, r"in \[0, 1\]"),
        ("period", 0.0, r"in \[2\*\*-24, 1\]"),
        ("gamma", 0.9, "at least 1"),
        ("rho_scale", 0.0, "above 0"),
        ("rho_scale", math.inf, "above 0"),
        ("rho_min", -0.1, "above 0"),
        ("temperature", -1.5, "above 0"),
        ("lambda_u", -1.0, "at least 0"),
    ],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}, got {value}"):
        Dash(4, backbone="wrn_10_1", **{option: value})


def test_a_run_needs_an_end():
    module = Dash(4, backbone="wrn_10_1")
    endless = {"global_step": 0, "estimated_stepping_batches": math.inf}
    module._trainer = type("Trainer", (), endless)()
    with pytest.raises(ValueError, match="`model` must not be Dash, in a run without end"):
        module.training_step(draw_batches(1, weak=1, strong=1)[0], 0)
