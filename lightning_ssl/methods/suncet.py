"""SuNCEt: labelled images find their class; the fine-tuning of PAWS on small images."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_ssl.checks import check_count, check_smoothing
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.families import ProjectionModule
from lightning_ssl.types import Batch, as_batch

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class SuNCEt(ProjectionModule):
    r"""SuNCEt: each labelled image finds the others of its class among all of the step.

    .. math::
        -\frac{1}{B} \sum_i \log \frac{\sum_{j \ne i, y_j = y_i} e^{\cos(z_i, z_j) / \tau}}
        {\sum_{j \ne i} e^{\cos(z_i, z_j) / \tau}}

    With ``weights`` it fine-tunes a PAWS network, heads included; without it trains from scratch.

    Reference: Assran et al., 2020, https://arxiv.org/abs/2006.10803, eq. 1; as fine-tuning
    Assran et al., 2021, https://arxiv.org/abs/2104.13963, app. C.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        view: Name of the views, such as ``weak``, ``support`` or ``basic``, the flips alone of
            the paper's fine-tuning.
        copies: Views of each image, at least 1.
        freeze_norm: Whether BatchNorm keeps the statistics it starts with, as the paper's
            fine-tuning does; its weights still learn.
        label_smoothing: Share of a label that all classes of the step get, in [0, 1).
        **kwargs: Arguments of :class:`ProjectionModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    labeled_order: ClassVar[str] = "stratified"

    def __init__(
        self,
        num_classes: int,
        view: str = "weak",
        copies: int = 2,
        freeze_norm: bool = False,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.view = view
        self.copies = check_count("copies", copies)
        self.freeze_norm = freeze_norm
        self.label_smoothing = check_smoothing(label_smoothing)
        self.train()  # a Trainer keeps the modes it finds

    @property
    def views(self) -> ViewSpec:
        """Views of the labelled images."""
        return {"labeled": {self.view: self.copies}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Contrast of the classes, see :meth:`SSLModule.training_step`."""
        x = as_batch(batch, self.views).labeled
        ((_, z),) = self.project_together(x.views[self.view])
        loss = self.contrast_classes(z, x.target, self.label_smoothing)
        self.log_losses(loss)
        return loss

    def train(self, mode: bool = True) -> "SuNCEt":
        """Set the mode; frozen normalisation stays in evaluation mode.

        Args:
            mode: Whether to train.
        """
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, _BATCH_NORM):
                    module.eval()
        return self
