"""The trainer of a datamodule: what only it can say, and what holds without one."""

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder


def required(trainer: pl.Trainer | None, what: str) -> pl.Trainer:
    """The trainer, where nothing goes without.

    Args:
        trainer: That of the datamodule.
        what: What was asked for.

    Raises:
        ValueError: If there is none.
    """
    if trainer is None:
        raise ValueError(
            f"`{what}` of SSLDataModule needs a trainer with a method, whose views and step it "
            "takes: call `trainer.fit(method, data)`, got none that runs it."
        )
    return trainer


def ranks(trainer: pl.Trainer | None) -> dict[str, int]:
    """This process and the number of them; without a trainer the only one.

    Args:
        trainer: That of the datamodule.
    """
    if trainer is None:
        return {"rank": 0, "world_size": 1}
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


def position(trainer: pl.Trainer) -> int:
    """Step a run stands at; the counter is restored from a checkpoint before it is read.

    Args:
        trainer: That of the datamodule.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    # Overfitting means the same batches in every epoch.
    overfit = trainer.overfit_batches  # type: ignore[attr-defined]
    return int((progress.current if overfit else progress.total).ready)


def pins_memory(trainer: pl.Trainer | None) -> bool:
    """Whether batches go to a CUDA device.

    Args:
        trainer: That of the datamodule.
    """
    return trainer is not None and trainer.strategy.root_device.type == "cuda"


def patch_side(module: pl.LightningModule) -> int:
    """Side of the patches that a transformer cuts images into; 1 for other networks.

    Args:
        module: The method, whose network is its ``backbone``.
    """
    patches = getattr(getattr(module, "backbone", None), "patch_embed", None)
    side = getattr(patches, "patch_size", 1)
    return int(side[0] if isinstance(side, Sequence) else side)


def check_soft_targets(module: pl.LightningModule, soft: bool) -> None:
    """See that probabilities of classes come to a method that learns them, and to it alone.

    Args:
        module: The method.
        soft: Whether the labelled images have such.

    Raises:
        ValueError: If one has what the other lacks.
    """
    learns = bool(getattr(module, "soft_targets", False))
    if soft and not learns:
        raise ValueError(
            "`data.pseudo_column` 'soft' needs a method that learns probabilities, --model "
            f"Supervised --model.soft_targets true, got {type(module).__name__}, which does not."
        )
    if learns and not soft:
        raise ValueError(
            "`model.soft_targets` true needs probabilities of the classes, got none: give "
            "`data.pseudo_labels` a table of several checkpoints and `data.pseudo_column` 'soft'."
        )


def refuse_batch_size_finder(trainer: pl.Trainer | None) -> None:
    """Say what Lightning's search would not: with our loaders it tries nothing and takes its limit.

    Args:
        trainer: That of the datamodule.

    Raises:
        ValueError: If it has such a callback.
    """
    callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        raise ValueError(
            "`callbacks` must not hold a BatchSizeFinder with SSLDataModule, got one: batch sizes "
            "are part of a method, so choose `data.batch_size` and `data.unlabeled_batch_size`; "
            "`data.eval_batch_size` changes no result."
        )
