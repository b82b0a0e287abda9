"""SequenceMatch against loops over images and over the memory, values and gradients."""

import pytest
import torch

from lightning_ssl.methods import SequenceMatch
from lightning_ssl.types import Batch, Samples

from by_hand import Memory, best, softmax
from steps import images, logged, read_images, same

CLASSES, UNLABELED, TEMPERATURE, LAMBDA_U = 3, 12, 0.4, 0.7


def step_by_loops(memory, x, target, weak, medium, strong, index):
    """Loss of a step, and how many images are kept."""
    loss, kept = torch.zeros((), dtype=torch.float64), 0
    for z, y in zip(x, target, strict=True):
        loss = loss - torch.log_softmax(z, 0)[y] / len(x)
    taught, thresholds = [softmax(w) for w in weak.detach()], memory.thresholds()
    for p, w, m, s in zip(taught, weak.detach(), medium, strong, strict=True):
        label = best(p)
        if p[label] >= thresholds[label]:
            kept += 1
            loss = loss - LAMBDA_U * torch.log_softmax(s, 0)[label] / len(weak)
            for teacher, student in ((w, m), (m.detach(), s), (w, s)):
                soft = torch.softmax(teacher / TEMPERATURE, 0)
                log_student = torch.log_softmax(student, 0)
                for a, b in zip(soft, log_student, strict=True):
                    loss = loss + LAMBDA_U * a * (torch.log(a) - b) / len(weak)
    memory.update(taught, index)
    return loss, kept


@pytest.mark.parametrize("threshold", [0.95, 0.7])
def test_steps_equal_loops(threshold):
    generator = torch.Generator().manual_seed(0)
    module = read_images(
        SequenceMatch(CLASSES, UNLABELED, threshold, LAMBDA_U, TEMPERATURE, backbone="wrn_10_1")
    )
    memory, kept = Memory(UNLABELED, threshold, CLASSES), []
    for _ in range(60):
        x, weak, medium, strong = (images(n, CLASSES, generator) for n in (3, 6, 6, 6))
        target = torch.randint(CLASSES, (3,), generator=generator)
        index = torch.randperm(UNLABELED, generator=generator)[:6]
        views = {"weak": weak, "medium": medium, "strong": strong}
        loss = module.training_step(
            Batch(0, Samples({"weak": x}, target), Samples(views, index=index)), 0
        )
        rows = (view.flatten(2)[0] for view in (weak, medium, strong))
        thresholds = memory.thresholds()
        expected, count = step_by_loops(memory, x.flatten(2)[0], target, *rows, index.tolist())
        same(loss, expected, x, weak, medium, strong)
        assert module.memory.classes.tolist() == memory.classes
        assert logged(module, "threshold") == pytest.approx(thresholds, abs=1e-6)
        unseen = module.logged["train/unseen_rate"].item()
        assert unseen == pytest.approx(memory.unseen())
        kept.append(count)
    assert kept[0] == 6  # all thresholds are 0 at the start
    assert sum(kept) < 6 * 60


def test_views_are_of_three_strengths():
    views = SequenceMatch(CLASSES, UNLABELED, backbone="wrn_10_1").views
    assert views == {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "medium": 1, "strong": 1}}
