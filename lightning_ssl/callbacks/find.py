"""Which callbacks a trainer has."""

from typing import TypeVar

from pytorch_lightning import Callback, Trainer

Kind = TypeVar("Kind", bound=Callback)


def find_callbacks(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Callbacks of a class, in the order in which they are called.

    Args:
        trainer: The trainer.
        kind: The class; those derived from it count, too.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]
