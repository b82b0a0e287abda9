"""What a training step writes down."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class LoggingModule(pl.LightningModule):
    """Logs with the labelled batch size; names are those of docs/methods."""

    _batch_size = 1

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log with the labelled batch size, which Lightning cannot see in nested views."""
        if kwargs.get("batch_size") is None:
            kwargs["batch_size"] = self._batch_size
        super().log(name, value, *args, **kwargs)

    def log_rate(self) -> None:
        """Log the learning rate in the steps that are written: a number has to reach the device."""
        if self._writes_step:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def log_losses(self, loss: Tensor, **parts: Tensor) -> None:
        """Log ``train/loss`` and ``train/loss_<name>`` for each of its parts, before their weights.

        Args:
            loss: The whole loss.
            **parts: Its parts by name.
        """
        self.log("train/loss", loss)
        self.log_dict({f"train/loss_{name}": value for name, value in parts.items()})

    def log_pseudo_labels(self, probs: Tensor, mask: Tensor, hidden_target: Tensor | None) -> None:
        """Log ``train/mask_rate`` and, where classes are known, ``train/pseudo_acc``.

        Args:
            probs: Probabilities that teach, ``(B, C)``.
            mask: Rows that count, ``(B,)``, bool.
            hidden_target: Known classes ``(B,)``, -1 where unknown, or None. Only logged.
        """
        self.log("train/mask_rate", mask.float().mean())
        self.log_pseudo_accuracy(probs, hidden_target, mask)

    def log_pseudo_accuracy(
        self, probs: Tensor, hidden_target: Tensor | None, mask: Tensor | None = None
    ) -> None:
        """Log ``train/pseudo_acc``, where classes are known.

        Args:
            probs: Probabilities that teach, ``(B, C)``.
            hidden_target: Known classes ``(B,)``, -1 where unknown, or None. Only logged.
            mask: Rows that count, ``(B,)``, bool; None for all.
        """
        if hidden_target is not None:
            known = hidden_target >= 0
            kept = known if mask is None else mask & known
            right = kept & (probs.argmax(dim=1) == hidden_target)
            # Undefined, not zero, where nothing is kept.
            self.log("train/pseudo_acc", right.sum() / kept.sum())

    def log_classes(self, name: str, values: Tensor) -> None:
        """Log a value of each class as ``train/<name>_<class>``, in the steps that are written.

        Args:
            name: What the values are.
            values: ``(C,)``.
        """
        if self._writes_step:
            self.log_dict({f"train/{name}_{c}": value for c, value in enumerate(values.unbind())})

    @property
    def _writes_step(self) -> bool:
        if self._trainer is None:  # a step by hand
            return False
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(interval) and (self.trainer.fit_loop.total_batch_idx + 1) % interval == 0
