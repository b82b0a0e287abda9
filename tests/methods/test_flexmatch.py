"""FlexMatch over many steps against a loop over images."""

import math

import pytest
import torch

from lightning_ssl.methods import FlexMatch
from lightning_ssl.types import Batch, Samples

from by_hand import Memory, best, cross_entropy, labeled_loss, pseudo_label
from runs import fit
from steps import compare, images, logged, read_images, rows, teach


def aligned(probs, counts, past):
    """A row times the share of each class over its running mean, summing to 1 again."""
    shares = [n / sum(counts) for n in counts]
    row = [p * (s + 1e-6) / (q + 1e-6) for p, s, q in zip(probs, shares, past, strict=True)]
    return [value / sum(row) for value in row]


@pytest.mark.parametrize(
    ("mapping", "warmup", "tau", "lambda_u", "soft", "counts"),
    [("convex", True, 0.9, 1.0, None, None), ("convex", False, 0.9, 2.0, 0.5, None),
     ("linear", True, 0.8, 0.5, None, [4, 1, 0, 3]),
     ("concave", True, 0.95, 1.0, 2.0, [1, 1, 5, 1]),
     ("concave", False, 0.7, 1.0, None, None)],
)  # fmt: skip
def test_sixty_steps_equal_loops(mapping, warmup, tau, lambda_u, soft, counts):
    generator = torch.Generator().manual_seed(1)
    options = {"align": counts is not None, "decay": 0.8, "class_counts": counts}
    options |= {"lambda_u": lambda_u, "backbone": "wrn_10_1"}
    module = read_images(FlexMatch(4, 30, tau, mapping, warmup, temperature=soft, **options))
    memory, kept, past = Memory(30, tau, 4, mapping, warmup), [], [0.25] * 4
    for step in range(60):
        x, weak, strong = (images(n, 4, generator, 3.0) for n in (3, 8, 8))
        target = torch.randint(4, (3,), generator=generator)
        index = torch.randperm(30, generator=generator)[:8]
        u = Samples({"weak": weak, "strong": strong}, index=index)
        loss = module.training_step(Batch(step, Samples({"weak": x}, target), u), step)

        taught, thresholds = teach(weak), memory.thresholds()
        if counts:
            past = [0.8 * q + 0.2 * sum(p[c] for p in taught) / 8 for c, q in enumerate(past)]
            taught = [aligned(p, counts, past) for p in taught]
        unlabeled = torch.zeros((), dtype=torch.float64)
        for probs, z in zip(taught, rows(strong), strict=True):
            label = best(probs)
            passes = probs[label] >= thresholds[label]
            kept.append(passes)
            if passes:
                unlabeled = unlabeled + cross_entropy(z, pseudo_label(probs, soft))
        memory.update(taught, index.tolist())  # only the thresholds of the next step see it
        expected = labeled_loss(rows(x), target) + lambda_u * unlabeled / 8
        compare(loss, expected, (x, strong), weak)
        assert module.memory.classes.tolist() == memory.classes
        assert logged(module, "threshold") == pytest.approx(thresholds, abs=1e-6)
        unseen = module.logged["train/unseen_rate"].item()
        assert unseen == pytest.approx(memory.unseen())
    assert all(kept[:8])  # thresholds of 0
    assert not all(kept)


def one_step(module, logits_weak, index, strong=None):
    weak = torch.tensor(logits_weak, dtype=torch.float64).view(1, -1, 2, 1, 1)
    strong = torch.zeros_like(weak) if strong is None else strong
    u = Samples({"weak": weak, "strong": strong}, index=torch.tensor(index))
    x = Samples({"weak": torch.zeros(1, 1, 2, 1, 1, dtype=torch.float64)}, torch.tensor([0]))
    return module.training_step(Batch(0, x, u), 0).item() - math.log(2)


def test_a_batch_is_masked_by_what_was_known_before_it():
    module = read_images(FlexMatch(2, 2, 0.9, warmup=False, backbone="wrn_10_1"))
    # Nothing is known: all thresholds are 0, and unconfident images count, too.
    assert one_step(module, [[5.0, 0.0], [0.1, 0.0]], [0, 1]) == pytest.approx(math.log(2))
    # Class 0 has all that is remembered, its threshold is 0.9 now; class 1 has none.
    assert one_step(module, [[0.1, 0.0], [0.0, 0.1]], [0, 1]) == pytest.approx(math.log(2) / 2)
    # The unconfident prediction erased nothing.
    assert module.memory.classes.tolist() == [0, -1]


def test_what_is_remembered_is_stored_with_the_weights():
    module = read_images(FlexMatch(2, 3, backbone="wrn_10_1"))
    one_step(module, [[0.0, 9.0], [0.0, 0.0]], [2, 0])
    assert module.state_dict()["memory.classes"].tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("threshold", 1.2, r"in \[0, 1\]"), ("mapping", "cubic", "one of"),
     ("num_unlabeled", 0, "at least 1"), ("lambda_u", -1, "at least 0")],
)  # fmt: skip
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got '?{value}"):
        FlexMatch(**{"num_classes": 4, "num_unlabeled": 9, "backbone": "wrn_10_1", option: value})


@pytest.mark.parametrize("counts", [None, [1, 2], [0, 0, 0, 0], [-1, 2, 2, 2]])
def test_alignment_needs_the_labelled_images_of_each_class(counts):
    with pytest.raises(ValueError, match=r"`class_counts` must be 4 numbers .* with `align`, got"):
        FlexMatch(4, 9, align=True, class_counts=counts, backbone="wrn_10_1")


def test_the_command_line_tells_the_classes_of_the_data():
    cli = fit("FlexMatch", "a", 1, "--model.align", "true")
    torch.testing.assert_close(cli.model.alignment.occurring, torch.full((10,), 0.1))
    assert cli.model.alignment.predicted.value.std() > 0
