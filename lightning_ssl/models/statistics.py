"""Modes of a network, and BatchNorm's running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics alone while a network in training mode sees other images.

    BatchNorm goes on to normalise with the statistics of the batch, which evaluation mode would
    not; only its running averages and their count stay as they are.

    Args:
        module: The network.
    """
    norms = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    for layer in norms:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in norms:
            layer.track_running_stats = True


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; each part then has its own mode again.

    Args:
        module: The network.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
