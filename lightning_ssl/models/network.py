"""The network of a method: built, and what of it learns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.models.adapters import add_lora
from lightning_ssl.models.backbones import build_backbone

_ADAPTERS = ("lora",)
_OPTIONS = ("rank", "alpha", "dropout", "targets")


def build_network(
    backbone: str | nn.Module,
    options: Mapping[str, Any] | None,
    in_channels: int,
    freeze: bool,
    adapter: str | None,
    adapter_args: Mapping[str, Any] | None,
) -> nn.Module:
    """Build a network, and say which weights of it learn: all, none, or those of an adapter.

    Args:
        backbone: Its name, or a module; see :func:`build_backbone`.
        options: Further arguments of it.
        in_channels: Channels of the images.
        freeze: Whether none learns.
        adapter: ``lora`` or None.
        adapter_args: Arguments of :func:`lightning_ssl.models.adapters.add_lora`.

    Raises:
        ValueError: If the adapter or an option is unknown, or both are asked for.
    """
    if adapter not in (None, *_ADAPTERS):
        raise ValueError(f"`adapter` must be null or one of {_ADAPTERS}, got {adapter!r}.")
    if adapter is None and adapter_args:
        raise ValueError(
            f"`adapter_args` must be null without an `adapter`, got {dict(adapter_args)}."
        )
    if adapter is not None and freeze:
        raise ValueError(
            f"`freeze_backbone` must be false with an `adapter`, which learns, got true and "
            f"{adapter!r}."
        )
    unknown = set(adapter_args or {}) - set(_OPTIONS)
    if unknown:
        raise ValueError(f"`adapter_args` must have keys of {_OPTIONS}, got {sorted(unknown)}.")
    network = build_backbone(backbone, in_channels=in_channels, **(options or {}))
    network.to(memory_format=torch.channels_last)
    if freeze:
        network.requires_grad_(False).eval()
    if adapter is not None:
        add_lora(network, **(adapter_args or {}))
    return network


def pass_together(
    network: Callable[[Tensor], Tensor], views: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Send several views through a network in one pass, so that BatchNorm sees one batch.

    Args:
        network: Takes rows ``(N, ...)`` and returns rows ``(N, ...)``.
        views: ``(copies, B, ...)`` each; copies and B may differ.

    Returns:
        For each view its outputs ``(copies, B, ...)``.
    """
    flat = [view.flatten(0, 1) for view in views]
    rows = network(torch.cat(flat)).split([len(part) for part in flat])
    return tuple(part.unflatten(0, view.shape[:2]) for part, view in zip(rows, views, strict=True))
