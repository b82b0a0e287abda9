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
        probs: Probabilities of the classes ``(B, C)``, float32, of labelled images, where the data
            tells these: 1 and 0 where a label was given.
        kept: Whether an unlabelled image counts in the losses of unlabelled images ``(B,)``, bool,
            where some shall not, as they may show nothing of the classes; None for all.
    """

    views: dict[str, Tensor]
    target: Tensor = None  # type: ignore[assignment]  # methods need not narrow it
    hidden_target: Tensor | None = None
    index: Tensor = None  # type: ignore[assignment]  # hides tuple.index on purpose
    drawn: dict[str, Any] | None = None
    probs: Tensor | None = None
    kept: Tensor | None = None


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


def as_batch(
    batch: Batch | Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]] | None = None
) -> Batch:
    """Accept a batch as the same nesting of dicts, as ordinary loaders collate it.

    Args:
        batch: A :class:`Batch`, or a mapping with ``labeled`` or ``unlabeled`` or both (mappings
            with the names of :class:`Samples`) and optionally ``step``.
        wanted: Streams and names of views that it must have; None for any.

    Returns:
        The batch as named tuples.

    Raises:
        ValueError: If a key is unknown or something is missing.
    """
    made = batch if isinstance(batch, Batch) else _as_named(batch)
    for stream, views in (wanted or {}).items():
        _check_stream(stream, getattr(made, stream), views)
    return made


def _as_named(batch: Mapping[str, Any]) -> Batch:
    if not isinstance(batch, Mapping):
        raise ValueError(
            "`batch` must be a lightning_ssl.types.Batch or a dict with 'labeled' or 'unlabeled', "
            f"got {_kind(batch)}: a loader of images needs a hook that makes their views."
        )
    unknown = set(batch) - set(Batch._fields)
    streams = {name: batch[name] for name in Batch._fields[1:] if batch.get(name) is not None}
    if unknown or not streams:
        raise ValueError(
            f"`batch` must have keys of {Batch._fields}, 'labeled' or 'unlabeled' at least, "
            f"got {tuple(batch)}."
        )
    return Batch(batch.get("step"), **{n: _as_samples(n, value) for n, value in streams.items()})


def _as_samples(stream: str, samples: Samples | Mapping[str, Any]) -> Samples:
    if isinstance(samples, Samples):
        return samples
    if not isinstance(samples, Mapping):
        raise ValueError(
            f"`batch['{stream}']` must be a dict with 'views', got {_kind(samples)}: a loader of "
            "images needs a hook that makes their views."
        )
    unknown = set(samples) - set(Samples._fields)
    if unknown or "views" not in samples:
        raise ValueError(
            f"`batch['{stream}']` must have the keys {Samples._fields} ('views' at least), "
            f"got {tuple(samples)}."
        )
    views = samples["views"]
    if not isinstance(views, Mapping) or not views:
        raise ValueError(
            f"`batch['{stream}']['views']` must be a dict of images by view, got {_kind(views)}."
        )
    for name, images in views.items():
        if not isinstance(images, Tensor) or images.ndim != 5:
            raise ValueError(
                f"`batch['{stream}']['views']['{name}']` must be a tensor (copies, B, C, H, W), "
                f"got {_kind(images)}."
            )
    return Samples(**samples)


def _check_stream(stream: str, samples: Samples | None, views: Mapping[str, Any]) -> None:
    if samples is None:
        raise ValueError(f"`batch` must have '{stream}', which the method needs, got none.")
    for name, copies in views.items():
        found = samples.views.get(name)
        number = copies if isinstance(copies, int) else None
        if found is None and number != 0:
            raise ValueError(
                f"`batch['{stream}']['views']` must have {', '.join(map(repr, views))}, got "
                f"{', '.join(map(repr, samples.views))}."
            )
        if found is not None and number is not None and len(found) != number:
            raise ValueError(
                f"`batch['{stream}']['views']['{name}']` must have {number} copies, got "
                f"{len(found)}."
            )
    if stream == "labeled" and samples.target is None:
        raise ValueError("`batch['labeled']` must have 'target', the classes, got none.")


def _kind(value: Any) -> str:
    """What a value is, without its content."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    length = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{length}"
