"""CTAugment in a method: the strong views learn their magnitudes from probes."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_ssl.augment import CTAugment
from lightning_ssl.augment.ctaugment import Translation
from lightning_ssl.distributed import gather
from lightning_ssl.losses import softmax
from lightning_ssl.types import Samples

Augment = Literal["ctaugment", "randaugment"]


def build_ctaugment(augment: Augment, translation: Translation) -> CTAugment | None:
    """The strong views that an option names.

    Args:
        augment: Whose strong views: ``ctaugment``, or ``randaugment`` without a ``ctaugment``.
        translation: What its shifts are counted in.

    Raises:
        ValueError: If there is no such option.
    """
    if augment not in get_args(Augment):
        raise ValueError(f"`augment` must be one of {get_args(Augment)}, got {augment!r}.")
    ctaugment = CTAugment(translation=translation)  # names a wrong value in either case
    return ctaugment if augment == "ctaugment" else None


@torch.no_grad()
def learn_magnitudes(
    ctaugment: CTAugment, labeled: Samples, teacher: Callable[[Tensor], Tensor]
) -> None:
    """Raise the rates of magnitudes at which the average still recognises the class.

    Args:
        ctaugment: Whose rates; call it on all processes.
        labeled: The labelled images, with a view ``probe`` by
            :class:`~lightning_ssl.augment.CTAugmentProbe`.
        teacher: From images ``(B, C, H, W)`` to the average's logits.

    Raises:
        ValueError: If what the probes drew did not come along.
    """
    if not labeled.drawn or "probe" not in labeled.drawn:
        raise ValueError(
            "`batch.labeled.drawn` must hold what the view 'probe' drew, the second value that "
            f"`Views` returns, got {tuple(labeled.drawn or ())}."
        )
    probs = softmax(teacher(labeled.views["probe"][0]))
    # 1 minus half the absolute difference between the prediction and the one-hot label.
    agreement = probs.gather(1, labeled.target[:, None])[:, 0]
    learned = ctaugment.learned(labeled.drawn["probe"], agreement)
    ctaugment.update(gather(learned[None]))
