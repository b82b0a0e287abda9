"""The teacher is the average of the weights, whatever happens to the run."""

import copy

import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor

from lightning_ssl.methods import MeanTeacher
from lightning_ssl.types import Batch, Samples

from by_hand import train
from runs import differences, fit, load

DECAY = 0.7


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


class Follow(Callback):
    """Keep the weights of the pupil and of its teacher when each step begins."""

    def __init__(self):
        self.pupils, self.teachers = [], []

    def on_train_batch_start(self, trainer, module, *args):
        self.pupils.append(parameters(module))
        self.teachers.append(parameters(module.teacher))


def make(**options):
    torch.manual_seed(0)
    return MeanTeacher(4, ramp=0, backbone="wrn_10_1", ema_decay=DECAY, **options)


def draw(count):
    generator = torch.Generator().manual_seed(0)
    found = []
    for step in range(count):
        x, u = (torch.randn(n, 4, 3, 8, 8, generator=generator) for n in (1, 2))
        found.append(Batch(step, Samples({"weak": x}, torch.arange(4)), Samples({"weak": u})))
    return found


@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_is_the_average_of_the_weights_after_each_update(accumulated):
    module, follow = make(), Follow()
    train(module, draw(6), follow, accumulate_grad_batches=accumulated)
    expected = follow.pupils[0]
    for i, teacher in enumerate(follow.teachers):
        if i and i % accumulated == 0:
            new = follow.pupils[i]
            expected = {n: DECAY * old + (1 - DECAY) * new[n] for n, old in expected.items()}
        for name, value in teacher.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
    assert differences(follow.pupils[0], follow.pupils[-1]) != []


class Taught(Callback):
    """Ask the teacher both ways, and keep what it and its statistics are afterwards."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx < 2:
            return
        self.images = batch.unlabeled.views["weak"][0]
        self.before = copy.deepcopy(module.teacher)
        self.batch = module.teacher_logits(self.images, training=True)
        self.running = module.teacher_logits(self.images, training=False)
        self.after = copy.deepcopy(module.teacher)
        self.optimized = {
            id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]
        } & {id(p) for p in module.teacher.parameters()}
        self.keys = [*module.state_dict()]


def test_asking_it_normalises_as_told_and_changes_nothing():
    module, taught = make(), Taught()
    train(module, draw(3), taught)
    assert differences(taught.before.state_dict(), taught.after.state_dict()) == []
    assert taught.before.backbone.state_dict()  # the statistics are among them
    with torch.no_grad():
        torch.testing.assert_close(
            taught.batch, copy.deepcopy(taught.before).train()(taught.images)
        )
        torch.testing.assert_close(
            taught.running, copy.deepcopy(taught.before).eval()(taught.images)
        )
    assert (taught.batch - taught.running).abs().max() > 1e-3
    assert not taught.batch.requires_grad
    assert taught.optimized == set()
    assert not any("teacher" in name for name in taught.keys)


def test_a_step_leaves_its_statistics_to_the_pupil():
    """What the teacher has is a copy of what the pupil has seen: one pass per step."""
    module = make()
    train(module, draw(3))
    counts = [v for n, v in module.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 3 for count in counts)


def answers(run_dir, *args):
    """What the teacher says in each step of a run of the command line."""
    said: list[Tensor] = []
    teach = MeanTeacher.teacher_logits

    def keep(self, images, training):
        said.append(teach(self, images, training))
        return said[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeanTeacher, "teacher_logits", keep)
        callbacks = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
                     "--trainer.callbacks.filename", "each",
                     "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
        try:
            fit("MeanTeacher", run_dir, 6, *callbacks, "--model.ema_decay", "0.7", *args)
        except SystemExit:
            assert "probes.Die" in " ".join(args)
    return said


def test_it_survives_a_resume():
    whole = answers("whole")
    cut = answers("cut", "--trainer.callbacks+=probes.Die", "--trainer.callbacks.step", "4")
    ckpt = ("--ckpt_path", "cut/checkpoints/each.ckpt", "--run_dir", "resumed")
    resumed = answers("cut", *ckpt)
    assert [len(part) for part in (whole, cut, resumed)] == [6, 4, 2]
    assert differences(whole, cut + resumed) == []
    assert differences(load("whole")["state_dict"], load("resumed")["state_dict"]) == []


def test_it_keeps_its_precision_beside_half_precision_weights():
    module, follow = make(), Follow()
    train(module, draw(2), follow, precision="bf16-true")
    assert {value.dtype for value in follow.pupils[1].values()} == {torch.bfloat16}
    assert {value.dtype for value in follow.teachers[1].values()} == {torch.float32}


def test_there_is_none_before_the_fit():
    with pytest.raises(RuntimeError):
        _ = make().teacher
