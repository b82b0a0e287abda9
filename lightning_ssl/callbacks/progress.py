"""Progress in optimizer updates."""

from pytorch_lightning.callbacks import RichProgressBar


class UpdateProgressBar(RichProgressBar):
    """Lightning's rich progress bar, which names the update instead of an endless epoch count."""

    def _get_train_description(self, current_epoch: int) -> str:
        total = self.trainer.estimated_stepping_batches
        return f"Update {self.trainer.global_step}/{total}"
