"""A run that is told to end: save what can be continued exactly, then leave."""

import os
import signal
import subprocess
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_ssl.callbacks.checkpoint import RunCheckpoint
from lightning_ssl.callbacks.find import find_callbacks


class Termination(Callback):
    """On SIGTERM, save after the update that is being made, and end with status 143.

    Under SLURM the same happens on SIGUSR1, and the job is put back into the queue. Lightning's own
    handlers, which this one replaces, end with status 0 without saving, or save in the middle of
    an update. Processes that train together agree as often as values are logged.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen; Lightning has set its handlers by now, and will put back the earlier ones.

        Raises:
            SystemExit: With 143, where the signal came before the first step.
        """
        if trainer.received_sigterm:
            rank_zero_info("Ended by SIGTERM before the first update; nothing had to be saved.")
            raise SystemExit(128 + signal.SIGTERM)
        self._signal, self._saved = None, False

        def note(number: int, frame: FrameType | None) -> None:
            launcher: Any = trainer.strategy.launcher
            if self._signal is None and launcher is not None:
                launcher.kill(number)  # the processes that this one started
            self._signal = number

        signal.signal(signal.SIGTERM, note)
        if "SLURM_JOB_ID" in os.environ:
            signal.signal(signal.SIGUSR1, note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint, once an update is complete."""
        if self._saved or not self._told(trainer):
            return
        if (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            for callback in find_callbacks(trainer, RunCheckpoint):
                callback.save_soon = True
            self._saved = True

    def _told(self, trainer: Trainer) -> bool:
        told = self._signal is not None
        if trainer.world_size == 1:
            return told
        interval = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        if (trainer.fit_loop.total_batch_idx + 1) % interval:
            return False
        return trainer.strategy.reduce_boolean_decision(told, all=False)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave: what was asked for is written, after a validation that was due.

        Raises:
            SystemExit: With 143, as shells have it: 128 and the number of the signal.
        """
        if not self._saved:
            return
        name = signal.Signals(self._signal or signal.SIGTERM).name
        saved = bool(find_callbacks(trainer, RunCheckpoint))
        rank_zero_info(
            f"Ended by {name} after {trainer.global_step} updates. "
            + (
                "The same command with --ckpt_path last goes on from there."
                if saved
                else "Nothing was saved: the run has no checkpoint callback of this package."
            )
        )
        if name == "SIGUSR1" and trainer.is_global_zero:
            _requeue()
        raise SystemExit(128 + signal.SIGTERM)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once: nothing is trained that could be saved."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once, likewise."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _requeue() -> None:
    """Put this SLURM job, or this task of an array, back into the queue."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{task}"
    subprocess.run(["scontrol", "requeue", job], check=False)
