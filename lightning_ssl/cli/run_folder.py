"""The folder of a run: found, held by one process, and written to when nothing can refuse it."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lightning_ssl.callbacks import MetricsFile
from lightning_ssl.callbacks.weights_alone import is_of_weights_alone
from lightning_ssl.cli.checkpoint import open_checkpoint
from lightning_ssl.evaluation.report.record import FILES as REPORT_FILES
from lightning_ssl.files import FolderLock, check_output_folder, writing_text

HERE = "."
"""`run_dir` in a run folder's own config, which is thus true wherever the folder is."""


_RECORDS = ("config.yaml", "split.json", "metrics.csv", *REPORT_FILES)


class RunFolder(SaveConfigCallback):
    """Keeps the loggers away until training starts, then writes ``config.yaml`` and attaches them.

    By then data, network, optimizer and checkpoint were read, built and checked: a run that is
    refused leaves nothing behind, and changes nothing of the run that it should have continued.

    Args:
        parser: Of ``fit``.
        config: What was parsed and made the objects.
        record: What is written of it, see :func:`make_record`.
        lock: The folder's.
    """

    keeps_records = True
    """For the data, which would otherwise store the split beside the logs."""

    def __init__(self, parser: Any, config: Namespace, record: Namespace, lock: FolderLock) -> None:
        super().__init__(parser, config)
        self.record, self.lock = record, lock
        self._loggers: Sequence[Logger] = ()

    def hold(self, trainer: Trainer) -> None:
        """Come first of all callbacks, and take the loggers, which write when they are looked at.

        Args:
            trainer: The trainer of the run.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.remove(self)
        callbacks.insert(0, self)
        self._loggers, trainer.loggers = trainer.loggers, []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: it is too early to write."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config, and let the loggers write."""
        folder = os.path.dirname(self.lock.path)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            self.lock.acquire()
            for part in half_written(Path(folder)):
                part.unlink()
            with writing_text(os.path.join(folder, "config.yaml")) as file:
                file.write(self.parser.dump(self.record, skip_none=False))
            if hasattr(data, "store_split"):
                data.store_split(folder)
        trainer.loggers = list(self._loggers)
        options = {**pl_module.hparams, **getattr(data, "hparams", {})}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.continue_at(trainer.global_step)
            logger.log_hyperparams(options)
            logger.save()


def make_record(config: Namespace) -> Namespace:
    """What a run's own config holds: nothing of where its folder is or how it was continued.

    Args:
        config: The parsed options of ``fit``, before ``{run_dir}`` is filled in.
    """
    record = config.clone()
    record.trainer = fill(
        record.trainer, run_dir="{run_dir}"
    )  # in the form that the parser can write
    record.run_dir, record.ckpt_path = HERE, None
    return record


def fill(value: Any, **words: str) -> Any:
    """Put the run folder where a config says ``{run_dir}``, and other words likewise.

    Args:
        value: Of a config, with everything in it.
        **words: What stands for what.
    """
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(f"{{{word}}}", meaning)
        return value
    if isinstance(value, Namespace):
        return Namespace({k: fill(v, **words) for k, v in vars(value).items()})
    if isinstance(value, dict):
        return {k: fill(v, **words) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(item, **words) for item in value]
    return value


def new_run_dir(config: Namespace) -> str:
    """Name of a new folder under ``runs/``.

    Args:
        config: The parsed options of ``fit``.
    """
    method = config.model.class_path.rpartition(".")[2]
    dataset = config.data.init_args.get("dataset", config.data.class_path.rpartition(".")[2])
    return str(Path("runs", f"{method}_{dataset}_{datetime.now():%Y%m%d-%H%M%S}"))


def half_written(folder: Path) -> list[Path]:
    """Files that a killed run was about to put in the place of its records.

    Args:
        folder: The run's folder.
    """
    found = [part for name in _RECORDS for part in folder.glob(f"{name}.????????.tmp")]
    found += (folder / "checkpoints").glob("*.ckpt.????????.tmp")
    return [part for part in found if part.is_file()]


def check_folder(run_dir: str) -> None:
    """See that a run's records can be written.

    Args:
        run_dir: The run's folder; it may be missing.

    Raises:
        ValueError: If not; nothing is left on the disk.
    """
    checkpoints = [f"checkpoints/{name}.ckpt" for name in ("best", "last")]
    check_output_folder(run_dir, "run_dir", ("run.lock", *_RECORDS, *checkpoints))


def find_checkpoint(run_dir: str, word: str | None) -> str | None:
    """The file that a run is to be continued from, opened to see that this is possible.

    Args:
        run_dir: The run's folder.
        word: ``last`` or ``best``; None where nothing was asked for.

    Returns:
        Its path; None for a run from the start: ``last`` of a folder that holds no run yet.

    Raises:
        ValueError: If the folder holds a run and it was not asked for, or the file is broken.
        FileNotFoundError: If there is no ``best``.
    """
    folder = Path(run_dir, "checkpoints")
    last = folder / "last.ckpt"
    if word is None:
        held = [last] if last.exists() else sorted(folder.glob("*.ckpt"))
        if not held:
            return None
        # A batch system that starts the same script again means the same run.
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0) == 0:
            found = ["last"] if last.exists() else [str(h) for h in held if _can_go_on(h)]
            way = f"give --ckpt_path {found[0]} to continue it, or" if found else "give"
            raise ValueError(f"`run_dir` already holds a run, '{held[0]}': {way} another folder.")
        word = "last"
    path = folder / f"{word}.ckpt"
    if not path.exists():
        others = sorted(other for other in folder.glob("*.ckpt") if other.is_file())
        if word == "last" and not others:
            return None
        raise FileNotFoundError(
            f"`ckpt_path` '{word}' must be in the folder of the run, '{path}' does not exist"
            f"{_instead(others)}."
        )
    try:
        open_checkpoint(str(path))
    except ValueError as error:
        others = [other for other in sorted(folder.glob("*.ckpt")) if other != path]
        raise ValueError(f"{error}{_instead(others)}.") from error
    return str(path)


def folder_of(ckpt_path: str | None) -> str | None:
    """The folder of the run that a checkpoint lies in.

    Args:
        ckpt_path: The checkpoint; None for none.

    Returns:
        The folder; None where the file lies elsewhere.
    """
    if ckpt_path is None:
        return None
    folder = Path(ckpt_path).parent
    is_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return str(folder.parent) if is_run else None


def check_of_folder(run_dir: str, path: str) -> None:
    """Refuse to go on from a checkpoint of elsewhere in the folder of another run.

    Args:
        run_dir: The run's folder; it may be missing.
        path: The checkpoint.

    Raises:
        ValueError: If the run in the folder would be overwritten.
    """
    held = sorted(Path(run_dir, "checkpoints").glob("*.ckpt"))
    if held and not Path(path).resolve().is_relative_to(Path(run_dir).resolve()):
        raise ValueError(
            f"`run_dir` already holds a run, '{held[0]}', which is not that of `ckpt_path` "
            f"'{path}': give another folder."
        )


def _can_go_on(path: Path) -> bool:
    """Whether a file is a checkpoint that holds more than weights."""
    try:
        return not is_of_weights_alone(open_checkpoint(str(path)))
    except ValueError:
        return False


def _instead(others: Sequence[Path]) -> str:
    found = [str(other) for other in others if _can_go_on(other)]
    if not found:
        return (
            "; nothing else there can be continued from (a new run, in another folder, starts from "
            "weights by --model.weights)"
        )
    return f"; continue from {' or '.join(found)} by --ckpt_path"


def is_writer() -> bool:
    """Whether this process writes the run's records: the first of all that train together."""
    return not rank_zero_only.rank  # type: ignore[attr-defined]  # set from the environment
