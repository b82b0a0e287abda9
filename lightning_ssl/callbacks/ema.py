"""Averaged weights for evaluation."""

import math
from functools import reduce
from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_ssl.lightning_private import average_of


def decay_of(ema_decay: float, ema_half_life: float | None) -> float:
    """Decay of an average, given as such or by its half-life.

    Args:
        ema_decay: Weight of the old average, in [0, 1).
        ema_half_life: Updates after which a weight's share has halved; None for ``ema_decay``.

    Raises:
        ValueError: If one is out of range.
    """
    if not 0 <= ema_decay < 1:
        raise ValueError(f"`ema_decay` must be in [0, 1), got {ema_decay}.")
    if ema_half_life is None:
        return ema_decay
    if not 0 < ema_half_life < math.inf:
        raise ValueError(f"`ema_half_life` must be above 0 or null, got {ema_half_life}.")
    return float(0.5 ** (1 / ema_half_life))


class EMA(WeightAveraging):
    """Exponential moving average of the parameters, updated after each optimizer update.

    It starts as a copy of the weights that training starts from. BatchNorm statistics and other
    buffers are copied, not averaged, as in FixMatch's code. The average is kept in float32 at
    least, where half precision would round its small steps away. Parameters that do not learn are
    the module's own, not copies: a frozen network costs neither time nor memory, nor is it stored
    twice.

    Args:
        decay: Weight of the old average, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._updated_at = 0  # updates of the optimizer when the average was last updated
        self._parameters: tuple[list[Tensor], list[Tensor]] = ([], [])
        # The trained weights while the averaged ones are evaluated in their place.
        self._trained: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module; its weights are copied in ``on_fit_start``, when they are final."""
        super().setup(trainer, pl_module, stage)
        self._trained = None  # where a fit before was interrupted in its validation

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module: it was copied before it loaded weights, moved and was converted.

        Left where it was, every update would carry all weights from the device to the host.
        """
        average = self._average
        dtype = torch.promote_types(pl_module.dtype, torch.float32)  # type: ignore[arg-type]
        average.to(device=pl_module.device, dtype=dtype)
        # Counted on the host; adding to it on the device would cost a launch in every update.
        average.n_averaged = average.n_averaged.cpu()
        _share_frozen(average.module, pl_module)
        learning = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        copies, own = dict(average.module.named_parameters()), dict(pl_module.named_parameters())
        self._parameters = ([copies[n] for n in learning], [own[n] for n in learning])
        if average.n_averaged == 0:  # not restored
            with torch.no_grad():
                torch._foreach_copy_(*self._parameters)
            self._copy_buffers(pl_module)
            average.n_averaged += 1
            self._updated_at = trainer.global_step

    @property
    def _average(self) -> AveragedModel:
        average = average_of(self)
        assert average is not None
        return average

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Average once per optimizer update.

        ``AveragedModel.update_parameters`` would make the host wait for the device.
        """
        if trainer.global_step <= self._updated_at:
            return
        averaged, current = self._parameters
        with torch.no_grad():
            same = [new.to(old.dtype) for old, new in zip(averaged, current, strict=True)]
            torch._foreach_lerp_(averaged, same, 1 - self.decay)
        self._copy_buffers(pl_module)
        self._average.n_averaged += 1
        self._updated_at = trainer.global_step

    def _copy_buffers(self, pl_module: LightningModule) -> None:
        # Listed each time: a module may assign a new tensor to its buffer.
        pairs = zip(self._average.module.buffers(), pl_module.buffers(), strict=True)
        with torch.no_grad():
            for old, new in pairs:
                old.copy_(new)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the average while fitting; after that the module holds what is asked for."""
        if trainer.state.fn == TrainerFn.FITTING:
            # The parent exchanges the two, which would round the average to half precision.
            values = _tensors(pl_module).items()
            self._trained = {name: value.clone() for name, value in values if _changes(value)}
            _copy(_tensors(self._average.module), pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the trained weights."""
        if trainer.state.fn == TrainerFn.FITTING:
            assert self._trained is not None
            _copy(self._trained, pl_module)
            self._trained = None

    def state_dict(self) -> dict[str, Any]:
        """When the average was last updated, by the parent's name."""
        return {"latest_update_step": self._updated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._updated_at = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store both; inside a validation the module itself holds the average."""
        if self._trained is not None:
            state = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {n: self._trained.get(n, value) for n, value in state}
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the average when training goes on, and only then.

        A trainer that tests a checkpoint after fitting still holds this callback; the parent would
        then put the trained weights in place of the averaged ones.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        # The module is converted after loading; float64 must not pass through float32.
        values = checkpoint["state_dict"].values()
        dtypes = [value.dtype for value in values if value.is_floating_point()]
        self._average.to(dtype=reduce(torch.promote_types, dtypes, torch.float32))
        super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names, as in the state dict."""
    named = (module.named_parameters, module.named_buffers)
    return dict(chain.from_iterable(list_(remove_duplicate=False) for list_ in named))


def _changes(tensor: Tensor) -> bool:
    """Whether training may change it: a buffer, or a parameter that learns."""
    return tensor.requires_grad or not isinstance(tensor, nn.Parameter)


def _share_frozen(copy: nn.Module, module: nn.Module) -> None:
    """Let a copy of a module have its frozen parameters, where they have one type."""
    parts = dict(copy.named_modules())
    for name, part in module.named_modules():
        for key, parameter in part.named_parameters(recurse=False):
            own = getattr(parts[name], key)
            if not parameter.requires_grad and own.dtype == parameter.dtype:
                setattr(parts[name], key, parameter)


def _copy(values: dict[str, Tensor], module: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in _tensors(module).items():
            if _changes(tensor):
                tensor.copy_(values[name])
