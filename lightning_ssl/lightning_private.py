"""The private names of Lightning's that this package uses, in the one place where it uses them.

They are what a new minor release of Lightning may change without a word. `PRIVATE_NAMES` lists
them, and tests/test_lightning_private.py says which of them is gone and what needed it. All other
modules take the functions and base classes below.
"""

import sys
from collections.abc import Iterator
from typing import Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities import rank_zero_warn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

_CALLBACKS = "pytorch_lightning.callbacks"
_LOOPS = "pytorch_lightning.loops"
_RESET = "pytorch_lightning.utilities.combined_loader._shutdown_workers_and_reset_iterator"

# Owner, private name, what needs it and why no public name will do. Owners are written out, so
# that one which is gone fails a test and not every import of this package.
PRIVATE_NAMES: tuple[tuple[str, str, str], ...] = (
    (
        f"{_CALLBACKS}.WeightAveraging",
        "_average_model",
        "`average_of`: the teacher and `EMA` need the averaged weights while a run trains",
    ),
    (
        f"{_CALLBACKS}.ModelCheckpoint",
        "_should_skip_saving_checkpoint",
        "`may_save`: only the callback knows which update it saved last",
    ),
    (
        f"{_CALLBACKS}.ModelCheckpoint",
        "_save_none_monitor_checkpoint",
        "`save_newest`: the last update is saved, and hooks save at multiples of an interval only",
    ),
    (
        f"{_CALLBACKS}.ModelCheckpoint",
        "_monitor_candidates",
        "`save_newest`: the argument of `_save_none_monitor_checkpoint`",
    ),
    (
        f"{_LOOPS}.training_epoch_loop._TrainingEpochLoop",
        "_should_check_val_fx",
        "`validation_is_due`: `RunCheckpoint` has to know it before Lightning validates",
    ),
    (
        f"{_LOOPS}.fit_loop._FitLoop",
        "_data_fetcher",
        "`validation_is_due`: the argument of `_should_check_val_fx`",
    ),
    (
        f"{_CALLBACKS}.RichProgressBar",
        "_update_metrics",
        "`ProgressBar.update_metrics`: the other hooks read the values in every step",
    ),
    (
        f"{_CALLBACKS}.RichProgressBar",
        "_get_train_description",
        "`ProgressBar.describe_training`: the text is made where the bar is",
    ),
    (
        "pytorch_lightning.cli.LightningCLI",
        "_parse_ckpt_path",
        "`CommandLine`: a checkpoint's hyper-parameters would silently overrule flags",
    ),
    (
        "pytorch_lightning.cli.LightningCLI",
        "_set_seed",
        "`CommandLine.only_parses`: checking a comparison must not seed the process",
    ),
    (
        "pytorch_lightning.cli.LightningCLI",
        "_run_subcommand",
        "`CommandLine.only_parses`: without `run` there are no subcommands, whose options are read",
    ),
    (
        "pytorch_lightning.Trainer",
        "_signal_connector",
        "`leave_signals`: its handler of SIGTERM waits for processes that may have left",
    ),
    (
        _RESET,
        "_iterator",
        "`WrappedLoader`: by this name Lightning finds the workers that it ends with a run",
    ),
    (
        "torch.utils.data.DataLoader",
        "_iterator",
        "`WrappedLoader`: what it has to show to Lightning",
    ),
)


def average_of(callback: WeightAveraging) -> AveragedModel | None:
    """Averaged weights that a callback keeps.

    Args:
        callback: The callback.

    Returns:
        The average, whose ``module`` is a copy of the method; None before a fit.
    """
    return callback._average_model


def may_save(callback: ModelCheckpoint, trainer: Trainer) -> bool:
    """Whether a callback may write a checkpoint now: while training, once in an update.

    Args:
        callback: The callback.
        trainer: The trainer.
    """
    return not callback._should_skip_saving_checkpoint(trainer)


def save_newest(callback: ModelCheckpoint, trainer: Trainer) -> None:
    """Write the checkpoint of a callback that monitors nothing, in the place of its last one.

    Args:
        callback: The callback.
        trainer: The trainer.
    """
    callback._save_none_monitor_checkpoint(trainer, callback._monitor_candidates(trainer))


def validation_is_due(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that ends.

    Args:
        trainer: The trainer, inside ``on_train_batch_end``.
    """
    loop = trainer.fit_loop
    due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
    return due and not loop.epoch_loop.val_loop.skip  # which is so where there are no images


def leave_signals(trainer: Trainer) -> None:
    """Keep Lightning from handling signals, for a callback that does.

    Args:
        trainer: The trainer, before it runs.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def warn_of_twin() -> None:
    """Say why a trainer of the package ``lightning`` will refuse a method, which it cannot explain.

    Its classes are others than those of ``pytorch_lightning``, and it takes only its own.
    """
    if "lightning.pytorch" in sys.modules:
        rank_zero_warn(
            "The package `lightning` is imported, whose Trainer says of our methods that `model` "
            "must be a `LightningModule`: take Trainer, callbacks and loggers from "
            "`pytorch_lightning`."
        )


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Trainer that runs a module, in place of its private `_trainer`.

    Args:
        module: The module.

    Returns:
        The trainer; None for a step by hand, or by Fabric, whose stand-in knows nothing of a run.
    """
    if module.fabric is not None:
        return None
    try:
        return module.trainer
    except RuntimeError:  # Lightning's answer where there is none
        return None


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar with two further hooks, for a class of ours to override."""

    def update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the logged values and show them.

        Args:
            trainer: The trainer.
            pl_module: The method.
        """
        super()._update_metrics(trainer, pl_module)

    def describe_training(self, current_epoch: int) -> str:
        """Text before the bar.

        Args:
            current_epoch: The epoch that begins.
        """
        return super()._get_train_description(current_epoch)

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.update_metrics(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        return self.describe_training(current_epoch)


class CommandLine(LightningCLI):
    """Lightning's command line, which takes no hyper-parameters from ``--ckpt_path`` by itself."""

    only_parses: ClassVar[bool] = False
    """Whether it neither seeds the process nor runs the subcommand."""

    def _parse_ckpt_path(self) -> None:
        pass

    def _set_seed(self) -> None:
        if not self.only_parses:
            super()._set_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.only_parses:
            super()._run_subcommand(subcommand)


class WrappedLoader:
    """Items of a ``DataLoader`` that Lightning does not recognise, but whose workers it ends.

    Left to the garbage collector each of them takes five seconds to end.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    @property
    def _iterator(self) -> Any:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self._loader._iterator = value
