"""Corrections for imbalanced classes by name."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

from lightning_ssl.methods.abc_head import ABCHead
from lightning_ssl.methods.imbalance import Imbalance, LogitAdjustment, ProgressiveAlignment

ImbalanceName = Literal["LogitAdjustment", "ProgressiveAlignment", "ABCHead"]


def build_imbalance(
    name: ImbalanceName | None,
    options: dict[str, Any] | None,
    class_counts: Sequence[int] | None,
    num_classes: int,
    num_features: int,
) -> Imbalance | ABCHead:
    """Build what a method's ``imbalance`` names.

    Args:
        name: :class:`LogitAdjustment`, :class:`ProgressiveAlignment`, :class:`ABCHead` or None.
        options: Further arguments of that class.
        class_counts: Labelled images of each class.
        num_classes: Number of classes.
        num_features: Width of the features.

    Raises:
        ValueError: If the name or an option is unknown, or the counts are missing.
    """
    if name not in (None, *get_args(ImbalanceName)):
        raise ValueError(
            f"`imbalance` must be one of {get_args(ImbalanceName)} or null, got {name!r}."
        )
    options = options or {}
    builders: dict[str | None, Callable[..., Imbalance | ABCHead]] = {
        "LogitAdjustment": LogitAdjustment,
        "ProgressiveAlignment": ProgressiveAlignment,
        "ABCHead": partial(ABCHead, num_features),
    }
    build = builders.get(name)
    parameters = {} if build is None else inspect.signature(build).parameters
    allowed = tuple(key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY)
    if set(options) - set(allowed):
        raise ValueError(
            f"`imbalance_args` must have keys of {allowed} with `imbalance` {name!r}, got "
            f"{tuple(options)}."
        )
    if build is None:
        return Imbalance()
    if class_counts is None or len(class_counts) != num_classes:
        raise ValueError(
            f"`class_counts` must be {num_classes} numbers with `imbalance`, got {class_counts}."
        )
    return build(class_counts, **options)
