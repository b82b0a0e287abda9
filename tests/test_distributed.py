"""What processes tell each other, by hand; and methods on two and four of them against one."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from lightning_ssl.distributed import gather, gather_uneven, mean_over_ranks

from runs import fit, load

pytestmark = pytest.mark.ddp
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def connect() -> tuple[int, int]:
    """Join the world, unless a fit before has; Lightning then finds it joined."""
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank(), distributed.get_world_size()


@pytest.fixture(params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue({2: "two_ranks", 4: "four_ranks"}[request.param])


def rows_of(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(3, 2, generator=generator, dtype=torch.float64)


def _gather() -> tuple[Tensor, Tensor]:
    rank, _ = connect()
    rows = rows_of(rank).requires_grad_()
    everyone = gather(rows.T.contiguous().T)  # of any memory layout
    (float(rank + 1) * (everyone**2).sum()).backward()
    assert rows.grad is not None
    return everyone.detach(), rows.grad


def test_gather(ranks: Any) -> None:
    answers = ranks.run(_gather)
    world = len(answers)
    expected = torch.cat([rows_of(r) for r in range(world)])
    for rank, (everyone, gradient) in enumerate(answers):
        assert torch.equal(everyone, expected)
        # Each process's loss weighs as much as its rank plus 1; all of them speak.
        said = sum(range(1, world + 1)) * 2 * rows_of(rank)
        torch.testing.assert_close(gradient, said, rtol=1e-14, atol=1e-14)


def _mean() -> tuple[Tensor, Tensor]:
    rank, _ = connect()
    values = rows_of(rank).requires_grad_()
    kept = values.detach().clone()
    mean = mean_over_ranks(values)
    (float(rank + 1) * mean.sum()).backward()
    assert torch.equal(values.detach(), kept)
    assert values.grad is not None
    return mean.detach(), values.grad


def test_mean_over_ranks(ranks: Any) -> None:
    answers = ranks.run(_mean)
    expected = sum(rows_of(r) for r in range(len(answers))) / len(answers)
    for rank, (mean, gradient) in enumerate(answers):
        torch.testing.assert_close(mean, expected, rtol=1e-14, atol=1e-14)
        assert torch.equal(gradient, torch.full((3, 2), rank + 1.0, dtype=torch.float64))


def _gather_uneven(counts: list[int]) -> list[Tensor]:
    rank, _ = connect()
    rows = rows_of(rank)[: counts[rank]].requires_grad_()
    classes = torch.arange(counts[rank]) + 10 * rank
    return [gather_uneven(rows).detach(), gather_uneven(classes)]


@pytest.mark.parametrize("counts", [[3, 1, 2, 3], [0, 3, 0, 1], [2, 2, 2, 2]])
def test_gather_uneven(ranks: Any, counts: list[int]) -> None:
    answers = ranks.run(_gather_uneven, counts)
    world = range(len(answers))
    for rows, classes in answers:
        assert torch.equal(rows, torch.cat([rows_of(r)[: counts[r]] for r in world]))
        assert classes.tolist() == [10 * r + i for r in world for i in range(counts[r])]


def loss_of(w: Tensor, own: Tensor, everyone: Tensor, mean: Tensor) -> Tensor:
    """Something not linear in all of its inputs, as attention to everyone and an entropy are."""
    return ((own @ everyone.T).softmax(dim=1).log() * w.sum()).mean() + (mean.exp() ** 2).sum()


def _average_gradient() -> tuple[Tensor, Tensor]:
    rank, world = connect()
    w = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    own = (rows_of(rank) * w).tanh()
    loss = loss_of(w, own, gather(own), mean_over_ranks(own.mean(dim=0)))
    (gradient,) = torch.autograd.grad(loss, w)
    for values in (loss := loss.detach(), gradient):
        distributed.all_reduce(values)
        values /= world  # as DDP does
    return loss, gradient


def test_the_average_gradient_is_that_of_the_mean_loss(ranks: Any) -> None:
    answers = ranks.run(_average_gradient)
    w = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    everyone = [(rows_of(r) * w).tanh() for r in range(len(answers))]
    mean = sum(own.mean(dim=0) for own in everyone) / len(everyone)
    loss = sum(loss_of(w, own, torch.cat(everyone), mean) for own in everyone) / len(everyone)
    (expected,) = torch.autograd.grad(loss, w)
    for found, gradient in answers:
        torch.testing.assert_close(found, loss.detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-13)


def test_alone_nothing_changes() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather(rows) is rows
    assert mean_over_ranks(rows) is rows
    assert gather_uneven(rows) is rows


# Methods. BatchNorm sees a process's images alone, so there is none; float64 leaves the order of
# additions.
NORM_FREE = (
    *("--model.backbone_args", "{norm: none}", "--model.head_args", "{norm: none}"),
    *("--model.optimizer.name", "sgd", "--model.optimizer.lr", "0.05"),
    *("--model.ema_decay", "0", "--trainer.precision", "64-true"),
    *("--trainer.limit_val_batches", "0", "--data.unlabeled_batch_size", "8"),
    *("--data.num_labels", "80"),
)
PAWS = ("--model.local_views", "1")


def _fit(method: str, run_dir: str, *args: str) -> float:
    """Three steps, the loss of the last."""
    cli = fit(method, run_dir, 3, *NORM_FREE, *args)
    loss = cli.trainer.callback_metrics["train/loss"]
    assert loss.dtype == torch.float64
    return loss.item()


def compare(worlds: list[Any], method: str, *args: str, own_loss: bool = True) -> None:
    expected = _fit(method, "one", *args)
    one = load("one")["state_dict"]
    for ranks in worlds:
        world = str(len(ranks.processes))
        ddp = ("--trainer.strategy", "ddp", "--trainer.devices", world)
        losses = ranks.run(_fit, method, world, *args, *ddp)
        # Each has its own images, and of some methods the loss of all.
        assert len(set(losses)) == (len(losses) if own_loss else 1)
        assert sum(losses) / len(losses) == pytest.approx(expected, rel=1e-10, abs=1e-10)
        many = load(world)["state_dict"]
        assert one.keys() == many.keys()
        for name, value in one.items():
            assert value.dtype == torch.float64
            torch.testing.assert_close(many[name], value, **EXACT, msg=name)


@pytest.mark.parametrize("support_views", ["1", "2"])
@pytest.mark.parametrize("unique", ["true", "false"])
def test_paws(two_ranks: Any, four_ranks: Any, unique: str, support_views: str) -> None:
    # Four processes cannot share ten classes evenly; they get two of eight each.
    size = ("--data.batch_size", "32", "--data.classes_per_batch", "8")
    if unique == "false":
        size = ("--data.batch_size", "40")
    cut = ("--data.unique_classes_per_rank", unique, "--model.support_views", support_views)
    compare([two_ranks, four_ranks], "PAWS", *PAWS, *size, *cut)


def test_paws_with_the_mean_as_target(two_ranks: Any, four_ranks: Any) -> None:
    size = ("--data.batch_size", "40", "--model.target", "mean")
    compare([two_ranks, four_ranks], "PAWS", *PAWS, *size)


@pytest.mark.parametrize("unique", ["true", "false"])
def test_paws_with_some_classes_and_two_heads(two_ranks: Any, unique: str) -> None:
    size = ("--data.batch_size", "16", "--data.classes_per_batch", "4")
    cut = ("--data.unique_classes_per_rank", unique, "--model.prediction_head", "true")
    compare([two_ranks], "PAWS", *PAWS, *size, *cut)


@pytest.mark.parametrize("unique", ["true", "false"])
def test_ropaws(two_ranks: Any, unique: str) -> None:
    size = ("--data.batch_size", "40", "--data.unique_classes_per_rank", unique)
    compare([two_ranks], "RoPAWS", *PAWS, *size)


@pytest.mark.parametrize("detach", ["true", "false"])
def test_simclr_ct(two_ranks: Any, detach: str) -> None:
    compare([two_ranks], "SimCLRCT", "--data.batch_size", "20", "--model.detach_keys", detach)


def test_vmfsne(two_ranks: Any, four_ranks: Any) -> None:
    compare([two_ranks, four_ranks], "VMFSNE", "--model.perplexity", "7", *PAWS, own_loss=False)


@pytest.mark.parametrize("unique", ["true", "false"])
def test_suncet(two_ranks: Any, unique: str) -> None:
    size = ("--data.batch_size", "40", "--data.unique_classes_per_rank", unique)
    compare([two_ranks], "SuNCEt", *size)
