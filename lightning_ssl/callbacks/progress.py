"""Progress in optimizer updates."""

from time import monotonic
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lightning_ssl.lightning_private import ProgressBar


class UpdateProgressBar(ProgressBar):
    """Lightning's rich progress bar, which names the update instead of an endless epoch count.

    It shows ``train/loss``, and reads it while training only as often as it is redrawn: reading
    makes the host wait for the device. Logged with ``prog_bar=True``, Lightning itself would read
    it in every step, whether a bar is shown or not.

    Args:
        refresh_rate: How often per second the bar is redrawn; 0 hides it.
        **kwargs: Further arguments of the rich progress bar.
    """

    def __init__(self, refresh_rate: int = 4, **kwargs: Any) -> None:
        super().__init__(refresh_rate=refresh_rate, **kwargs)
        self._last_read = float("-inf")
        self._is_due = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Advance the bar; read the logged values if they are due."""
        # Ends of epochs and validations always read, so that the last values are shown.
        self._is_due = self.is_enabled and (monotonic() - self._last_read) * self.refresh_rate >= 1
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        self._is_due = True

    def update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the logged values and show them, if that is due."""
        if self._is_due:
            super().update_metrics(trainer, pl_module)
            self._last_read = monotonic()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Values to show.

        Args:
            trainer: The trainer.
            pl_module: The method.

        Returns:
            What Lightning shows, and the loss.
        """
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        loss = trainer.callback_metrics.get("train/loss")
        return metrics if loss is None else {**metrics, "train/loss": loss.item()}

    def describe_training(self, current_epoch: int) -> str:
        """The update that the run stands at, and their number."""
        total = self.trainer.estimated_stepping_batches
        return f"Update {self.trainer.global_step}/{total}"
