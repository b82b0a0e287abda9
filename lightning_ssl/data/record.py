"""What a checkpoint keeps of the data, and the check that it belongs to it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.data.splits.make import Split
from lightning_ssl.records import check_same, plain

FORM = ("image_size", "in_channels", "mean", "std", "crop_pct", "interpolation")
"""What of the record says what an image is."""

WALK = (
    *("batch_size", "unlabeled_batch_size", "labeled_order", "classes_per_batch"),
    *(
        "unique_classes_per_rank",
        "steps_per_epoch",
        "hflip",
        "reject_outliers",
        "cached_features",
        "cached_views",
    ),
)
"""Options that a resumed run has to have from its beginning, beside the lists of images."""


def digest(*columns: Tensor | None) -> str:
    """Tell lists apart that may be as long as the data, whatever file they came from.

    Args:
        *columns: Integers, or float32; None is left out.
    """
    found = hashlib.blake2b(digest_size=16)
    for column in (c for c in columns if c is not None):
        kind = "<f4" if column.is_floating_point() else "<i8"
        found.update(column.numpy().astype(kind).tobytes())
    return found.hexdigest()


def make_record(
    classes: Sequence[str],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    split: Split,
    seed: int,
    views: Sequence[str],
    pseudo_digest: str | None = None,
    options: dict[str, Any] | None = None,
    exif_orientation: bool = False,
    center: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Record what prediction needs besides weights, and the lists a resumed run must share.

    Args:
        classes: Class names in the order of the class numbers.
        image_size: Side of the images in pixels.
        mean: Mean per channel of pixels in [0, 1].
        std: Standard deviation per channel of pixels in [0, 1].
        split: The labelled, unlabelled and validation lists.
        seed: Seed of the order and the views.
        views: Names of the views whose transforms the user gave.
        pseudo_digest: Digest of the pseudo-labels; None without any.
        options: How the data is walked, see :data:`WALK`.
        exif_orientation: Whether photos are turned as their EXIF data say.
        center: How evaluation cuts and resizes photos, ``crop_pct`` and ``interpolation``.

    Returns:
        Plain values and tensors, so that the checkpoint loads with ``weights_only=True``.
    """
    record: dict[str, Any] = plain(
        {
            "classes": list(classes),
            "image_size": image_size,
            "in_channels": len(mean),
            "mean": list(mean),
            "std": list(std),
            "labeled": split.labeled,
            "val": split.val,
            "unlabeled": digest(split.unlabeled),
            "seed": seed,
            "views": sorted(views),
            "pseudo_labels": pseudo_digest,
            "options": options or {},
            "exif_orientation": exif_orientation,
            **(center or {}),
        }
    )
    return record


def check_classes(record: dict[str, Any], classes: Sequence[str]) -> None:
    """See that a checkpoint means the same by its class numbers.

    Args:
        record: What :func:`make_record` returned.
        classes: Class names of the data.

    Raises:
        ValueError: If they differ.
    """
    if tuple(record["classes"]) != tuple(classes):
        raise ValueError(
            f"`ckpt_path` was trained on the classes {tuple(record['classes'])}, the data has "
            f"{tuple(classes)}."
        )


def check_resumed(
    record: dict[str, Any],
    split: Split,
    seed: int,
    views: Sequence[str],
    pseudo_digest: str | None = None,
    exif_orientation: bool | None = None,
    seed_flag: str = "data.seed",
) -> None:
    """See that a run goes on with the labelled images, order and views it began with.

    Args:
        record: What :func:`make_record` returned.
        split: The lists of the data.
        seed: Seed of the order and the views.
        views: Names of the views whose transforms the user gave.
        pseudo_digest: Digest of the pseudo-labels; None without any.
        exif_orientation: Whether photos are turned as their EXIF data say; None where there are
            no files.
        seed_flag: Option that ``seed`` comes from, for messages.

    Raises:
        ValueError: If they differ.
    """
    if record["seed"] != seed:
        raise ValueError(
            f"`ckpt_path` was trained with the data seed {record['seed']}, got {seed}: give "
            f"--{seed_flag} {record['seed']}."
        )
    if record["views"] != sorted(views):
        raise ValueError(
            f"`ckpt_path` was trained with transforms of the user's own for {record['views']}, got "
            f"some for {sorted(views)}: give the same `data.views`."
        )
    turned = bool(record.get("exif_orientation", False))  # not before it was a choice
    if exif_orientation not in (None, turned):
        raise ValueError(
            f"`ckpt_path` was trained with `data.exif_orientation` {str(turned).lower()}, got "
            f"{str(exif_orientation).lower()}."
        )
    for name, own in (("labeled", split.labeled), ("val", split.val)):
        if not torch.equal(record[name].cpu(), own):
            raise ValueError(
                f"`ckpt_path` was trained with other '{name}' images than the data options choose "
                "now; give the split.json of its run as `data.labels_file`."
            )
    unlabeled = digest(split.unlabeled)
    if record.get("unlabeled", unlabeled) != unlabeled:  # not in checkpoints of 0.1.0
        raise ValueError(
            "`ckpt_path` was trained with other unlabelled images than `data.include_labeled`, "
            "`data.unlabeled_per_class` and `data.unlabeled_imbalance_ratio` choose now; give the "
            "split.json of its run as `data.labels_file`."
        )
    if record.get("pseudo_labels") != pseudo_digest:  # not in checkpoints of 0.1.0
        raise ValueError(
            "`ckpt_path` was trained on other pseudo-labels than `data.pseudo_labels` and its "
            "column and threshold choose now; give the split.json of its run as "
            "`data.pseudo_labels`."
        )


def check_walk(record: dict[str, Any], now: dict[str, Any], options: Mapping[str, Any]) -> None:
    """See that a run goes on with the form of its images, and as it walks them.

    Args:
        record: What :func:`make_record` returned when it began.
        now: What it returns now: whether a value was given or came from the data is all the same.
        options: Those of the data.

    Raises:
        ValueError: If they differ.
    """
    check_same("data", {name: record[name] for name in FORM if name in record}, now)
    check_same("data", record.get("options", {}), options)
