"""Averaged weights for evaluation."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Exponential moving average of the parameters, updated after each optimizer update.

    BatchNorm statistics and other buffers are copied, not averaged, as in FixMatch's code. The
    average is kept in float32 at least, where half precision would round its small steps away, and
    all parameters are averaged by one fused operation.

    Args:
        decay: Weight of the old average, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)

        def average_all(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
            same = [new.to(old.dtype) for old, new in zip(averaged, current, strict=True)]
            average(averaged, same, count)

        super().__init__(use_buffers=False, multi_avg_fn=average_all)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module: it was copied before it moved to its device and precision.

        Left where it was, every update would carry all weights from the device to the host.
        """
        assert self._average_model is not None
        dtype = torch.promote_types(pl_module.dtype, torch.float32)  # type: ignore[arg-type]
        self._average_model.to(device=pl_module.device, dtype=dtype)
        # The counter is read in every update; on the device the host would wait for it.
        self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average when training goes on, and only then.

        A trainer that tests a checkpoint after fitting still holds this callback; the parent would
        then put the trained weights in place of the averaged ones.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
