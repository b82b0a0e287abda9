"""Values of the datamodule that are out of range, or that no machine can do with."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_ssl.checks import check_count
from lightning_ssl.data.loading.loader import available_cores
from lightning_ssl.data.orders import Order

_ORDERS = ("shuffled", "balanced", "stratified")


def check_form(normalize: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse a normalisation of no pixels in [0, 1].

    Args:
        normalize: ``dataset`` or ``symmetric``.
        mean: Mean per channel; None for what ``normalize`` says.
        std: Standard deviation per channel; None likewise.

    Raises:
        ValueError: For the first that is out of range.
    """
    if normalize not in ("dataset", "symmetric"):
        raise ValueError(
            f"`data.normalize` must be one of ('dataset', 'symmetric'), got '{normalize}'."
        )
    if mean is not None and not all(0 <= value <= 1 for value in mean):
        raise ValueError(f"`data.mean` must be of pixels in [0, 1], got {list(mean)}.")
    if std is not None and not all(0 < value <= 1 for value in std):
        raise ValueError(f"`data.std` must be above 0, of pixels in [0, 1], got {list(std)}.")


def check_two_classes(classes: Sequence[str], root: str | None) -> None:
    """Refuse images that are all of one class, which nobody can tell apart.

    Args:
        classes: Class names.
        root: Where the images are.

    Raises:
        ValueError: If there is one alone.
    """
    if len(classes) < 2:
        raise ValueError(
            f"`data.root` '{root}' must have two classes or more, got {', '.join(classes)} alone."
        )


def check_walk(
    sizes: Mapping[str, int | None],
    steps_per_epoch: int | str,
    labeled_order: str | None,
    num_workers: int | None,
) -> None:
    """Refuse sizes, lengths, orders and numbers of processes that do not exist or do not help.

    Args:
        sizes: Batch sizes by name; None where the method chooses.
        steps_per_epoch: Length of an epoch.
        labeled_order: Order of the labelled images; None where the method chooses.
        num_workers: Decoding processes; None where the data choose.

    Raises:
        ValueError: For the first that is wrong.
    """
    for name, value in {**sizes, "steps_per_epoch": steps_per_epoch}.items():
        if isinstance(value, int):
            check_count(f"data.{name}", value)
    if isinstance(steps_per_epoch, str) and steps_per_epoch not in ("unlabeled", "labeled"):
        raise ValueError(
            "`data.steps_per_epoch` must be a number, 'unlabeled' or 'labeled', got "
            f"'{steps_per_epoch}'."
        )
    if labeled_order not in (None, *_ORDERS):
        raise ValueError(
            f"`data.labeled_order` must be null or one of {_ORDERS}, got '{labeled_order}'."
        )
    most = max(64, 8 * available_cores())  # a config of a larger machine still works
    if num_workers is not None and not 0 <= num_workers <= most:
        raise ValueError(
            f"`data.num_workers` must be in [0, {most}] on this machine of {available_cores()} "
            f"processors, got {num_workers}."
        )


def check_memory(
    orders: Mapping[str, Order | None],
    views: Mapping[str, Mapping[str, Any]],
    form: tuple[int, int],
    processes: int,
) -> None:
    """Refuse a step whose views alone are larger than the memory of the machine.

    Args:
        orders: Stream to its order; None where a method asks for none.
        views: Views of the method, see :class:`lightning_ssl.augment.Views`.
        form: Channels and side of the images.
        processes: Number of processes that share a batch.

    Raises:
        ValueError: If there is such a stream.
    """
    memory, (channels, side) = _memory(), form
    for stream, order in orders.items():
        if order is None or memory is None:
            continue
        copies = sum(n if isinstance(n, int) else 1 for n in views[stream].values())
        image = copies * channels * side**2 * 4  # bytes; float32
        most = memory // image * processes
        if order.batch_size > most:
            name = "batch_size" if stream == "labeled" else "unlabeled_batch_size"
            raise ValueError(
                f"`data.{name}` must be at most {most}, for this machine to hold {copies} views of "
                f"each image of {side}x{side} pixels, got {order.batch_size}."
            )


def _memory() -> int | None:
    """Bytes of the machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
