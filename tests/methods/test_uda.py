"""UDA against sixty updates by hand: annealing, soft targets, thresholds of classes."""

import math

import pytest
import torch

from lightning_ssl.methods import UDA, uda
from lightning_ssl.state.class_memory import FixedThreshold

from by_hand import (
    CLASSES,
    Memory,
    cross_entropy,
    draw_batches,
    labeled_loss,
    linear,
    of_steps,
    train_both,
)  # fmt: skip
from runs import fit, load

STEPS, LENGTH = 60, 12


def annealed(step, annealing):
    """The threshold of the paper's section on training-signal annealing."""
    done = step / STEPS
    alpha = {"linear": done, "exp": math.exp((done - 1) * 5), "log": 1 - math.exp(-done * 5)}
    return alpha[annealing] * (1 - 1 / CLASSES) + 1 / CLASSES


@pytest.mark.parametrize("annealing", [None, "linear", "exp", "log"])
@pytest.mark.parametrize("classes", [False, True])
def test_sixty_steps_equal_the_papers(annealing, classes):
    threshold, temperature, weight = 0.7, 0.4, 2.0
    memory, taught, kept, limits_0, unseen = Memory(LENGTH, threshold), [], [], [], []

    def loss_by_hand(step, predict, batch):
        if annealing is None:
            loss = labeled_loss(predict(batch.labeled.views["weak"][0]), batch.labeled.target)
        else:
            losses = []
            rows = predict(batch.labeled.views["weak"][0])
            for z, y in zip(rows, batch.labeled.target.tolist(), strict=True):
                h = cross_entropy(z, y)
                if math.exp(-h.item()) < annealed(step, annealing):
                    losses.append(h)
            taught.append(len(losses))
            loss = sum(losses) / max(1, len(losses)) + 0 * rows.sum()

        u = batch.unlabeled
        limits = memory.thresholds() if classes else [threshold] * CLASSES
        probs = predict(u.views["weak"][0]).detach().softmax(1).tolist()
        for p, z in zip(probs, predict(u.views["strong"][0]), strict=True):
            kept.append(max(p) >= limits[p.index(max(p))])
            if kept[-1]:
                powers = [v ** (1 / temperature) for v in p]
                soft = [v / sum(powers) for v in powers]
                h = sum(q * cross_entropy(z, c) for c, q in enumerate(soft))
                loss = loss + weight * h / len(probs)
        memory.update(probs, u.index.tolist())
        limits_0.append(limits[0])
        unseen.append(memory.unseen())
        return loss

    options = {"class_thresholds": True, "num_unlabeled": LENGTH} if classes else {}
    module = linear("UDA", threshold, temperature, annealing, lambda_u=weight, **options)
    batches = draw_batches(STEPS, LENGTH, weak=1, strong=1)
    logged = train_both(module, batches, loss_by_hand)
    if annealing is None:
        assert "train/labeled_rate" not in logged[-1]
    else:
        assert of_steps(logged, "labeled_rate") == pytest.approx([n / 3 for n in taught], abs=1e-6)
        assert len(set(taught)) > 1
    assert {True, False} == set(kept)
    if classes:
        assert module.memory.classes.tolist() == memory.classes
        assert kept[:5] == [True] * 5  # thresholds are 0 at the start
        assert of_steps(logged, "threshold_0") == pytest.approx(limits_0, abs=1e-6)
        assert of_steps(logged, "unseen_rate") == pytest.approx(unseen, abs=1e-6)
    else:
        assert {"train/threshold_0", "train/unseen_rate"}.isdisjoint(logged[-1])


def test_annealing_divides_by_the_images_that_count(monkeypatch):
    """Not by all: the loss of the only image that is not known yet is not made smaller."""
    monkeypatch.setattr(uda, "progress", lambda *_: 0.5)  # a threshold of 0.625
    module = linear("UDA", annealing="linear")
    logits = torch.tensor([[9.0, 0, 0, 0], [0, 0, 0, 0.5], [0, 9, 0, 0]], dtype=torch.float64)
    loss = module._labeled_loss(logits, torch.tensor([0, 2, 1]))
    assert loss.item() == pytest.approx(math.log(3 + math.exp(0.5)))
    assert module._labeled_loss(logits[[0, 2]], torch.tensor([0, 1])) == 0


def test_targets_are_sharpened_after_the_threshold():
    """A confidence of 0.6 stays below 0.8, though it is 0.92 once it is sharpened."""
    module = linear("UDA", 0.8, 0.4)
    batch = draw_batches(1, weak=1, strong=1)[0]
    module.classifier = torch.nn.Identity()
    logits = torch.log(torch.tensor([0.6, 0.2, 0.1, 0.1], dtype=torch.float64))
    views = {n: logits.expand(1, 5, 4)[..., None, None] for n in ("weak", "strong")}
    x = {"weak": torch.zeros(1, 3, 4, 1, 1, dtype=torch.float64)}
    plain = batch._replace(
        labeled=batch.labeled._replace(views=x), unlabeled=batch.unlabeled._replace(views=views)
    )
    assert module.training_step(plain, 0).item() == pytest.approx(math.log(4))
    module.memory.threshold = 0.5
    sharp = [v**2.5 for v in (0.6, 0.2, 0.1, 0.1)]
    soft = -sum(s / sum(sharp) * z for s, z in zip(sharp, logits.tolist(), strict=True))
    assert module.training_step(plain, 0).item() == pytest.approx(math.log(4) + soft)


def test_the_data_tells_how_many_images_to_remember():
    cli = fit("UDA", "a", 1, "--model.class_thresholds", "true")
    assert len(cli.model.memory.classes) == cli.datamodule.num_unlabeled
    assert "memory.classes" in load("a")["state_dict"]
    assert isinstance(fit("UDA", "b", 1).model.memory, FixedThreshold)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("threshold", 1.2, r"in \[0, 1\]"),
        ("temperature", 0, "above 0"),
        ("annealing", "cosine", "one of"),
        ("lambda_u", -1, "at least 0"),
    ],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got '?{value}"):
        UDA(4, backbone="wrn_10_1", **{option: value})


def test_class_thresholds_need_the_length_of_the_list():
    with pytest.raises(ValueError, match="`num_unlabeled` must be at least 1, got 0"):
        UDA(4, backbone="wrn_10_1", class_thresholds=True)


def test_annealing_needs_an_end_of_the_run():
    module = linear("UDA", annealing="exp")

    class Endless:
        global_step, estimated_stepping_batches = 3, float("inf")

    module._trainer = Endless()
    with pytest.raises(ValueError, match="`annealing` must be null, in a run without end"):
        module._labeled_loss(torch.zeros(1, 4), torch.tensor([0]))
