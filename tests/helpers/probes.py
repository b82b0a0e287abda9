"""Callbacks that tests name on the command line."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer


class Die(Callback):
    """Interrupt the run at the beginning of a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise KeyboardInterrupt


class Leave(Callback):
    """Copy a checkpoint at the beginning of a step: what a process killed then would leave."""

    def __init__(self, checkpoint: str, step: int, copy: str = "left.ckpt") -> None:
        self.checkpoint, self.step, self.copy = checkpoint, step, copy

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            shutil.copy(self.checkpoint, self.copy)


class KillOnce(Callback):
    """Kill the process of one run at the beginning of a step, the first time only."""

    def __init__(self, run: str, step: int) -> None:
        self.run, self.step = run, step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        folder, marker = Path(trainer.default_root_dir), Path("killed")
        here = folder.name == self.run and trainer.fit_loop.total_batch_idx == self.step
        if here and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class PoisonTargets(Callback):
    """Make the hidden targets wrong."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch.unlabeled is not None:
            assert batch.unlabeled.target is None
            batch.unlabeled.hidden_target.random_(10)


class PoisonWeights(Callback):
    """Make the loss NaN from step 3 on."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch.step == 3:
            with torch.no_grad():
                next(module.parameters()).fill_(float("nan"))


class Record(Callback):
    """Keep the state after each update."""

    seen: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if len(self.seen) < trainer.global_step:
            self.seen.append({n: v.detach().clone() for n, v in module.state_dict().items()})


class NoWaiting(Callback):
    """Make every wait of the host for the device an error in steps 3 to 6."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        # The first steps choose algorithms, move the sums of the log and draw the bar.
        if index == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if torch.cuda.get_sync_debug_mode():
            self.steps.append(index)
        if index == 6:
            torch.cuda.set_sync_debug_mode("default")
