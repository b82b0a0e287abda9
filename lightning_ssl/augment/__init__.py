"""Batched augmentation on the device, with parameters drawn per image.

What is random is drawn on the CPU from a generator; what is applied runs for the whole batch on the
images' device. :class:`Views` turns uint8 images into the named views a method asks for;
:func:`preset` makes one pipeline by name; every operation is also a function of images and
parameters, in `color`, `tone`, `filters`, `geometry` and `resize`.
"""

from lightning_ssl.augment import color, filters, geometry, resize, tone
from lightning_ssl.augment.base import Compose, Custom, RandomApply, Transform, apply_slots
from lightning_ssl.augment.crops import (
    HorizontalFlip,
    InceptionCrop,
    PadCrop,
    RandomResizedCrop,
)
from lightning_ssl.augment.ctaugment import CTAugment, CTAugmentProbe
from lightning_ssl.augment.jitter import ColorJitter, HSVNoise
from lightning_ssl.augment.presets import PRESETS, preset
from lightning_ssl.augment.randaugment import RandAugment, fixmatch_pool
from lightning_ssl.augment.transforms import (
    Cutout,
    GaussianBlur,
    GaussianNoise,
    Normalize,
    Op,
    QuarterTurns,
)
from lightning_ssl.augment.views import View, Views

__all__ = [
    "PRESETS",
    "CTAugment",
    "CTAugmentProbe",
    "ColorJitter",
    "Compose",
    "Custom",
    "Cutout",
    "GaussianBlur",
    "GaussianNoise",
    "HSVNoise",
    "HorizontalFlip",
    "InceptionCrop",
    "Normalize",
    "Op",
    "PadCrop",
    "QuarterTurns",
    "RandAugment",
    "RandomApply",
    "RandomResizedCrop",
    "Transform",
    "View",
    "Views",
    "apply_slots",
    "color",
    "filters",
    "fixmatch_pool",
    "geometry",
    "preset",
    "resize",
    "tone",
]
