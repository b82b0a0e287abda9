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
    has_validation = getattr(data, "has_validation", True)
    known, absent = ([*getattr(method, f"{part}_metrics", {})] for part in ("val", "test"))
    if not has_validation:
        known, absent = absent, known
    ours = type(method).__module__.startswith("lightning_ssl.")  # others log what they like
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if name is None or isinstance(callback, RunCheckpoint):  # which drops its monitor itself
            continue
        strange = ours and not name.startswith("train/")
        if name in known or not (name in absent or strange):
            continue
        why = "" if has_validation else ", as the data has no validation part (data.val_per_class)"
        raise ValueError(
            f"`monitor` of {type(callback).__name__} must be one of {', '.join(known)} or a "
            f"'train/' value that the method logs{why}, got '{name}'."
        )
