"""The labelled images as evaluation sees them."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from lightning_ssl.distributed import gather_uneven


def has_support(trainer: Trainer) -> bool:
    """Whether the trainer's datamodule tells the labelled images.

    Args:
        trainer: The trainer.
    """
    return hasattr(getattr(trainer, "datamodule", None), "support_dataloader")


def embed_support(
    trainer: Trainer, module: LightningModule, loader: Any = None
) -> tuple[Tensor, Tensor]:
    """Embed the labelled images of the datamodule, in the mode in which the module is.

    Args:
        trainer: The trainer, whose datamodule has a ``support_dataloader`` of ``(images, target,
            index)``, or of features in the place of images.
        module: The method, with ``embed``.
        loader: Batches of some of them; None for all.

    Returns:
        Embeddings ``(N, F)`` and classes ``(N,)`` of the images of all processes, in the order of
        their index.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    embed: Any = module.embed
    parts = []
    for batch in data.support_dataloader() if loader is None else loader:
        images, target, index = data.on_after_batch_transfer(
            move_data_to_device(batch, module.device), 0
        )
        with trainer.precision_plugin.forward_context():
            parts.append((embed(images), target, index))
    # Ranks hold different shares; sorted, the result does not depend on their number.
    support, target, index = (
        gather_uneven(torch.cat(column)) for column in zip(*parts, strict=True)
    )
    order = index.argsort()
    return support[order], target[order]
