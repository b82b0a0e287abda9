"""A run that is told to end: save what can be continued exactly, then leave."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_ssl.callbacks.checkpoint import RunCheckpoint
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.lightning_private import leave_signals

_STATUS = 128 + signal.SIGTERM  # as shells have it: 128 and the number of the signal


class Termination(Callback):
    """On SIGTERM, save after the update that is being made, and end with status 143.

    Under SLURM the same happens on SIGUSR1, and the job is put back into the queue. Lightning's own
    handlers, which this one replaces, end with status 0 without saving, save in the middle of an
    update, or make one process wait for another that has left. Processes that train together agree
    before the first update, and then as often as values are logged; nothing else makes one leave.
    """

    def __init__(self) -> None:
        self._earlier: dict[int, Any] = {}  # handlers of before, while this one listens
        self._signal = 0  # that this process got
        self._agreed = 0  # that one of all processes got
        self._begun = False
        self._saved = False

    def listen(self, trainer: Trainer) -> None:
        """Listen, from now until :meth:`forget`.

        Args:
            trainer: The trainer, best before it has started further processes.
        """
        if self._earlier:
            return
        self._signal, self._agreed, self._begun, self._saved = 0, 0, False, False
        leave_signals(trainer)

        def note(number: int, frame: FrameType | None) -> None:
            self._signal = number
            if trainer.world_size == 1 and not self._begun:
                self._leave(trainer)

        numbers = [signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ:
            numbers.append(signal.SIGUSR1)
        self._earlier = {number: signal.signal(number, note) for number in numbers}
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "procs"):
            threading.Thread(target=self._watch, args=(launcher,), daemon=True).start()

    def _watch(self, launcher: Any) -> None:
        """End with a process of ours that was told to before it could listen.

        This one may wait for it where no handler is called.
        """
        while self._earlier and not self._begun:
            time.sleep(0.1)
            if any(p.poll() in (-signal.SIGTERM, _STATUS) for p in launcher.procs):
                launcher.kill(signal.SIGKILL)
                print("Ended by SIGTERM before the first update.", file=sys.stderr, flush=True)
                os._exit(_STATUS)

    def forget(self) -> None:
        """Give back the handlers of before."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen, where nobody has asked for it earlier."""
        if stage == "fit":
            self.listen(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        self.forget()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more, likewise."""
        self.forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave where the signal came before the first step.

        Raises:
            SystemExit: With 143.
        """
        if self._told(trainer):
            self._leave(trainer)
        self._begun = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint, once an update is complete."""
        done = trainer.fit_loop.total_batch_idx + 1
        interval = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        if self._saved or (trainer.world_size > 1 and not self._agreed and done % interval):
            return
        if self._told(trainer) and done % trainer.accumulate_grad_batches == 0:
            for callback in find_callbacks(trainer, RunCheckpoint):
                callback.save_soon = True
            self._saved = True

    def _told(self, trainer: Trainer) -> bool:
        """Whether one of all processes got a signal; they have to ask together."""
        if trainer.world_size == 1:  # without asking the device
            self._agreed = self._signal
            return self._agreed > 0
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        # Of several signals the one that does not put the job back into the queue.
        self._agreed = self._agreed or int(trainer.strategy.reduce(number, reduce_op="max"))
        return self._agreed > 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave: what was asked for is written, after a validation that was due.

        Raises:
            SystemExit: With 143.
        """
        if self._saved:
            self._leave(trainer)

    def _leave(self, trainer: Trainer) -> NoReturn:
        name = signal.Signals(self._agreed or self._signal).name
        if not self._saved:
            said = f"Ended by {name} before the first update; nothing had to be saved."
        elif find_callbacks(trainer, RunCheckpoint):
            said = (
                f"Ended by {name} after {trainer.global_step} updates. The same command with "
                "--ckpt_path last goes on from there."
            )
        else:
            said = (
                f"Ended by {name} after {trainer.global_step} updates. Nothing was saved: the run "
                "has no checkpoint callback of this package."
            )
        rank_zero_info(said)
        if name == "SIGUSR1" and trainer.is_global_zero:
            _requeue()
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "procs"):
            launcher.procs.clear()  # or Lightning kills this process when one of them has left
        raise SystemExit(_STATUS)

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
