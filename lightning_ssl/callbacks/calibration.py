"""The temperature that makes reported probabilities honest, which travels in a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_ssl.distributed import gather_uneven
from lightning_ssl.evaluation.calibration import fit_temperature

MOST = 4096
"""Images that a temperature is fitted to, by which it is known to about 1 %."""


class Calibration(Callback):
    """Fit the temperature of the logits at the end of each validation, on the validation part.

    Never on a test set that is looked at in its place, nor on the labelled images, which a network
    knows by heart: without a validation part the temperature stays 1. It belongs to the weights
    that were evaluated, and is forgotten at the next training step. Of a longer part it is fitted
    to :data:`MOST` images, evenly spread over it.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forget that of older weights."""
        _keep(pl_module, 1.0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation left."""
        self._parts = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits of a batch, with classes and indices."""
        if _fits(trainer) and isinstance(outputs, Mapping) and "logits" in outputs:
            self._parts.append((outputs["logits"].detach(), batch[1], batch[2]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the temperature to the images of all processes."""
        if not _fits(trainer):
            return
        module: Any = pl_module
        # A process may have no images.
        none = torch.empty(0, dtype=torch.int64, device=module.device)
        rows = torch.empty(0, module.num_classes, device=module.device)
        parts, self._parts = [(rows, none, none), *self._parts], []
        logits, target, index = (
            gather_uneven(torch.cat(column)) for column in zip(*parts, strict=True)
        )
        # Sorted, the sums do not depend on the number of processes.
        kept = torch.linspace(0, len(index) - 1, min(MOST, len(index)), dtype=torch.float64)
        order = index.argsort()[kept.long().to(index.device)]
        logits, target = logits[order], target[order]
        if len(logits) and logits.isfinite().all():
            _keep(pl_module, fit_temperature(logits, target))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it, where it belongs to these weights."""
        if pl_module.logit_temperature != 1:
            checkpoint["temperature"] = pl_module.logit_temperature


def _fits(trainer: Trainer) -> bool:
    """Whether a run looks at its validation part."""
    stage = getattr(trainer.val_dataloaders, "stage", "val")
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and stage == "val"


def _keep(module: Any, temperature: float) -> None:
    module.logit_temperature = temperature
