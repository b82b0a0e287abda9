"""SimCLR + CT: SimCLR while labelled images find their class."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_ssl.checks import check_smoothing
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.simclr import SimCLR
from lightning_ssl.types import Batch, as_batch


class SimCLRCT(SimCLR):
    r"""SimCLR + CT: SimCLR on all images plus SuNCEt on the labelled ones, for a part of the run.

    .. math:: L_{SimCLR}(u) + L_{SuNCEt}(x)

    Reference: Assran et al., 2020, https://arxiv.org/abs/2006.10803.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        supervised_updates: Optimizer updates with the labelled term; None for all. Afterwards it is
            only logged.
        label_smoothing: Share of a label that all classes of the step get, in [0, 1).
        **kwargs: Arguments of :class:`SimCLR`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    labeled_order: ClassVar[str] = "stratified"

    def __init__(
        self,
        num_classes: int,
        supervised_updates: int | None = None,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if supervised_updates is not None and supervised_updates < 0:
            raise ValueError(f"`supervised_updates` must be at least 0, got {supervised_updates}.")
        self.supervised_updates = supervised_updates
        self.label_smoothing = check_smoothing(label_smoothing)

    @property
    def views(self) -> ViewSpec:
        """Two views of each unlabelled image, one of each labelled image."""
        return {"labeled": {"simclr": 1}, "unlabeled": {"simclr": 2}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Both contrasts, see :meth:`SSLModule.training_step`."""
        x, u = as_batch(batch, self.views)[1:]
        (_, z_u), (_, z_x) = self.project_together(u.views["simclr"], x.views["simclr"])
        loss_u = self.contrast(z_u)
        loss_x = self.contrast_classes(z_x, x.target, self.label_smoothing)
        end = self.supervised_updates
        supervised = end is None or self.trainer.global_step < end
        loss = loss_u + loss_x if supervised else loss_u

        self.log_losses(loss, x=loss_x, u=loss_u)
        return loss
