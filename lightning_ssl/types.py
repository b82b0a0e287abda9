"""What travels from the data to a method."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Logger(Protocol):
    """Who writes down the values of a step: a method, for the parts that it has."""

    def log(self, name: str, value: Any) -> None:
        """Log one value under a name."""

    def log_classes(self, name: str, values: Tensor) -> None:
        """Log a value of each class ``(C,)`` under a name."""


class Samples(NamedTuple):
    """Images of one stream (labelled or unlabelled).

    Attributes:
        views: Name of a view to its images ``(copies, B, C, H, W)``, normalised, in the module's
            floating dtype.
        target: Classes ``(B,)``, int64 in ``[0, num_classes)``; None for unlabelled images.
        hidden_target: Known classes of unlabelled images ``(B,)``, int64, -1 where unknown. For
            diagnosis only: nothing that trains may read it.
        index: Positions in the labelled or unlabelled list ``(B,)``, int64; what memories are
            indexed by.
        drawn: Name of a view to what its transform drew for each image.
    """

    views: dict[str, Tensor]
    target: Tensor = None  # type: ignore[assignment]  # methods need not narrow it
    hidden_target: Tensor | None = None
    index: Tensor = None  # type: ignore[assignment]  # hides tuple.index on purpose
    drawn: dict[str, Any] | None = None


class Batch(NamedTuple):
    """One training step's images.

    Attributes:
        step: The plan's step, counted in micro-batches from the start of the run; None in batches
            that no plan made.
        labeled: Images with a label; None where a method asks for none.
        unlabeled: Images without; None where a method asks for none.
    """

    step: int | None
    labeled: Samples = None  # type: ignore[assignment]  # methods need not narrow it
    unlabeled: Samples = None  # type: ignore[assignment]  # methods need not narrow it


def as_batch(batch: Batch | Mapping[str, Any]) -> Batch:
    """Accept a batch as the same nesting of dicts, as ordinary loaders collate it.

    Args:
        batch: A :class:`Batch`, or a mapping with ``labeled`` or ``unlabeled`` or both (mappings
            with the names of :class:`Samples`) and optionally ``step``.

    Returns:
        The batch as named tuples.

    Raises:
        ValueError: If a key is unknown or there are no images.
    """
    if isinstance(batch, Batch):
        return batch
    unknown = set(batch) - set(Batch._fields)
    streams = {name: batch[name] for name in Batch._fields[1:] if batch.get(name) is not None}
    if unknown or not streams:
        raise ValueError(
            f"`batch` must have keys of {Batch._fields}, 'labeled' or 'unlabeled' at least, "
            f"got {tuple(batch)}."
        )
    return Batch(batch.get("step"), **{n: _as_samples(value) for n, value in streams.items()})


def _as_samples(samples: Samples | Mapping[str, Any]) -> Samples:
    if isinstance(samples, Samples):
        return samples
    unknown = set(samples) - set(Samples._fields)
    if unknown or "views" not in samples:
        raise ValueError(
            f"Samples must have the keys {Samples._fields} ('views' at least), "
            f"got {tuple(samples)}."
        )
    return Samples(**samples)
