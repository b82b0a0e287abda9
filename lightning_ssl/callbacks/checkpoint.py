"""Checkpoints: what a run can be continued from, and the weights to use."""

import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_ssl.evaluation.metrics import SMALLER_IS_BETTER
from lightning_ssl.files import save
from lightning_ssl.lightning_private import may_save, save_newest, validation_is_due

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on disk, and renames it.

    It reads without unpickling unless that is asked for; before 2.6 PyTorch unpickled by itself.

    Lightning writes to the temporary directory, which may be on another file system, and copies:
    killed in between, or with a full disk, it leaves a cut file in the place of a good one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: The file; a remote one is left to Lightning.
            storage_options: Not known, as with Lightning.

        Raises:
            OSError: If it cannot be written, such as on a full disk; the earlier one is kept.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        save(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: Where its tensors go, as of ``torch.load``; None for the CPU.
            weights_only: False to unpickle what it holds.
        """
        where = (lambda storage, place: storage) if map_location is None else map_location
        return super().load_checkpoint(path, where, weights_only is not False)


def use_own_files(trainer: Trainer) -> None:
    """Write and read checkpoints in our way, unless the trainer has one of its own.

    Args:
        trainer: The trainer, before it has opened a checkpoint.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def _is_loss(name: str) -> bool:
    return name.endswith(SMALLER_IS_BETTER) or name.startswith("train/loss")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback with the rules of this package.

    A file is replaced in one step, when it is complete. The last update of a run is always saved by
    a callback that monitors nothing. Where the data has no validation part nothing is monitored, so
    that nothing is selected on the test set. And a checkpoint is only written after an optimizer
    update, never inside an accumulation.

    Args:
        filename: Name of the file, without its ending.
        dirpath: Folder of the file.
        monitor: Logged name to select by, such as ``val/acc``; None keeps the newest.
        mode: Whether the smallest (``min``) or the largest (``max``) value is best; None for the
            smallest of losses, ``nll`` and ``ece``, the largest of others.
        every_n_train_steps: Optimizer updates between two files; None saves after validations.
        save_weights_only: Whether the file holds what predictions need and nothing else: the
            weights that are evaluated and the record, a small part of what a run goes on from.
    """

    def __init__(
        self,
        filename: str,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: str | None = None,
        every_n_train_steps: int | None = None,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode or ("min" if _is_loss(monitor or "") else "max"),
            every_n_train_steps=every_n_train_steps,
            save_weights_only=save_weights_only,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_train_steps = every_n_train_steps or 0
        self.save_soon = False  # after this update, whatever the interval
        self._save_after_validation = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the intervals and drop the monitor where there is nothing to select on.

        Raises:
            ValueError: If a validation could fall inside an accumulation.
        """
        if stage == "fit":
            # Lightning has no such attribute where the interval is a time.
            interval = getattr(trainer, "val_check_interval", None)
            accumulated = trainer.accumulate_grad_batches
            if isinstance(interval, int) and interval % accumulated:
                raise ValueError(
                    "`trainer.val_check_interval` must be a multiple of "
                    f"`trainer.accumulate_grad_batches` ({accumulated}), got {interval}: a "
                    "checkpoint inside an accumulation could not be resumed exactly."
                )
            data = trainer.datamodule  # type: ignore[attr-defined]
            if not getattr(data, "has_validation", True):
                self.monitor = None
        use_own_files(trainer)
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """Files by their names alone: the folder may be moved or copied."""
        state = super().state_dict()
        best = {os.path.basename(p): score for p, score in state["best_k_models"].items()}
        names = {key: os.path.basename(state[key]) for key in _PATHS}
        return {**state, "dirpath": "", "best_k_models": best, **names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the files in the folder of this run.

        Args:
            state_dict: What :meth:`state_dict` returned, or that of an older version.
        """
        assert self.dirpath is not None  # known since setup

        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else ""

        best = {here(p): score for p, score in state_dict.get("best_k_models", {}).items()}
        paths = {key: here(state_dict.get(key, "")) for key in _PATHS}
        state = {**state_dict, "dirpath": self.dirpath, "best_k_models": best, **paths}
        super().load_state_dict(state)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save after the last update too, and only after a validation that is due now.

        A run resumed from a checkpoint in between would never make up for that validation, and
        ``best`` could be another one than without the interruption.
        """
        if self.monitor is not None:
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
            return
        # Not in on_train_end: the averaged weights have replaced the trained ones by then.
        is_last = trainer.global_step == trainer.estimated_stepping_batches
        every = self.every_n_train_steps
        wanted = is_last or self.save_soon or (every > 0 and trainer.global_step % every == 0)
        self.save_soon = False
        if not wanted or not may_save(self, trainer):
            return
        if validation_is_due(trainer):
            self._save_after_validation = True
        else:
            save_newest(self, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for the validation."""
        if not self._save_after_validation:
            super().on_validation_end(trainer, pl_module)
            return
        self._save_after_validation = False
        if may_save(self, trainer):
            save_newest(self, trainer)
