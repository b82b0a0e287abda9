"""A linear classifier that starts from the labelled images instead of noise."""

from typing import Any, get_args

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.callbacks.support import embed_support, has_support
from lightning_ssl.evaluation.head_start import HeadStartName, start_classifier
from lightning_ssl.models import evaluating

HEAD_INITS = ("none", *get_args(HeadStartName))


def check_head_init(method: LightningModule, value: str, reason: str | None) -> str:
    """Return ``value``, or raise a `ValueError` if a method cannot start its classifier so.

    Args:
        method: The method.
        value: Its ``head_init``.
        reason: Why it takes none; None where it does.
    """
    if value not in HEAD_INITS:
        raise ValueError(f"`head_init` must be one of {HEAD_INITS}, got {value!r}.")
    if value != "none" and reason is not None:
        raise ValueError(
            f"`head_init` must be 'none' for {type(method).__name__}, {reason}, got {value!r}."
        )
    return value


class HeadStart(Callback):
    """Give the linear classifier its first weights, from the labelled images' features.

    Only where it still is as it was drawn: not where a run goes on, nor where ``weights`` brought a
    classifier. The images are embedded as evaluation sees them, with the network as it starts.

    Args:
        kind: See :func:`~lightning_ssl.evaluation.head_start.start_classifier`.
    """

    def __init__(self, kind: HeadStartName) -> None:
        self.kind = kind
        self._drawn = torch.empty(0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep what was drawn; other weights come after."""
        head: Any = pl_module.classifier
        self._drawn = head.weight.detach().cpu().clone()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace it.

        Raises:
            ValueError: If the labelled images are not known, or not of all classes.
        """
        pl_module.head_init = "none"  # type: ignore[assignment]  # a later fit goes on from here
        head: Any = pl_module.classifier
        if not torch.equal(head.weight.cpu(), self._drawn.to(head.weight.dtype)):
            if trainer.ckpt_path is None:
                rank_zero_warn(
                    f"`head_init` '{self.kind}' leaves the classifier that `weights` brought; it "
                    "sees normalised features from now on."
                )
            return
        if not has_support(trainer):
            raise ValueError(
                f"`head_init` '{self.kind}' starts from the labelled images: `datamodule` must "
                f"have a `support_dataloader`, got {type(trainer.datamodule).__name__}."  # type: ignore[attr-defined]
            )
        with torch.no_grad(), evaluating(pl_module):
            features, target = embed_support(trainer, pl_module)
        found = start_classifier(self.kind, features, target, len(head.weight))
        # The same to the last bit on processors of any kind.
        weight, bias = trainer.strategy.broadcast((found.weight, found.bias))
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
