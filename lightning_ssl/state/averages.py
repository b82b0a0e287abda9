"""Running means over batches, as buffers that are the same on all processes."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_ssl.checks import check_count
from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.state.wide_buffers import WideBuffers


class RunningMean(WideBuffers, ABC):
    """Mean of what recent batches had, starting as if they all had had ``start``.

    Args:
        start: First value, such as the uniform distribution ``(C,)``.
    """

    value: Tensor
    """The mean, of the shape of ``start``, float32 at least."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", start.clone())

    @torch.no_grad()
    def update(self, batch_value: Tensor) -> None:
        """Take in a batch; call it on all processes.

        Args:
            batch_value: Mean over this process's part of the batch, of the shape of ``start``.
        """
        self._push(mean_over_ranks(batch_value.detach().to(self.value.dtype)))

    @abstractmethod
    def _push(self, new: Tensor) -> None: ...


class WindowMean(RunningMean):
    """Mean of the last batches.

    Args:
        start: First value of each.
        window: Number of batches, at least 1.

    Raises:
        ValueError: If ``window`` is below 1.
    """

    window: Tensor
    position: Tensor

    def __init__(self, start: Tensor, window: int = 128) -> None:
        super().__init__(start)
        check_count("window", window)
        self.register_buffer("window", start.expand(window, *start.shape).clone())
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def _push(self, new: Tensor) -> None:
        # Not by Python indexing, which would read the position from the device.
        self.window.index_copy_(0, self.position.view(1), new[None])
        self.position.add_(1).remainder_(len(self.window))
        self.value.copy_(self.window.mean(dim=0))


class ExponentialMean(RunningMean):
    """Exponential moving average: :math:`m v + (1 - m) v_{new}`.

    Args:
        start: First value.
        decay: m in [0, 1).

    Raises:
        ValueError: If ``decay`` is outside its range.
    """

    def __init__(self, start: Tensor, decay: float = 0.999) -> None:
        super().__init__(start)
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        self.decay = decay

    def _push(self, new: Tensor) -> None:
        self.value.lerp_(new, 1 - self.decay)


def uniform(num_classes: int) -> Tensor:
    """Equal probabilities ``(num_classes,)``, float32."""
    return torch.full((num_classes,), 1 / num_classes)
