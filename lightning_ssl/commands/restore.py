"""The method and the data of a checkpoint, for commands that use both."""

from typing import Any

from lightning_ssl.cli.checkpoint import known_to_checkpoint, restore_method
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import SSLModule


def restore(
    ckpt_path: str, root: str | None = None, model: str | None = None
) -> tuple[SSLModule, SSLDataModule]:
    """Build what a run trained, with its averaged weights, and what it was trained on.

    Args:
        ckpt_path: Checkpoint of a run.
        root: Folder of the data where it is not where it was while training.
        model: Class path of the method, where no installed package has it.

    Returns:
        The method in evaluation mode, and the data with the options of the run.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it lacks the method or the data, or its method cannot be imported.
    """
    known = known_to_checkpoint(ckpt_path, predict=False, named=() if model is None else (model,))
    method = restore_method(known, ckpt_path)
    options: dict[str, Any] = known["data"]["init_args"]
    if root is not None:
        options["root"] = root
    return method, SSLDataModule(**options)
