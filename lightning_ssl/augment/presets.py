"""Augmentation pipelines by name."""

from lightning_ssl.augment.base import Compose, RandomApply, Transform
from lightning_ssl.augment.color import grayscale
from lightning_ssl.augment.crops import (
    HorizontalFlip,
    InceptionCrop,
    PadCrop,
    RandomResizedCrop,
)
from lightning_ssl.augment.jitter import HSVNoise, color_jitter
from lightning_ssl.augment.randaugment import RandAugment
from lightning_ssl.augment.tone import equalize, solarize
from lightning_ssl.augment.transforms import Cutout, GaussianBlur, Op
from lightning_ssl.checks import check_count

PRESETS = ("basic", "weak", "medium", "strong", "simclr", "exemplar", "support", "global", "local")
LARGE = 64
"""Images with a side above this get the pipelines of ImageNet, others those of CIFAR-10."""


def preset(
    name: str, size: int, *, hflip: bool = True, multicrop: bool = False, multiple: int = 1
) -> Transform:
    """Make the pipeline of a view; geometry scales with the image's side.

    * ``basic``: flip (large: random-resized crop and flip).
    * ``weak``: flip and reflect-pad-crop by an eighth of the side (large: random-resized crop and
      flip).
    * ``strong``: ``weak``, then RandAugment and a cutout of half the side (FixMatch).
    * ``medium``: ``strong`` with one operation in place of two (SequenceMatch).
    * ``simclr``: random-resized crop, flip, colour jitter, grayscale (large: and blur).
    * ``exemplar``: ``weak``, then the colour noise of S4L (large: with its crop).
    * ``support`` and ``global``: the large crop of PAWS; ``local``: its small crop.

    Nothing is normalised.

    Args:
        name: One of :data:`PRESETS`.
        size: Side of the images in pixels.
        hflip: Whether a horizontal flip keeps the label.
        multicrop: Whether the method also uses ``local`` views; PAWS then cuts its large crops
            differently.
        multiple: What the side of ``local`` is a multiple of: the patch of a transformer.

    Raises:
        ValueError: If ``name`` is unknown or ``size`` below 1.
    """
    if name not in PRESETS:
        raise ValueError(f"`name` must be one of {PRESETS}, got {name!r}.")
    check_count("size", size)
    flip: list[Transform] = [HorizontalFlip()] if hflip else []
    if name == "basic":
        return Compose([RandomResizedCrop(size), *flip] if size > LARGE else flip)
    if name == "weak":
        return Compose(_weak(size, flip))
    if name in ("medium", "strong"):
        operations = RandAugment(num_ops=1 if name == "medium" else 2)
        return Compose([*_weak(size, flip), operations, Cutout(size // 2)])
    if name == "exemplar":
        moved = [InceptionCrop(size), *flip] if size > LARGE else _weak(size, flip)
        return Compose([*moved, HSVNoise()])
    if name == "simclr":
        crop = RandomResizedCrop(size)
        return Compose([crop, *flip, *(_imagenet_color() if size > LARGE else _cifar_color(False))])
    crop = _paws_crop(name, size, multicrop, multiple)
    return Compose([crop, *flip, *(_imagenet_color() if size > LARGE else _cifar_color(True))])


def _weak(size: int, flip: list[Transform]) -> list[Transform]:
    if size > LARGE:
        return [RandomResizedCrop(size), *flip]
    return [*flip, PadCrop(size // 8)]


def _paws_crop(name: str, size: int, multicrop: bool, multiple: int) -> RandomResizedCrop:
    """Crops of arXiv 2104.13963 as in facebookresearch/suncet."""
    if name == "local":
        # 18 of 32 and 96 of 224 pixels, rounded up.
        small = -(-96 * size // 224) if size > LARGE else -(-18 * size // 32)
        small = -(-small // multiple) * multiple
        return RandomResizedCrop(small, (0.05, 0.14) if size > LARGE else (0.3, 0.75))
    if size > LARGE:
        return RandomResizedCrop(size, (0.14, 1.0) if multicrop else (0.08, 1.0))
    return RandomResizedCrop(size, (0.75, 1.0) if multicrop else (0.5, 1.0))


def _imagenet_color() -> list[Transform]:
    return [
        RandomApply(color_jitter(1.0), 0.8),
        RandomApply(Op(grayscale), 0.2),
        RandomApply(GaussianBlur((0.1, 2.0)), 0.5),
    ]


def _cifar_color(paws: bool) -> list[Transform]:
    jitter = RandomApply(color_jitter(0.5), 0.8)
    if not paws:  # SimCLR on CIFAR-10: no blur
        return [jitter, RandomApply(Op(grayscale), 0.2)]
    # suncet draws PIL's threshold from [0, 256).
    return [jitter, RandomApply(Op(solarize, 0, 256 / 255), 0.2), RandomApply(Op(equalize), 0.2)]
