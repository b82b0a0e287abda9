"""The correction that the options of a method describe."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args

from lightning_ssl.callbacks.head_start import check_head_init
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.corrections.balanced_head import BalancedClassifier
from lightning_ssl.methods.corrections.base import Correction
from lightning_ssl.methods.corrections.logit_adjustment import LogitAdjustment
from lightning_ssl.methods.corrections.progressive_alignment import ProgressiveAlignment

CorrectionName = Literal["LogitAdjustment", "ProgressiveAlignment", "ABCHead"]


def add_correction(
    method: SSLModule,
    name: CorrectionName | None,
    options: dict[str, Any] | None,
    class_counts: Sequence[int] | None,
    plain: Callable[[], Correction] = Correction,
) -> Correction:
    """Build a correction for a method; one with a classifier puts it where the method predicts.

    Args:
        method: The method, built as far as its network and classifier.
        name: Its ``imbalance``.
        options: Its ``imbalance_args``.
        class_counts: Labelled images of each class.
        plain: What the method does where no correction replaces it.

    Raises:
        ValueError: If the name or an option is unknown, or the counts are missing.
    """
    correction = _build(method, name, options or {}, class_counts, plain)
    method.classifier, method.unbalanced = correction.heads(method.classifier)
    if method.unbalanced is not None:
        check_head_init(method, method.head_init, f"which has two heads with `imbalance` '{name}'")
    return correction


def _build(
    method: SSLModule,
    name: CorrectionName | None,
    options: dict[str, Any],
    class_counts: Sequence[int] | None,
    plain: Callable[[], Correction],
) -> Correction:
    if name not in (None, *get_args(CorrectionName)):
        raise ValueError(
            f"`imbalance` must be one of {get_args(CorrectionName)} or null, got {name!r}."
        )
    builders: dict[str | None, Callable[..., Correction]] = {
        "LogitAdjustment": LogitAdjustment,
        "ProgressiveAlignment": ProgressiveAlignment,
        "ABCHead": partial(BalancedClassifier, plain, method.num_features),
    }
    build = builders.get(name)
    parameters = {} if build is None else inspect.signature(build).parameters
    allowed = tuple(key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY)
    if set(options) - set(allowed):
        raise ValueError(
            f"`imbalance_args` must have keys of {allowed} with `imbalance` {name!r}, got "
            f"{tuple(options)}."
        )
    for key, value in options.items():
        kind, a_number = (
            (Integral, "an integer") if parameters[key].annotation is int else (Real, "a number")
        )
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"`imbalance_args.{key}` must be {a_number}, got {value!r}.")
    if build is None:
        return plain()
    if class_counts is None or len(class_counts) != method.num_classes:
        raise ValueError(
            f"`class_counts` must be {method.num_classes} numbers with `imbalance`, got "
            f"{class_counts}."
        )
    return build(class_counts, **options)
