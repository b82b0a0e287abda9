"""Every method through the same gauntlet; one row per method."""

import csv
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from lightning_ssl import methods
from lightning_ssl.cli import run
from lightning_ssl.models import build_backbone

from pages import check_page
from runs import SMALL, differences, fit, load


@dataclass(frozen=True)
class Row:
    """What is particular to a method."""

    name: str
    config: str
    logged: set[str] = field(default_factory=set)
    unlabeled: bool = True
    # What makes the unlabelled loss take part from the first step on.
    options: tuple[str, ...] = ()
    # What takes BatchNorm out of the heads, or draws that belong to a batch of a rank.
    exact: tuple[str, ...] = ()
    # Which images the loss compares with each other: none, so that the loss of a batch is the mean
    # over its halves; those of one rank; those of all ranks, or the state that a batch leaves.
    compares: Literal["none", "rank", "all"] = "none"
    # What rounding the embeddings may change; a temperature of 0.1 multiplies it by ten.
    rounding: float = 0.0

    def __str__(self) -> str:
        return self.name


def _projection(
    name: str,
    config: str,
    logged: set[str],
    unlabeled: bool = True,
    options: tuple[str, ...] = ("--data.batch_size", "20"),
) -> Row:
    return Row(
        name,
        config,
        logged,
        unlabeled,
        options=options,
        exact=("--model.head_args", "{norm: none}"),
        compares="all",
        rounding=0.2,
    )


_PSEUDO = {"train/loss_x", "train/loss_u", "train/mask_rate", "train/pseudo_acc"}


def _classes(name: str) -> set[str]:
    return {f"train/{name}_{digit}" for digit in range(10)}


ROWS = [
    Row("Supervised", "supervised", set(), unlabeled=False),
    Row(
        "FixMatch",
        "fixmatch",
        {"train/loss_x", "train/loss_u", "train/mask_rate", "train/pseudo_acc"},
        options=("--model.threshold", "0.15"),
    ),
    _projection(
        "PAWS",
        "paws",
        {"train/loss_u", "train/loss_me_max", "train/pseudo_acc"},
        options=("--data.batch_size", "20", "--model.local_views", "2"),
    ),
    _projection(
        "RoPAWS",
        "ropaws",
        {"train/loss_u", "train/loss_me_max", "train/pseudo_acc"},
        options=("--data.batch_size", "20", "--model.local_views", "1"),
    ),
    _projection("SimCLR", "simclr", set(), options=()),
    _projection(
        "VMFSNE",
        "vmfsne",
        {"train/concentration"},
        options=("--model.perplexity", "10", "--model.local_views", "1"),
    ),
    _projection("SimCLRCT", "simclr_ct", {"train/loss_x", "train/loss_u"}),
    _projection("SuNCEt", "suncet", set(), unlabeled=False),
    Row("S4LRotation", "s4l_rotation", {"train/loss_x", "train/loss_rotation"}),
    Row("S4LExemplar", "s4l_exemplar", {"train/loss_x", "train/loss_triplet"}, compares="rank"),
    Row(
        "VAT",
        "vat",
        {"train/loss_x", "train/loss_vat", "train/loss_entropy"},
        options=("--model.ramp", "0", "--model.lambda_entropy", "0.1"),
    ),
    Row(
        "ReMixMatch",
        "remixmatch",
        {
            *("train/loss_x", "train/loss_u", "train/loss_kl", "train/loss_rotation"),
            *("train/pseudo_acc", "train/usable_bins"),
            *(f"train/predicted_{c}" for c in range(10)),
        },
        options=("--model.ramp", "0", "--model.augment", "ctaugment"),
        exact=("--model.alpha", "0"),
        compares="all",
    ),
    Row(
        "PseudoLabel",
        "pseudo_label",
        {"train/loss_x", "train/loss_u", "train/mask_rate", "train/pseudo_acc"},
        options=("--model.ramp", "0", "--model.threshold", "0.15"),
    ),
    Row(
        "FlexMatch",
        "flexmatch",
        _PSEUDO | {"train/unseen_rate"} | _classes("threshold"),
        compares="all",
    ),
    Row(
        "AdaMatch",
        "adamatch",
        _PSEUDO | {"train/threshold"} | _classes("labeled_share") | _classes("unlabeled_share"),
        options=("--model.ramp", "0", "--model.threshold", "0.5"),
        compares="all",
    ),
    Row(
        "FreeMatch",
        "freematch",
        _PSEUDO | {"train/loss_fairness"} | _classes("threshold"),
        compares="all",
    ),
    Row(
        "SoftMatch",
        "softmatch",
        {
            *("train/loss_x", "train/loss_u", "train/pseudo_acc", "train/weight"),
            *("train/confidence_mean", "train/confidence_std"),
        }
        | _classes("predicted"),
        compares="all",
    ),
    Row(
        "CRMatch",
        "crmatch",
        _PSEUDO | {"train/loss_distance", "train/loss_rotation"},
        options=("--model.threshold", "0.15"),
    ),
    Row(
        "PiModel",
        "pi_model",
        {"train/loss_x", "train/loss_u", "train/pseudo_acc"},
        options=("--model.ramp", "0"),
    ),
    Row(
        "MeanTeacher",
        "mean_teacher",
        {"train/loss_x", "train/loss_u", "train/pseudo_acc"},
        options=("--model.ramp", "0"),
    ),
    Row(
        "MixMatch",
        "mixmatch",
        {"train/loss_x", "train/loss_u", "train/pseudo_acc"},
        options=("--model.ramp", "0"),
        exact=("--model.alpha", "0"),
    ),
    Row(
        "UDA",
        "uda",
        _PSEUDO | {"train/unseen_rate", "train/labeled_rate"} | _classes("threshold"),
        options=(
            *("--model.threshold", "0.15", "--model.class_thresholds", "true"),
            *("--model.annealing", "log"),
        ),
        compares="all",
    ),
    Row(
        "DeFixMatch",
        "defixmatch",
        _PSEUDO | {"train/loss_anti"},
        options=("--model.threshold", "0.15"),
    ),
    Row(
        "ReFixMatch",
        "refixmatch",
        _PSEUDO | {"train/loss_soft"},
        options=("--model.threshold", "0.15"),
    ),
    Row(
        "SequenceMatch",
        "sequencematch",
        _PSEUDO | {"train/loss_sequence", "train/unseen_rate"} | _classes("threshold"),
        # That classes are remembered from the first step on.
        options=("--model.threshold", "0.15"),
        compares="all",
    ),
    Row(
        "CoMatch",
        "comatch",
        _PSEUDO
        | {"train/loss_contrast", "train/neighbors", "train/bank_rate"}
        | _classes("predicted"),
        # The bank is full after one step.
        options=(
            *("--model.threshold", "0.1", "--model.graph_threshold", "0.1"),
            *("--model.bank_size", "20", "--model.heads", "2"),
        ),
        compares="all",
    ),
    Row(
        "Dash",
        "dash",
        _PSEUDO | {"train/rho"},
        options=("--model.warmup", "0.25", "--model.period", "1"),
        compares="all",
    ),
    Row(
        "SimMatch",
        "simmatch",
        _PSEUDO | {"train/loss_instance", "train/bank_rate"} | _classes("predicted"),
        options=("--model.threshold", "0.1", "--model.warmup", "1", "--model.heads", "2"),
        compares="all",
    ),
    Row(
        "RegMixMatch",
        "regmixmatch",
        _PSEUDO
        | {"train/loss_fairness", "train/loss_mix", "train/loss_cam"}
        | _classes("threshold"),
        options=("--model.mix_threshold", "0.15"),
        # Partners are drawn by each rank, among its own images.
        exact=("--model.lambda_mix", "0", "--model.lambda_cam", "0"),
        compares="all",
    ),
    Row(
        "MOAM",
        "moam",
        {"train/loss_x", "train/loss_rotation", "train/loss_vat", "train/loss_entropy"},
    ),
]
STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
each_method = pytest.mark.parametrize("row", ROWS, ids=str)
STATELESS = {
    "CRMatch",
    "DeFixMatch",
    "PiModel",
    "ReFixMatch",
    "S4LRotation",
    "SimCLR",
    "UDA",
    "VMFSNE",
}


def _each(*compares: str) -> Any:
    return pytest.mark.parametrize("row", [r for r in ROWS if r.compares in compares], ids=str)


# BatchNorm sees a rank's slice alone, so equality over ranks and accumulation needs a network
# without; float64 leaves only the order of additions.
EXACT = (
    *("--model.backbone_args", "{norm: none, bn_momentum: 0.1}"),
    *("--model.optimizer.lr", "0.01", "--trainer.precision", "64-true"),
)


def start(row: Row, run_dir: str, steps: int, *args: str) -> Any:
    """Train a few steps in which every part of the loss counts."""
    each = ("--trainer.log_every_n_steps", "1")  # or nothing of so short a run is written
    cli = fit(row.name, run_dir, steps, *each, *row.options, *args)
    if "train/mask_rate" in row.logged:
        assert cli.trainer.callback_metrics["train/mask_rate"] > 0
    return cli


def test_there_is_a_row_for_each_method() -> None:
    assert {row.name for row in ROWS} | {"SSLModule"} == set(methods.__all__)


@each_method
def test_the_paper_config_trains_evaluates_and_predicts(row: Row) -> None:
    cli: Any = run(["fit", "-c", row.config, *SMALL, "--model.backbone_args", "null", *row.options,
                    "--run_dir", "a", "--trainer.max_steps", "4", "--trainer.val_check_interval",
                    "4", "--trainer.log_every_n_steps", "1", "--report", "true",
                    "--model.optimizer.lr", "0.007"])  # fmt: skip
    assert type(cli.model).__name__ == row.name
    assert check_page(Path("a/report.html").read_text()).ids() == [
        *("run", "data", "views", "curves", "test"),
    ]
    with Path("a/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) - {"epoch", "step"} == (
        {"train/loss", "train/lr"}
        | {f"test/{name}" for name in ("acc", "acc_top5", "balanced_acc", "ece", "f1", "nll")}
        | row.logged
    )
    checkpoint = "a/checkpoints/last.ckpt"
    (tested,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=checkpoint, verbose=False)
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    (validated,) = cli.trainer.validate(cli.model, cli.datamodule, checkpoint, verbose=False)
    again = run(["test", "--ckpt_path", checkpoint, *quiet]).trainer.callback_metrics
    assert tested == validated == {name: value.item() for name, value in again.items()}

    run(["predict", "--ckpt_path", checkpoint, "--data.dataset", "digits", *quiet])
    with Path("predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    assert [line["path"] for line in predicted] == [str(i) for i in range(360)]
    targets = cli.datamodule.source.test.targets.tolist()
    right = sum(int(p["label"]) == t for p, t in zip(predicted, targets, strict=True))
    assert right / 360 == pytest.approx(tested["test/acc"], abs=1e-6)
    assert all(0.1 <= float(line["probability"]) <= 1 for line in predicted)

    loaded = getattr(methods, row.name).load_from_checkpoint(checkpoint).eval()
    assert (loaded.optimizer.lr, loaded.num_classes) == (0.007, 10)
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(loaded(images), cli.model.eval()(images), rtol=0, atol=0)


# What of a run these store is what others store, too.
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow) if row.name in STATELESS else row for row in ROWS],
    ids=str,
)
@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_goes_on_bit_for_bit(row: Row, accumulated: int) -> None:
    steps = 6
    options = [
        *("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",),
        *("--trainer.callbacks.filename", "each", "--trainer.callbacks.every_n_train_steps", "1"),
        *("--trainer.accumulate_grad_batches", str(accumulated), "--data.steps_per_epoch", "4"),
        *("--trainer.val_check_interval", "2"),
    ]
    killed = ("--trainer.callbacks+=probes.Leave", "--trainer.callbacks.step", "5",
              "--trainer.callbacks.checkpoint", "whole/checkpoints/each.ckpt")  # fmt: skip
    start(row, "whole", steps, *options, *killed)
    assert torch.load("left.ckpt", weights_only=True)["global_step"] == 5 // accumulated
    start(row, "resumed", steps, *options, "--ckpt_path", "left.ckpt")
    whole, resumed = load("whole"), load("resumed")
    assert whole["global_step"] == resumed["global_step"] == steps
    assert [d for name in STATES for d in differences(whole[name], resumed[name], name)] == []
    assert (
        whole["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
        == (resumed["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"])
    )


@_each("none")
def test_accumulation_equals_one_large_batch(row: Row) -> None:
    same = (*row.exact, *without_views(row))
    start(row, "two", 3, *EXACT, *same, "--trainer.accumulate_grad_batches", "2",
        "--trainer.val_check_interval", "6")  # fmt: skip
    start(row, "one", 3, *EXACT, *same,
        "--data.batch_size", "16", "--data.unlabeled_batch_size", "32")  # fmt: skip
    _assert_close(load("two")["current_model_state"], load("one")["current_model_state"])


@each_method
def test_the_seed_decides_everything_hidden_targets_nothing_and_precision_little(row: Row) -> None:
    # Where a temperature magnifies rounding, weights must not move far in three steps.
    slow = ("--model.optimizer.lr", "0.001") if row.rounding else ()
    options = (*slow, "--trainer.log_every_n_steps", "1")
    start(row, "known", 3, *options)
    start(row, "poisoned", 3, *options, "--trainer.callbacks+=probes.PoisonTargets")
    start(row, "other", 3, *options, "--seed_everything", "1")
    known, poisoned, other = load("known"), load("poisoned"), load("other")
    assert [d for n in STATES for d in differences(known[n], poisoned[n], n)] == []
    assert differences(known["state_dict"], other["state_dict"]) != []

    cli = start(row, "half", 3, *options, "--trainer.precision", "bf16-mixed")
    assert next(cli.model.parameters()).dtype == torch.float32
    losses = _losses("half")
    assert losses == pytest.approx(_losses("known"), rel=0.03, abs=row.rounding)
    assert losses != _losses("known")


def _losses(run_dir: str) -> list[float]:
    with Path(run_dir, "metrics.csv").open() as file:
        return [float(r["train/loss"]) for r in csv.DictReader(file) if r["train/loss"]]


OWN_WAYS = {"FixMatch", "PAWS", "CRMatch", "MeanTeacher"}
FROZEN = ("--model.freeze_backbone", "true")


@pytest.mark.parametrize(
    "row",
    # Those that handle the network's mode or average themselves, and one of each family.
    [r if r.name in OWN_WAYS else pytest.param(r, marks=pytest.mark.slow) for r in ROWS],
    ids=str,
)
def test_a_frozen_network_stays_as_it_is_and_is_stored_once(row: Row) -> None:
    state = build_backbone("wrn_10_1").state_dict()
    torch.save({f"backbone.{name}": value for name, value in state.items()}, "network.pt")
    warm = ("--model.weights", "network.pt", "--model.weights_strict", "false")
    cli = start(row, "a", 3, *FROZEN, *warm)
    checkpoint = load("a")
    for name in STATES[:2]:
        kept = {f"backbone.{key}": checkpoint[name][f"backbone.{key}"] for key in state}
        assert differences(kept, torch.load("network.pt")) == []
    assert differences(checkpoint["state_dict"], checkpoint["current_model_state"]) != []
    held = {p for group in cli.trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {p for p in cli.model.parameters() if p.requires_grad}
    assert held.isdisjoint(cli.model.backbone.parameters())
    twice = [checkpoint[name]["backbone.stem.weight"].data_ptr() for name in STATES[:2]]
    assert twice[0] == twice[1]


def test_a_frozen_run_resumes_bit_for_bit() -> None:
    row = next(row for row in ROWS if row.name == "MeanTeacher")
    each = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
            "--trainer.callbacks.filename", "each", "--trainer.callbacks.every_n_train_steps", "1",
            "--trainer.callbacks+=probes.Leave", "--trainer.callbacks.step", "3",
            "--trainer.callbacks.checkpoint", "whole/checkpoints/each.ckpt")  # fmt: skip
    start(row, "whole", 5, *FROZEN, *each)
    start(row, "resumed", 5, *FROZEN, "--ckpt_path", "left.ckpt")
    whole, resumed = load("whole"), load("resumed")
    assert [d for name in STATES for d in differences(whole[name], resumed[name], name)] == []


def without_views(row: Row) -> tuple[str, str]:
    """Every view is the image itself: what is drawn depends on the step."""
    method = getattr(methods, row.name)
    sizes = {"image_side": 8} if "image_side" in signature(method).parameters else {}
    views = method(2, backbone="wrn_10_1", **sizes).views
    names = sorted({name for declared in views.values() for name in declared})
    return "--data.views", f"{{{', '.join(f'{name}: torch.nn.Identity' for name in names)}}}"


@pytest.mark.ddp
@_each("rank")
def test_two_ranks_equal_accumulation(row: Row, two_ranks: Any) -> None:
    options = (*EXACT, *without_views(row))
    start(row, "one", 3, *options, "--trainer.accumulate_grad_batches", "2",
        "--trainer.val_check_interval", "6")  # fmt: skip
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    double = ("--data.batch_size", "16", "--data.unlabeled_batch_size", "32")
    two_ranks.run(_start, row, "two", 3, *options, *double, *ddp)
    _assert_close(load("one")["current_model_state"], load("two")["current_model_state"])


@pytest.mark.ddp
@_each("none", "all")
def test_two_ranks_equal_one(row: Row, two_ranks: Any) -> None:
    options = (*EXACT, *row.exact, "--model.ema_decay", "0.5")
    start(row, "one", 3, *options)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_start, row, "two", 3, *options, *ddp)
    one, two = load("one"), load("two")
    for name in ("current_model_state", "state_dict"):
        _assert_close(one[name], two[name])


def _start(*args: Any) -> None:
    start(*args)


def _assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64
        torch.testing.assert_close(value, second[name], rtol=1e-10, atol=1e-10, msg=name)
