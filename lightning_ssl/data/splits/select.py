"""How many images of each class a split takes, and which."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_ssl.seeding import make_generator

Counts = npt.NDArray[np.int64]


def long_tail(largest: int, ratio: float, num_classes: int) -> Counts:
    r"""Count the images of each class in a long tail.

    Class :math:`k` of :math:`0 \dots C-1` has :math:`N_1 \gamma^{-k/(C-1)}` images, rounded down
    (https://arxiv.org/abs/2007.08844). A ratio below 1 is the same tail in reverse order.

    Args:
        largest: Images of the largest class, :math:`N_1`.
        ratio: Images of the first class over those of the last, :math:`\gamma`.
        num_classes: Number of classes, :math:`C`.

    Example:
        >>> long_tail(1500, 100, 10).tolist()
        [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
        >>> long_tail(100, 0.1, 3).tolist()
        [10, 31, 100]
    """
    steps = [k / max(1, num_classes - 1) for k in range(num_classes)]
    # What is an integer, such as 1000 / 1000^(1/3), shall not fall below it by a rounding error.
    sizes = [math.floor(largest * max(ratio, 1 / ratio) ** -step + 1e-6) for step in steps]
    return np.asarray(sizes if ratio >= 1 else sizes[::-1], dtype=np.int64)


def check_tail(largest: int | None, ratio: float | None, size: str, steepness: str) -> None:
    """See that options describe a long tail, or classes of one size, or nothing.

    Args:
        largest: See :func:`long_tail`; None for no limit.
        ratio: See :func:`long_tail`; None for 1.
        size: Name of the first option.
        steepness: Name of the second one.

    Raises:
        ValueError: If a value is out of range, or a ratio has no size.
    """
    size, steepness = (f"`{name}` (--data.{name})" for name in (size, steepness))
    if largest is not None and largest < 1:
        raise ValueError(f"{size} must be positive, got {largest}.")
    if ratio is not None and largest is None:
        raise ValueError(f"{steepness} needs {size}, the number of the largest class.")
    if ratio is not None and largest is not None and not 1 / largest <= ratio <= largest:
        raise ValueError(
            f"{steepness} must be between 1/{largest} and {largest}, the number of the largest "
            f"class, so that every class has an image, got {ratio}."
        )


def draw(keys: npt.NDArray[np.integer], wanted: Counts, *seed: int | str) -> Tensor:
    """Draw positions with each key, ``wanted[key]`` of them without replacement.

    Args:
        keys: Class of each position ``(N,)``, -1 where it cannot be drawn.
        wanted: Positions to draw of each class.
        *seed: What the draw depends on, see :func:`~lightning_ssl.seeding.make_generator`.

    Returns:
        The positions, increasing.
    """
    if wanted.sum() in (0, (keys >= 0).sum()):  # nothing to choose
        return torch.from_numpy(np.flatnonzero(keys >= 0 if wanted.any() else keys[:0]))
    order = torch.from_numpy(np.argsort(keys, kind="stable"))  # linear for 16 bits
    bounds = np.searchsorted(keys, np.arange(len(wanted) + 1), sorter=order.numpy())
    generator = make_generator(*seed)
    drawn = []
    for number, start, end in zip(wanted, bounds[:-1], bounds[1:], strict=True):
        # Permuting the whole class, however few are wanted, makes the lists of a seed nested.
        chosen = torch.randperm(int(end - start), generator=generator)[: int(number)]
        drawn.append(order[int(start) + chosen])
    del order
    return torch.cat(drawn).sort().values


def share(counts: Counts, number: int) -> Counts:
    """Divide a number of labels in proportion to counts by largest remainder, at least one each.

    Args:
        counts: Known labels per class, all positive.
        number: Labels in all, at least one per class.
    """
    total = int(counts.sum())
    exact = counts * number  # quotas times total: integers, so equal on every machine
    shares = np.maximum(exact // total, 1)
    missing = number - int(shares.sum())
    if missing > 0:
        shares[np.argsort(shares * total - exact, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # the ones given to tiny classes come from who is most above quota
        excess = np.where(shares > 1, shares * total - exact, -total * number)
        shares[int(excess.argmax())] -= 1
    return shares


def small_dtype(num_classes: int) -> torch.dtype:
    """Choose the smallest integers that hold the classes and -1; those of 16 bits sort linearly.

    Args:
        num_classes: Number of classes.
    """
    return torch.int16 if num_classes < 1 << 15 else torch.int32
