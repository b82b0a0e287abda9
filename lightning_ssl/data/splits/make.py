"""Which training images carry a label, which do not, and which are held out to validate on."""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_ssl.data.splits.files import (
    Names,
    Split,
    assemble,
    load_split,
    read_labels,
    save_split,
)
from lightning_ssl.data.splits.select import Counts, check_tail, draw, long_tail, share, small_dtype

__all__ = ["Split", "label_counts", "load_split", "make_split", "save_split", "val_counts"]

_MIN_LABELS_FOR_VAL = 25  # labels per class from which a tenth of them can be spared
_CHUNK = 1 << 20  # coin flips drawn at a time


def make_split(
    targets: Tensor,
    num_classes: int,
    *,
    num_labels: int | None = None,
    labels_per_class: int | None = None,
    imbalance_ratio: float | None = None,
    label_fraction: float | None = None,
    coin_flip: bool = False,
    labels_file: str | os.PathLike[str] | None = None,
    unlabeled_per_class: int | None = None,
    unlabeled_imbalance_ratio: float | None = None,
    names: Names | None = None,
    pool: Tensor | None = None,
    val_per_class: int | None = None,
    has_val: bool = False,
    include_labeled: bool = True,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> Split:
    """Choose the labelled images: the same ones for the same seed, on every machine.

    At most one of ``num_labels``, ``labels_per_class``, ``label_fraction`` and ``labels_file`` says
    which; with none of them all known labels count. Validation images are cut out of the choice, so
    ``num_labels=250`` never sees a 251st label. Before that cut the lists of one seed are nested:
    four labels per class are among its 25 per class.

    Args:
        targets: Classes of the training images ``(N,)``, int64, -1 where no label is known.
        num_classes: Number of classes.
        num_labels: Labels in all: equally many per class where that divides, else in proportion to
            the classes' sizes, with at least one each.
        labels_per_class: Labels of each class, or of the largest with ``imbalance_ratio``.
        imbalance_ratio: Labels of the first class over those of the last, between which they fall
            exponentially; below 1 they rise.
        label_fraction: Share of the labels in (0, 1], in proportion to the classes' sizes.
        coin_flip: Whether to keep each label with probability ``label_fraction``, drawn in the
            order of the images from a generator seeded with ``seed`` itself; seed 0 is suncet's.
        labels_file: A list of labelled images, see :func:`~.splits_files.read_labels`.
        unlabeled_per_class: Unlabelled images of each class, or of the largest with
            ``unlabeled_imbalance_ratio``, besides the labelled ones; all others are left out. A
            stored split has its own.
        unlabeled_imbalance_ratio: Like ``imbalance_ratio``, of these images.
        names: The images, or their names, for lists of file names.
        pool: Indices of the images to choose from; None for all with a label.
        val_per_class: Labelled images per class to hold out. None for a tenth of each class, or
            none at all where the smallest has fewer than 25 labels. A stored split has its own.
        has_val: Whether the data set has validation images of its own.
        include_labeled: Whether the labelled images are in the unlabelled list, too. In a stored
            split that leaves them out they stay out.
        seed: Seed of the choice.
        classes: Class names, for messages.

    Raises:
        FileNotFoundError: If ``labels_file`` does not exist.
        ValueError: If the arguments contradict each other or the data, or a class gets no label.
    """
    _check_selectors(
        {
            "num_labels": num_labels,
            "labels_per_class": labels_per_class,
            "label_fraction": label_fraction,
            "labels_file": labels_file,
        },
        coin_flip,
    )
    check_tail(labels_per_class, imbalance_ratio, "labels_per_class", "imbalance_ratio")
    unlabeled = ("unlabeled_per_class", "unlabeled_imbalance_ratio")
    check_tail(unlabeled_per_class, unlabeled_imbalance_ratio, *unlabeled)
    keys = _make_keys(targets, num_classes, pool)
    stored = None if labels_file is None else read_labels(labels_file, len(targets), names)
    if stored is not None:
        labeled = stored.labeled
        _check_known(targets, labeled, f"'{labels_file}'")
    elif coin_flip and label_fraction is not None:
        labeled = _flip_coins(np.flatnonzero(keys >= 0), label_fraction, seed)
    else:
        available = np.bincount(keys[keys >= 0], minlength=num_classes)
        wanted = label_counts(
            available, num_labels, labels_per_class, label_fraction, imbalance_ratio, classes
        )
        labeled = draw(keys, wanted, seed, "split")
    keys = targets[labeled].to(small_dtype(num_classes)).numpy()
    counts = np.bincount(keys, minlength=num_classes)
    _check_every_class(counts, classes)
    if stored is not None and stored.split is not None:
        fixed = {"val_per_class": val_per_class, "unlabeled_per_class": unlabeled_per_class}
        return _restore(stored.split, targets, fixed, include_labeled, str(labels_file))
    held = val_counts(counts, val_per_class, has_val, classes)
    positions = draw(keys, held, seed, "val")
    keep = torch.ones(len(labeled), dtype=torch.bool)
    keep[positions] = False
    split = assemble(len(targets), labeled[keep], labeled[positions], include_labeled)
    if unlabeled_per_class is None:
        return split
    wanted = long_tail(unlabeled_per_class, unlabeled_imbalance_ratio or 1, num_classes)
    drawn = _draw_unlabeled(split, targets, wanted, seed, classes)
    if include_labeled:
        drawn = torch.cat([split.labeled, drawn]).sort().values
    return Split(split.labeled, drawn, split.val)


def label_counts(
    available: Sequence[int] | Counts,
    num_labels: int | None = None,
    labels_per_class: int | None = None,
    label_fraction: float | None = None,
    imbalance_ratio: float | None = None,
    classes: Sequence[str] | None = None,
) -> Counts:
    """Count the labels that :func:`make_split` draws of each class, validation images included.

    Args:
        available: Known labels per class.
        num_labels: See :func:`make_split`.
        labels_per_class: See :func:`make_split`.
        label_fraction: See :func:`make_split`, without coin flip.
        imbalance_ratio: See :func:`make_split`.
        classes: Class names, for messages.

    Returns:
        Labels per class ``(num_classes,)``.

    Raises:
        ValueError: If there are not that many, or too few for one per class.

    Example:
        >>> label_counts([60, 30, 10], num_labels=20).tolist()
        [12, 6, 2]
        >>> label_counts([60, 30, 10], num_labels=9).tolist()
        [3, 3, 3]
    """
    counts = np.asarray(available, dtype=np.int64)
    _check_every_class(counts, classes)
    if labels_per_class is not None:
        wanted = long_tail(labels_per_class, imbalance_ratio or 1, len(counts))
        asked = f"`labels_per_class` (--data.labels_per_class) {labels_per_class}"
    elif num_labels is not None:
        asked = f"`num_labels` (--data.num_labels) {num_labels}"
        _check_number(num_labels, counts, asked)
        even = num_labels % len(counts) == 0
        wanted = (
            np.full_like(counts, num_labels // len(counts)) if even else share(counts, num_labels)
        )
    elif label_fraction is not None:
        number = int(label_fraction * int(counts.sum()) + 0.5)
        asked = f"`label_fraction` (--data.label_fraction) {label_fraction}"
        _check_number(number, counts, f"{asked} ({number} labels)")
        wanted = share(counts, number)
    else:
        return counts
    _check_enough(wanted, counts, f"{asked} needs {{}} labels", classes)
    return wanted


def val_counts(
    labels: Sequence[int] | Counts,
    val_per_class: int | None = None,
    has_val: bool = False,
    classes: Sequence[str] | None = None,
) -> Counts:
    """Count the labelled images that :func:`make_split` holds out of each class.

    Args:
        labels: Labels per class, as :func:`label_counts` gives them.
        val_per_class: See :func:`make_split`.
        has_val: Whether the data set has validation images of its own.
        classes: Class names, for messages.

    Raises:
        ValueError: If a class would keep no label, or the data set has validation images.

    Example:
        >>> val_counts([40, 400]).tolist(), val_counts([24, 400]).tolist()
        ([4, 40], [0, 0])
    """
    counts = np.asarray(labels, dtype=np.int64)
    if val_per_class is None:
        spare = not has_val and counts.min() >= _MIN_LABELS_FOR_VAL
        return counts // 10 if spare else np.zeros_like(counts)
    argument = "`val_per_class` (--data.val_per_class)"
    if val_per_class < 0:
        raise ValueError(f"{argument} must not be negative, got {val_per_class}.")
    if has_val and val_per_class:
        raise ValueError(
            f"{argument} must be 0 for a data set with validation images of its own, got "
            f"{val_per_class}."
        )
    worst = int(counts.argmin())
    if counts[worst] <= val_per_class:
        raise ValueError(
            f"{argument} {val_per_class} leaves no label of {_name(worst, classes)}, which has "
            f"{counts[worst]}."
        )
    return np.full_like(counts, val_per_class)


def _check_selectors(selectors: dict[str, object], coin_flip: bool) -> None:
    given = [name for name, value in selectors.items() if value is not None]
    if len(given) > 1:
        flags = " and ".join(f"`{name}` (--data.{name})" for name in given)
        raise ValueError(f"At most one argument may choose the labels, got {flags}.")
    fraction = selectors["label_fraction"]
    if isinstance(fraction, int | float) and not 0 < fraction <= 1:
        raise ValueError(
            f"`label_fraction` (--data.label_fraction) must be in (0, 1], got {fraction}."
        )
    if coin_flip and fraction is None:
        raise ValueError(
            "`coin_flip` (--data.coin_flip) needs `label_fraction` (--data.label_fraction)."
        )


def _check_enough(
    wanted: Counts, counts: Counts, needs: str, classes: Sequence[str] | None
) -> None:
    short = np.flatnonzero(wanted > counts)
    if short.size:
        raise ValueError(
            f"{needs.format(wanted[short[0]])} of {_name(short[0], classes)}, which has "
            f"{counts[short[0]]}; {short.size} of {len(counts)} classes have too few."
        )


def _check_number(number: int, counts: Counts, asked: str) -> None:
    if number > counts.sum():
        raise ValueError(f"{asked} exceeds the {counts.sum()} known labels.")
    if number < len(counts):
        raise ValueError(f"{asked} is less than one label for each of {len(counts)} classes.")


def _make_keys(targets: Tensor, num_classes: int, pool: Tensor | None) -> npt.NDArray[np.integer]:
    """Classes as small integers, which sort in linear time; -1 for images not to choose from."""
    low, high = (int(t) for t in targets.aminmax())
    if low < -1 or high >= num_classes:
        raise ValueError(
            f"`targets` must be in [-1, {num_classes - 1}], got {low if low < -1 else high}."
        )
    dtype = small_dtype(num_classes)
    if pool is None:
        return targets.to(dtype).numpy()
    _check_known(targets, pool, "`pool`")
    keys = torch.full((len(targets),), -1, dtype=dtype)
    keys[pool] = targets[pool].to(dtype)
    return keys.numpy()


def _flip_coins(candidates: Counts, label_fraction: float, seed: int) -> Tensor:
    # One generator, one draw per image in order, as suncet does for ImageNet.
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for start in range(0, len(candidates), _CHUNK):
        part = torch.from_numpy(candidates[start : start + _CHUNK])
        hidden = torch.full((len(part),), 1 - label_fraction)
        kept.append(part[torch.bernoulli(hidden, generator=generator) == 0])
    return torch.cat(kept) if kept else torch.empty(0, dtype=torch.int64)


def _draw_unlabeled(
    split: Split, targets: Tensor, wanted: Counts, seed: int, classes: Sequence[str] | None
) -> Tensor:
    """Draw images that are neither labelled nor held out, of classes that benchmarks know."""
    asked = "`unlabeled_per_class` (--data.unlabeled_per_class)"
    unknown = int((targets < 0).sum())
    if unknown:
        raise ValueError(
            f"{asked} needs the class of every training image, but {unknown} of {len(targets)} "
            "are not known."
        )
    keys = targets.to(small_dtype(len(wanted)), copy=True)
    keys[split.labeled] = keys[split.val] = -1
    available = np.bincount(keys[keys >= 0].numpy(), minlength=len(wanted))
    _check_enough(wanted, available, f"{asked} needs {{}} images without label", classes)
    return draw(keys.numpy(), wanted, seed, "unlabeled")


def _restore(
    split: Split,
    targets: Tensor,
    fixed: dict[str, int | None],
    include_labeled: bool,
    path: str,
) -> Split:
    for name, value in fixed.items():
        if value is not None:
            raise ValueError(
                f"`{name}` (--data.{name}) cannot change a stored split, which holds out "
                f"{len(split.val)} images and has {len(split.unlabeled)} unlabelled ones: "
                f"'{path}'; got {value}."
            )
    _check_known(targets, split.val, f"'{path}'")
    if include_labeled:
        return split
    others = np.setdiff1d(split.unlabeled.numpy(), split.labeled.numpy(), assume_unique=True)
    return Split(split.labeled, torch.from_numpy(others), split.val)


def _check_known(targets: Tensor, indices: Tensor, where: str) -> None:
    unknown = indices[targets[indices] < 0]
    if len(unknown):
        raise ValueError(
            f"{where} lists {len(unknown)} images whose label is not known; the first has index "
            f"{int(unknown[0])}."
        )


def _check_every_class(counts: Counts, classes: Sequence[str] | None) -> None:
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        raise ValueError(
            f"Every class needs a label, but {empty.size} of {len(counts)} have none; the first: "
            f"{_name(empty[0], classes)}."
        )


def _name(index: int | np.integer, classes: Sequence[str] | None) -> str:
    return f"class {index}" + (f" ('{classes[int(index)]}')" if classes is not None else "")
