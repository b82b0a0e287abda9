"""Optimizers by name."""

from typing import Any

import torch

from lightning_ssl.optim.lars import EPS, TRUST, LarsRateInMomentum
from lightning_ssl.optim.options import Optimizer


def build_optimizer(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer that ``config`` describes.

    Args:
        groups: Parameter groups as :func:`parameter_groups` makes them; groups of several modules
            may be concatenated. A group with ``weight_decay`` 0 is neither decayed nor adapted
            by LARS.
        config: Rule and constants.

    Raises:
        ValueError: If there is nothing to train.
    """
    if not groups:
        raise ValueError("`groups` must hold at least one trainable parameter, got none.")
    groups = [
        {
            "decayed": group.get("weight_decay") != 0,
            "lr": config.lr * group.get("lr_scale", 1.0),
            **group,
        }
        for group in groups
    ]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "adam":
        return torch.optim.Adam(groups, **common)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **common)
    common |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.name == "sgd":
        return torch.optim.SGD(groups, **common)
    if config.lr_in_momentum:
        return LarsRateInMomentum(groups, **common)
    from timm.optim import Lars  # slow to import, and few runs need it

    # timm adapts only groups whose decay is not 0; PAWS adapts kernels at decay 0, too.
    groups = [{"always_adapt": group["decayed"], **group} for group in groups]
    optimizer: torch.optim.Optimizer = Lars(groups, trust_coeff=TRUST, eps=EPS, **common)
    return optimizer
