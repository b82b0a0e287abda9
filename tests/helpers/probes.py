"""Callbacks that tests name on the command line."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger


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


class Terminate(Callback):
    """Send SIGTERM to this process at the beginning of a step."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class PoisonGradients(Callback):
    """Make the gradients of one update NaN, the loss before it being fine."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))


class Elsewhere(Logger):
    """A logger that keeps its files in a folder of its own."""

    name, version = "elsewhere", "0"

    @property
    def save_dir(self) -> str:
        return "elsewhere"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        Path("elsewhere").mkdir(exist_ok=True)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class TerminateEarly(Callback):
    """Send SIGTERM to this process before its first step."""

    def __init__(self, hook: str, rank: int = 0) -> None:
        self.rank = rank
        setattr(self, hook, self.send)

    def send(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class Announce(Callback):
    """Write a file with the process's number at a moment of the run, and stay there for a while."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def here(self, moment: str, trainer: Any) -> None:
        file = Path(f"{moment}.{trainer.global_rank}")
        if moment == self.moment and not file.exists():
            Path(f"{file}.new").write_text(str(os.getpid()))
            os.rename(f"{file}.new", file)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                time.sleep(0.05)

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self.here("setup", trainer)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 3:
            self.here("training", trainer)

    def on_validation_batch_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        self.here("sanity" if trainer.sanity_checking else "validation", trainer)
