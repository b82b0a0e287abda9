"""Features of labelled images, which travel in a checkpoint to say how far others are from them."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.functional import normalize

from lightning_ssl.callbacks.support import embed_support
from lightning_ssl.evaluation import SoftNearestNeighbors

MOST = 1024
"""Images that a checkpoint has features of, 2 kB each for a thousand features."""


class LabeledFeatures(Callback):
    """Keep the features of labelled images with a checkpoint that is written after a validation.

    They are those of the weights that are evaluated, of length 1, in half precision. Of a longer
    list they are :data:`MOST`, evenly spread over it. A method that compares images with labelled
    ones has embeddings of all of them, and needs none of this.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forget those of older weights; log the share of unlabelled images that do not count."""
        _keep(pl_module, None)
        kept = getattr(getattr(batch, "unlabeled", None), "kept", None)
        if kept is not None:
            pl_module.log("train/outlier_rate", 1 - kept.float().mean())

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Embed the images; the callback that averages the weights has come before."""
        data: Any = getattr(trainer, "datamodule", None)
        compares = isinstance(pl_module.classifier, SoftNearestNeighbors)
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not compares and hasattr(data, "sample_dataloader"):
            features, _ = embed_support(trainer, pl_module, data.sample_dataloader(MOST))
            # Tensors made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                _keep(pl_module, normalize(features.float().clone()).half().cpu())

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add them, where they belong to these weights."""
        if pl_module.labeled_features is not None:
            checkpoint["labeled_features"] = pl_module.labeled_features


def _keep(module: Any, features: Tensor | None) -> None:
    module.labeled_features = features


def known_features(module: Any) -> Tensor | None:
    """Features of labelled images that a method has from its data or its checkpoint.

    Args:
        module: The method.

    Returns:
        ``(L, F)``, or None where it has none.
    """
    classifier = getattr(module, "classifier", None)
    if isinstance(classifier, SoftNearestNeighbors):
        return classifier.support
    found: Tensor | None = getattr(module, "labeled_features", None)
    return found
