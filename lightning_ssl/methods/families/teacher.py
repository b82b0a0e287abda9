"""What methods share whose loss asks the averaged weights."""

from abc import ABC

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.lightning_private import average_of
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.models import keep_statistics


class TeacherModule(SSLModule, ABC):
    """Base of methods with a teacher: the averaged weights, which are evaluated anyway.

    The average of ``ema_decay`` is kept, stored and resumed by a callback as for every method;
    here a training step may ask it, too. A method that does calls :meth:`require_average` when it
    is made. The arguments are those of :class:`SSLModule`.
    """

    def require_average(self) -> None:
        """Raise a `ValueError` if ``ema_decay`` is 0, so that there is no average."""
        if not self.ema_decay:
            raise ValueError(
                f"`ema_decay` must be in (0, 1) for {type(self).__name__}, whose teacher is the "
                f"average, got {self.ema_decay}."
            )

    @property
    def teacher(self) -> SSLModule:
        """The module with averaged weights; a copy that no optimizer sees."""
        for callback in find_callbacks(self.trainer, WeightAveraging):
            average = average_of(callback)
            if average is not None:
                module: SSLModule = average.module  # type: ignore[assignment]  # a copy
                return module
        raise RuntimeError("There is an average only while a trainer fits the method.")

    @torch.no_grad()
    def teacher_logits(self, images: Tensor, training: bool) -> Tensor:
        """Logits of the teacher.

        Args:
            images: Normalised images ``(B, C, H, W)``.
            training: Whether BatchNorm normalises by the batch, leaving its statistics alone, or
                by its running statistics.

        Returns:
            Logits ``(B, num_classes)``, without gradient.
        """
        teacher = self.teacher.train(training)
        # The average may be in a higher precision than the weights; `dtype` would not know.
        dtype = next(teacher.parameters()).dtype
        with keep_statistics(teacher):
            logits: Tensor = teacher(images.to(dtype))
        return logits
