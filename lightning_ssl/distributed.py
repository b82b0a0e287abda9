"""What processes tell each other, and how gradients flow through it.

DDP averages the gradients of all processes. With :func:`gather` and :func:`mean_over_ranks`
that average is the gradient of the mean of the processes' losses, each of which may depend on all.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors


def gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks.

    Backward adds up what all processes' losses say about this process's rows.

    Args:
        rows: ``(B, ...)``, of one shape on all processes.

    Returns:
        ``(world_size * B, ...)``.
    """
    if _world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor over processes.

    Backward is the identity: every process's loss depends on the mean in the same way.

    Args:
        values: Of one shape on all processes.
    """
    if _world_size() == 1:
        return values
    mean: Tensor = _Mean.apply(values)
    return mean


def gather_uneven(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, of which each may have another number; no gradient.

    Args:
        rows: ``(B, ...)``; without rows the other sizes may be 0, as where they are not known.
    """
    if _world_size() == 1:
        return rows
    parts = gather_all_tensors(rows)
    return torch.cat([part for part in parts if len(part)] or parts)


def _world_size() -> int:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(_world_size())]
        distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.count
        return total[start : start + ctx.count]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        mean = values / _world_size()
        distributed.all_reduce(mean)
        return mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
