"""What Lightning offers besides: finders, early stopping, datamodules used alone."""

import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
)
from pytorch_lightning.tuner import Tuner

from lightning_ssl.callbacks import RunCheckpoint
from lightning_ssl.cli import run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import FixMatch
from lightning_ssl.optim import Optimizer, Schedule, multiplier
from lightning_ssl.types import Batch, Samples

from runs import fit, load


def digits(**options: Any) -> SSLDataModule:
    small: dict[str, Any] = {"num_labels": 20, "batch_size": 8, "unlabeled_batch_size": 16}
    return SSLDataModule("digits", **{**small, **options})


def method(**options: Any) -> FixMatch:
    return FixMatch(10, **{"backbone": "wrn_10_1", **options})


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        **{"max_steps": 2, "accelerator": "cpu", **quiet, **options},
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_setting_the_rate_changes_what_is_recorded() -> None:
    module = method()
    assert module.lr == 0.03
    module.lr = 0.5
    assert module.optimizer == Optimizer(lr=0.5)
    assert module.hparams["optimizer"].lr == 0.5
    with pytest.raises(ValueError, match=r"`optimizer\.lr` must be at least 0"):
        module.lr = -1


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(warmup=2)], ids=["cosine", "warm-up"])
def test_a_run_follows_the_rate_that_the_finder_found(schedule: Schedule) -> None:
    module, rates = method(schedule=schedule), Rates()
    finder = LearningRateFinder(num_training_steps=15, min_lr=1e-4, max_lr=0.1)
    runner = trainer(finder, rates, max_steps=4)
    runner.fit(module, digits())
    found = finder.optimal_lr.suggestion()
    assert found not in (None, 0.03)
    assert module.lr == found
    assert rates.seen == pytest.approx([found * multiplier(i, 4, schedule) for i in range(4)])
    runner.save_checkpoint("it.ckpt")
    assert FixMatch.load_from_checkpoint("it.ckpt").lr == found


def test_a_run_that_began_with_the_finder_goes_on_with_its_rate() -> None:
    """By its own config, which names the finder: the rate is not searched again."""
    began = fit("FixMatch", "a", 4, "--trainer.callbacks+=LearningRateFinder",
                "--trainer.callbacks.num_training_steps", "15")  # fmt: skip
    found = began.model.lr
    assert found != 0.03
    again = run(["fit", "-c", "a/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "6"])
    assert again is not None
    assert again.model.lr == found
    assert load("a")["global_step"] == 6


def test_the_tuner_finds_a_rate() -> None:
    module, runner = method(), trainer()
    found = Tuner(runner).lr_find(module, digits(), num_training=15, min_lr=1e-4, max_lr=0.1)
    assert module.lr == found.suggestion()


@pytest.mark.parametrize("name", ["batch_size", "unlabeled_batch_size", "eval_batch_size"])
@pytest.mark.parametrize("call", ["fit", "validate", "test", "predict"])
def test_a_search_for_batch_sizes_is_refused(call: str, name: str) -> None:
    runner, data = trainer(BatchSizeFinder(batch_arg_name=name)), digits()
    before = getattr(data, name)
    with pytest.raises(ValueError, match="must not hold a BatchSizeFinder"):
        getattr(runner, call)(method(), datamodule=data)
    assert getattr(data, name) == before


@pytest.mark.parametrize(
    ("callback", "name", "val_per_class", "known"),
    [
        (EarlyStopping, "val/acc", 0, "test/acc, test/acc_top5, test/balanced_acc, test/ece"),
        (ModelCheckpoint, "val/ece", 0, "test/acc"),
        (EarlyStopping, "val_loss", 1, "val/acc, val/acc_top5, val/balanced_acc, val/ece, val/f1"),
        (EarlyStopping, "test/acc", 1, "val/acc"),
        (ModelCheckpoint, "acc", 1, "val/acc"),
        (partial(RunCheckpoint, "best"), "val/accuracy", 1, "val/acc"),
        (partial(RunCheckpoint, "best"), "val/accuracy", 0, "val/acc"),
        (partial(RunCheckpoint, "best"), "test/acc", 1, "val/acc"),
    ],
)
def test_a_monitor_that_nothing_logs_is_refused_at_the_start(
    callback: Any, name: str, val_per_class: int, known: str
) -> None:
    with pytest.raises(ValueError, match=f"must be one of {known}.*got '{name}'"):
        trainer(callback(monitor=name), enable_checkpointing=True).fit(
            method(), digits(val_per_class=val_per_class)
        )


@pytest.mark.parametrize(
    ("callback", "val_per_class"),
    [
        (EarlyStopping("val/acc"), 1),
        (EarlyStopping("test/acc"), 0),
        (EarlyStopping("train/loss", check_on_train_epoch_end=True), 0),
        (RunCheckpoint("best", monitor="val/acc"), 0),
        (RunCheckpoint("best", monitor="val/balanced_acc"), 1),
    ],
)
def test_a_monitor_that_is_logged_is_taken(callback: Any, val_per_class: int) -> None:
    runner = trainer(callback, enable_checkpointing=True, log_every_n_steps=1, max_steps=1)
    runner.fit(method(), digits(val_per_class=val_per_class))
    assert runner.global_step == 1


def test_the_clock_alone_leaves_the_length_of_the_schedule() -> None:
    clock = ("--trainer.max_time", "00:00:00:01", "--trainer.val_check_interval", "100")
    cli = fit("FixMatch", "run", -1, *clock)
    assert cli.trainer.max_steps == 1000
    assert cli.trainer.global_step < 1000


@pytest.mark.parametrize("name", ["val", "test", "predict", "support"])
def test_evaluation_loaders_need_no_trainer(name: str) -> None:
    data = digits(val_per_class=1)
    data.setup("test")
    loader = getattr(data, f"{name}_dataloader")()
    images, *rest = next(iter(loader))
    assert images.dtype == torch.uint8
    assert len(rest) == (1 if name == "predict" else 2)
    assert sum(len(batch[0]) for batch in loader) == loader.num_images


def test_the_text_of_a_datamodule_reads_nothing() -> None:
    assert str(SSLDataModule("folder", root="nowhere")) == "SSLDataModule('folder')"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda data: data.setup("fit"), r"`setup\('fit'\)` of SSLDataModule needs a trainer"),
        (lambda data: data.train_dataloader(), "`train_dataloader` of SSLDataModule needs a"),
    ],
)
def test_training_needs_one(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(digits())


IMAGES, TARGET = torch.zeros(1, 4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
LABELED = {"views": {"weak": IMAGES}, "target": TARGET}
UNLABELED = {"views": {"weak": IMAGES, "strong": IMAGES}}
BATCHES = [
    (IMAGES[0], r"`batch` must be .*got a tensor of shape \(4, 3, 8, 8\)"),
    ([IMAGES[0], TARGET], "`batch` must be .*got a list of 2"),
    ((LABELED, UNLABELED), "`batch` must be .*got a (tuple|list) of 2"),
    ({"images": IMAGES}, r"keys of .*got \('images',\)"),
    ({"labeled": LABELED}, "must have 'unlabeled', which the method needs"),
    ({"unlabeled": UNLABELED}, "must have 'labeled', which the method needs"),
    ({"labeled": [IMAGES[0], TARGET], "unlabeled": UNLABELED}, "`batch.'labeled'.` must be a dict"),
    ({"labeled": LABELED, "unlabeled": IMAGES[0]}, "`batch.'unlabeled'.` must be a dict"),
    ({"labeled": {"views": {"weak": IMAGES}}, "unlabeled": UNLABELED}, "must have 'target'"),
    ({"labeled": {"target": TARGET}, "unlabeled": UNLABELED}, "'views' at least"),
    ({"labeled": LABELED, "unlabeled": {"views": IMAGES}}, "must be a dict of images by view"),
    ({"labeled": LABELED, "unlabeled": {"views": {"weak": IMAGES}}}, "'strong', got 'weak'"),
    ({"labeled": LABELED, "unlabeled": {"views": {"weak": IMAGES[0]}}}, r"\(copies, B, C, H, W\)"),
    (
        {"labeled": LABELED, "unlabeled": {"views": {"weak": IMAGES.repeat(2, 1, 1, 1, 1)}}},
        "must have 1 copies, got 2|must have 'weak', 'strong'",
    ),
]


@pytest.mark.parametrize(("batch", "said"), BATCHES)
def test_a_batch_that_lacks_something_is_one_sentence(batch: Any, said: str) -> None:
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    with pytest.raises(ValueError, match=said) as raised:
        trainer(max_steps=1).fit(method(), loader)
    assert "tensor([" not in str(raised.value)
    with pytest.raises(ValueError, match=said):  # by hand, too
        method().training_step(batch, 0)


def test_a_step_by_hand_says_which_view_is_missing() -> None:
    batch = Batch(0, Samples({"weak": IMAGES}, TARGET), Samples({"weak": IMAGES}))
    with pytest.raises(ValueError, match="must have 'weak', 'strong', got 'weak'"):
        method().training_step(batch, 0)


def test_a_whole_batch_of_dicts_trains() -> None:
    loader = torch.utils.data.DataLoader(
        [{"labeled": LABELED, "unlabeled": UNLABELED}], batch_size=None
    )
    trainer(max_steps=1).fit(method(), loader)


@pytest.mark.parametrize("imported", [True, False])
def test_the_other_package_of_lightning_is_named(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, imported: bool
) -> None:
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    if imported:
        monkeypatch.setitem(sys.modules, "lightning.pytorch", ModuleType("lightning.pytorch"))
    method()
    assert any("from `pytorch_lightning`" in str(w.message) for w in recwarn) == imported
