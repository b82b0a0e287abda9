"""What methods share that may correct for imbalanced classes."""

import inspect
from abc import ABC
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from lightning_ssl.methods.abc_head import ABCHead
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.imbalance import Imbalance, LogitAdjustment, ProgressiveAlignment
from lightning_ssl.methods.ramp import progress

ImbalanceName = Literal["LogitAdjustment", "ProgressiveAlignment", "ABCHead"]


class ImbalanceModule(SSLModule, ABC):
    """Base of methods that may correct for classes of which few images are labelled.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        imbalance: :class:`~lightning_ssl.methods.imbalance.LogitAdjustment`,
            :class:`~lightning_ssl.methods.imbalance.ProgressiveAlignment`,
            :class:`~lightning_ssl.methods.abc_head.ABCHead`, or null for no correction.
        imbalance_args: Further arguments of that class.
        class_counts: Labelled images of each class, for ``imbalance``; taken from the data on the
            command line.
        **kwargs: Arguments of the next class.

    Raises:
        ValueError: If the name or an option is unknown, or the counts are missing.
    """

    def __init__(
        self,
        num_classes: int,
        imbalance: ImbalanceName | None = None,
        imbalance_args: dict[str, Any] | None = None,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        correction = _build(
            *(imbalance, imbalance_args, class_counts, num_classes, self.num_features)
        )
        self.unbalanced: nn.Module | None = None
        if isinstance(correction, ABCHead):
            # The network predicts with the balanced head, the method's losses keep their own.
            self.unbalanced, self.classifier = self.classifier, correction
            correction = Imbalance()
        self.imbalance = correction

    @property
    def head(self) -> nn.Module:
        """The classifier of the method's own losses."""
        return self.classifier if self.unbalanced is None else self.unbalanced

    def balanced_loss(
        self, features_x: Tensor, features_weak: Tensor, features_strong: Tensor, target: Tensor
    ) -> Tensor:
        """Loss of the balanced classifier, where ``unbalanced`` says that there is one.

        Args:
            features_x: Features of labelled images ``(B, F)``.
            features_weak: Of the unlabelled view that teaches, ``(U, F)``.
            features_strong: Of the unlabelled view that learns, ``(U, F)``.
            target: Classes of the labelled images ``(B,)``, int64.
        """
        done = progress(self, "`imbalance` must not be 'ABCHead'")
        balanced = cast(ABCHead, self.classifier)
        return balanced.loss(features_x, features_weak, features_strong, target, done)


def _build(
    name: ImbalanceName | None,
    options: dict[str, Any] | None,
    class_counts: Sequence[int] | None,
    num_classes: int,
    num_features: int,
) -> Imbalance | ABCHead:
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
    for key, value in options.items():
        kind, a_number = (
            (Integral, "an integer") if parameters[key].annotation is int else (Real, "a number")
        )
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"`imbalance_args.{key}` must be {a_number}, got {value!r}.")
    if build is None:
        return Imbalance()
    if class_counts is None or len(class_counts) != num_classes:
        raise ValueError(
            f"`class_counts` must be {num_classes} numbers with `imbalance`, got {class_counts}."
        )
    return build(class_counts, **options)
