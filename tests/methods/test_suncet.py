"""SuNCEt and SimCLR + CT: frozen statistics, the end of the labelled term, their steps."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import SimCLR, SimCLRCT, SuNCEt
from lightning_ssl.types import Batch, Samples

from runs import fit, load

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.endswith(STATISTICS)}


def modes(module: nn.Module) -> set[bool]:
    return {part.training for part in module.modules() if isinstance(part, NORMS)}


class Modes(Callback):
    """Keep the modes of normalisation, and of the rest, in each training step."""

    seen: list[tuple[set[bool], bool]]

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        self.seen.append((modes(module), module.backbone.training))


# Frozen normalisation


def test_frozen_normalisation_survives_train() -> None:
    module = SuNCEt(4, freeze_norm=True, backbone="wrn_10_1")
    assert modes(module) == {False}  # a Trainer keeps the modes it finds
    for _ in range(2):
        module.eval().train()
        assert modes(module) == {False}
        assert module.training
        assert module.backbone.training
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = Samples({"weak": torch.randn(2, 8, 3, 8, 8)}, torch.arange(8) % 4)
    module.training_step(Batch(0, x), 0).backward()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    weights = [p.weight for p in module.modules() if isinstance(p, NORMS)]
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)
    assert modes(SuNCEt(4, backbone="wrn_10_1")) == {True}


def test_frozen_normalisation_survives_a_fit() -> None:
    fit("SuNCEt", "start", 4, "--data.batch_size", "20")
    start = load("start")["state_dict"]
    module = SuNCEt(
        10, freeze_norm=True, backbone="wrn_10_1", ema_decay=0.0,
        weights="start/checkpoints/last.ckpt",
    )  # fmt: skip
    watch = Modes()
    trainer = Trainer(
        max_steps=6, val_check_interval=2, callbacks=[watch], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, SSLDataModule("digits", num_labels=20, batch_size=20, steps_per_epoch=4))
    assert watch.seen == [({False}, True)] * 6  # after validations and new epochs, too
    tuned, kept = module.state_dict(), statistics(start)
    assert len(kept) > 10
    for name, value in start.items():
        assert torch.equal(value, tuned[name]) == (name in kept)


def test_statistics_move_where_they_are_not_frozen() -> None:
    fit("SuNCEt", "a", 1, "--data.batch_size", "20", "--model.ema_decay", "0")
    fit("SuNCEt", "b", 2, "--data.batch_size", "20", "--model.ema_decay", "0")
    one, two = (statistics(load(name)["state_dict"]) for name in "ab")
    assert not any(torch.equal(value, two[name]) for name, value in one.items())


# Steps


def identity(module: Any) -> Any:
    module = module.double()
    module.backbone, module.projection = nn.Flatten(), nn.Identity()
    return module


def images(seed: int, copies: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(copies, count, 3, 1, 1, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_()


def similarities(rows: Tensor, keys: Tensor, tau: float) -> list[list[Tensor]]:
    def one(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp((a @ b) / (a @ a).sqrt() / (b @ b).sqrt() / tau)

    return [[one(a, b) for b in keys] for a in rows]


def simclr_by_loops(views: Tensor, tau: float, detach: bool) -> Tensor:
    rows, n = views.flatten(2).flatten(0, 1), views.shape[1]
    near = similarities(rows, rows.detach() if detach else rows, tau)
    losses = [
        torch.log(sum(near[i][j] for j in range(2 * n) if j != i) / near[i][(i + n) % (2 * n)])
        for i in range(2 * n)
    ]
    return sum(losses) / (2 * n)


def suncet_by_loops(views: Tensor, target: Tensor, tau: float) -> Tensor:
    rows, classes = views.flatten(2).flatten(0, 1), target.tolist() * len(views)
    near, total = similarities(rows, rows, tau), torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(classes):
        others = [j for j in range(len(classes)) if j != i]
        same = [j for j in others if classes[j] == y]
        if same:
            total = total + torch.log(
                sum(near[i][j] for j in others) / sum(near[i][j] for j in same)
            )
    return total / len(classes)


def same(found: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (found, wanted))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


TARGET = torch.tensor([0, 1, 2, 2, 0, 3])  # 1 and 3 are alone unless there are two views


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_a_step_of_suncet(copies: int, tau: float) -> None:
    module = identity(SuNCEt(4, "mine", copies, temperature=tau, backbone="wrn_10_1"))
    assert module.views == {"labeled": {"mine": copies}}
    x = images(copies, copies, 6)
    loss = module.training_step(Batch(0, Samples({"mine": x}, TARGET)), 0)
    same(loss, suncet_by_loops(x, TARGET, tau), x)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_steps_of_simclr_and_its_extension(detach: bool, tau: float) -> None:
    options = {"detach_keys": detach, "temperature": tau, "backbone": "wrn_10_1"}
    u, x = images(1, 2, 5), images(2, 1, 6)
    unlabeled = Samples({"simclr": u})
    loss = identity(SimCLR(4, **options)).training_step(Batch(0, None, unlabeled), 0)
    same(loss, simclr_by_loops(u, tau, detach), u)
    both = Batch(0, Samples({"simclr": x}, TARGET), unlabeled)
    loss = identity(SimCLRCT(4, **options)).training_step(both, 0)
    same(loss, simclr_by_loops(u, tau, detach) + suncet_by_loops(x, TARGET, tau), u, x)


def test_all_images_of_simclr_ct_share_one_batchnorm_batch() -> None:
    module = SimCLRCT(4, backbone="wrn_10_1")
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    x = Samples({"simclr": torch.randn(1, 6, 3, 8, 8)}, TARGET)
    module.training_step(Batch(0, x, Samples({"simclr": torch.randn(2, 5, 3, 8, 8)})), 0)
    assert seen == [16]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_labelled_term_ends(accumulated: int) -> None:
    cli = fit(
        *("SimCLRCT", "a", 4, "--data.batch_size", "20", "--model.supervised_updates", "2"),
        *("--trainer.log_every_n_steps", "1", "--data.steps_per_epoch", "2"),
        *("--trainer.accumulate_grad_batches", str(accumulated)),
    )
    assert cli.trainer.global_step == 4
    with Path("a/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    for row in rows:
        total, loss_x, loss_u = (
            float(row[f"train/{name}"]) for name in ("loss", "loss_x", "loss_u")
        )
        assert loss_x > 0.1  # logged to the end
        # Lightning numbers rows by the updates made before the step.
        supervised = int(row["step"]) < 2
        assert total == pytest.approx(loss_u + loss_x if supervised else loss_u, rel=1e-5)
    assert {int(row["step"]) for row in rows} == {0, 1, 2, 3}


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"`copies` must be at least 1, got 0\."):
        SuNCEt(4, copies=0, backbone="wrn_10_1")
    with pytest.raises(ValueError, match=r"`supervised_updates` must be at least 0, got -1\."):
        SimCLRCT(4, supervised_updates=-1, backbone="wrn_10_1")


@pytest.mark.parametrize("method", [SuNCEt, SimCLRCT])
def test_smoothed_labels_reach_the_loss(method: Any) -> None:
    batch = Batch(
        0,
        Samples({name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "simclr")},
                torch.tensor([0, 1, 2, 0, 1, 2])),
        Samples({"simclr": torch.randn(2, 4, 3, 8, 8)}),
    )  # fmt: skip
    losses = []
    for smoothing in (0.0, 0.2):
        torch.manual_seed(0)
        module = method(4, backbone="wrn_10_1", temperature=0.1, label_smoothing=smoothing,
                        **({"copies": 1} if method is SuNCEt else {}))  # fmt: skip
        module._trainer = SimpleNamespace(global_step=0, global_rank=0)
        module.log = module.log_dict = lambda *args, **kwargs: None
        losses.append(module.training_step(batch, 0).item())
        if method is SuNCEt:
            (_, z), labels = module.project_together(batch.labeled.views["weak"])[0], torch.eye(3)
            labels = (1 - smoothing) * labels + smoothing / 3
            z = nn.functional.normalize(z[0])
            near = (z @ z.T / 0.1).fill_diagonal_(-torch.inf).softmax(1)
            rows = labels[batch.labeled.target]
            expected = -(rows * (near @ rows).log()).sum(1).mean().item()
            assert losses[-1] == pytest.approx(expected, rel=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\), got 1.0"):
        method(4, backbone="wrn_10_1", label_smoothing=1.0)


def test_evaluation_is_in_float32_where_training_is_in_mixed_precision() -> None:
    module = SuNCEt(4, backbone="wrn_10_1").eval()
    images, target = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    module.fit_support(images, target)
    exact = module.embed(images), module(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.embed(images), exact[0])
        torch.testing.assert_close(module(images), exact[1])
        assert not torch.equal(module.project(images)[1], exact[0])
