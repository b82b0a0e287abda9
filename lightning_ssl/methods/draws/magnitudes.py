"""What methods share whose strong views are CTAugment's."""

from abc import ABC
from typing import Any, Literal, get_args

import torch

from lightning_ssl.augment import CTAugment
from lightning_ssl.distributed import gather
from lightning_ssl.losses import softmax
from lightning_ssl.methods.families.teacher import TeacherModule
from lightning_ssl.types import Samples

Augment = Literal["ctaugment", "randaugment"]


class MagnitudesModule(TeacherModule, ABC):
    """Base of methods that may learn the magnitudes of their strong views.

    A method with a ``ctaugment`` declares a view ``probe`` of its labelled images, by
    :class:`~lightning_ssl.augment.CTAugmentProbe`, and calls :meth:`learn_magnitudes`.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        augment: Whose strong views: ``ctaugment``, or ``randaugment`` without a ``ctaugment``.
        **kwargs: Arguments of :class:`SSLModule`; ``ctaugment`` needs an ``ema_decay`` above 0.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, num_classes: int, augment: Augment = "randaugment", **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if augment not in get_args(Augment):
            raise ValueError(f"`augment` must be one of {get_args(Augment)}, got {augment!r}.")
        self.ctaugment = CTAugment() if augment == "ctaugment" else None
        if self.ctaugment is not None:
            self.require_average()

    @torch.no_grad()
    def learn_magnitudes(self, labeled: Samples) -> None:
        """Raise the rates of magnitudes at which the average still recognises the class.

        Args:
            labeled: The labelled images, with their view ``probe``.

        Raises:
            ValueError: If what the probes drew did not come along.
        """
        if self.ctaugment is None:
            return
        if not labeled.drawn or "probe" not in labeled.drawn:
            raise ValueError(
                "`batch.labeled.drawn` must hold what the view 'probe' drew, the second value that "
                f"`Views` returns, got {tuple(labeled.drawn or ())}."
            )
        probs = softmax(self.teach(labeled.views["probe"][0], training=False))
        # 1 minus half the absolute difference between the prediction and the one-hot label.
        agreement = probs.gather(1, labeled.target[:, None])[:, 0]
        learned = self.ctaugment.learned(labeled.drawn["probe"], agreement)
        self.ctaugment.update(gather(learned[None]))
        self.log("train/usable_bins", self.ctaugment.usable())
