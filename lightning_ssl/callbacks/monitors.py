"""What callbacks select or stop by has to be there."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lightning_ssl.callbacks.checkpoint import RunCheckpoint


def check_monitors(trainer: Trainer, method: LightningModule) -> None:
    """Refuse a monitored value that no validation of this run logs.

    Args:
        trainer: The trainer, before training.
        method: The method.

    Raises:
        ValueError: If a callback monitors such a value.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    validates = getattr(data, "has_validation", True)
    of_val, of_test = ([*getattr(method, f"{part}_metrics", {})] for part in ("val", "test"))
    ours = type(method).__module__.startswith("lightning_ssl.")  # others log what they like
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        drops = isinstance(callback, RunCheckpoint) and not validates  # drops its monitor itself
        known, absent = (of_val, of_test) if validates or drops else (of_test, of_val)
        strange = name is not None and ours and not name.startswith("train/")
        if name is None or name in known or not (name in absent or strange):
            continue
        why = "" if validates else ", as the data has no validation part (data.val_per_class)"
        raise ValueError(
            f"`monitor` of {type(callback).__name__} must be one of {', '.join(known)} or a "
            f"'train/' value that the method logs{'' if drops else why}, got '{name}'."
        )
