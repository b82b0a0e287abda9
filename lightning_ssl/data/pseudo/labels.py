"""Which images a run trains on with a predicted class, and where that is kept."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ssl.data.pseudo.sampling import choose_confident, sampling_rates
from lightning_ssl.data.pseudo.table import LABEL_COLUMNS, PseudoTable, read_table
from lightning_ssl.data.splits.files import LabeledImages, Split, check_indices
from lightning_ssl.data.text import read_json

LabelColumn = Literal["label", "averaged_label", "soft"]
_COLUMNS = (*LABEL_COLUMNS, "soft")


def check_options(path: str | None, column: str, threshold: float, alpha: float) -> None:
    """See that the options agree.

    Args:
        path: The table, or None.
        column: Its column.
        threshold: The smallest probability that counts.
        alpha: Exponent of the classes' sampling rates.

    Raises:
        ValueError: If one is out of range, or makes no sense without a table.
    """
    if column not in _COLUMNS:
        raise ValueError(
            f"`pseudo_column` (--data.pseudo_column) must be one of {_COLUMNS}, got '{column}'."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"`pseudo_threshold` (--data.pseudo_threshold) must be in [0, 1], got {threshold}."
        )
    if not 0 <= alpha < math.inf:
        raise ValueError(f"`pseudo_alpha` (--data.pseudo_alpha) must be at least 0, got {alpha}.")
    if path is None and (column, threshold, alpha) != (_COLUMNS[0], 0, 0):
        raise ValueError(
            "`pseudo_column`, `pseudo_threshold` and `pseudo_alpha` need a table, `pseudo_labels` "
            "(--data.pseudo_labels), got none."
        )


def read_pseudo_labels(
    path: str | os.PathLike[str],
    split: Split,
    targets: Tensor,
    *,
    name: Callable[[int], str],
    classes: Sequence[str],
    column: LabelColumn = "label",
    threshold: float = 0.0,
    alpha: float = 0.0,
) -> LabeledImages:
    """Read the pseudo-labels of the unlabelled images that have no label of their own.

    Args:
        path: A table of ``lightning-ssl pseudo-label``, or the ``split.json`` of a run that was
            trained on one: then its labels, whatever the other options say.
        split: The split of the run.
        targets: Classes of the training images ``(N,)``; only those of labelled images are read.
        name: Gives the name of a training image by its index.
        classes: Class names.
        column: Column of the labels; ``soft`` for ``label`` and the probabilities of all classes.
        threshold: The smallest probability that counts, in [0, 1].
        alpha: Takes of each class the most probable of these, at the rates of
            :func:`~lightning_ssl.data.pseudo.sampling.sampling_rates`; 0 takes all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file belongs to other data or lacks the column, the labels that its
            model was trained with are others, or no pseudo-label is left.
    """
    num_train = len(targets)
    file = os.path.expanduser(os.fspath(path))
    if file.endswith(".json"):
        found = _read_stored(file, split, num_train, len(classes), column == "soft")
        probability = torch.ones(len(found.rows))
        threshold = alpha = 0.0
    else:
        table = read_table(file, name, num_train, classes)
        _check_given(file, table, split, targets)
        found, probability = _choose(file, table, column)
    unknown = torch.zeros(num_train, dtype=torch.bool)
    unknown[split.unlabeled] = True
    unknown[split.labeled] = False
    keep = (found.target >= 0) & (probability >= threshold) & unknown[found.rows]
    if alpha:
        given = targets[split.labeled].bincount(minlength=len(classes))
        chosen = choose_confident(
            found.target[keep], probability[keep], sampling_rates(given, alpha)
        )
        keep[keep.clone()] = chosen
    if not keep.any():
        raise ValueError(
            f"'{file}' holds no pseudo-label of an image without label whose probability is at "
            f"least {threshold}: lower `pseudo_threshold` (--data.pseudo_threshold) or "
            "`pseudo_alpha` (--data.pseudo_alpha)."
        )
    probs = None if found.probs is None else found.probs[keep]
    return LabeledImages(found.rows[keep], found.target[keep], probs)


def join(given: LabeledImages, pseudo: LabeledImages) -> LabeledImages:
    """One list of images with a given label and images with a pseudo-label.

    Args:
        given: Labelled images; where the others have probabilities theirs are 1 and 0.
        pseudo: Other images.
    """
    rows, order = torch.cat([given.rows, pseudo.rows]).sort()
    target, probs = torch.cat([given.target, pseudo.target])[order], pseudo.probs
    if probs is not None:
        certain = torch.eye(probs.shape[1])[given.target]
        probs = torch.cat([certain, probs])[order]
    return LabeledImages(rows, target, probs)


def _choose(path: str, table: PseudoTable, column: LabelColumn) -> tuple[LabeledImages, Tensor]:
    """Labels of all images, and their probabilities."""
    label = "label" if column == "soft" else column
    target, probs = getattr(table, label), table.probs if column == "soft" else None
    if target is None or (column == "soft" and probs is None):
        kind = "one checkpoint" if target is None else "several checkpoints"
        raise ValueError(
            f"`pseudo_column` (--data.pseudo_column) '{column}' needs a table of {kind}, got "
            f"'{path}', which lacks it."
        )
    rows = torch.arange(len(target))
    found = LabeledImages(rows, target, None if probs is None else probs.float())
    return found, getattr(table, label.replace("label", "probability"))


def _read_stored(
    path: str, split: Split, num_train: int, num_classes: int, soft: bool
) -> LabeledImages:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`pseudo_labels` (--data.pseudo_labels): there is no file '{path}'."
        )

    def no_split(reason: str) -> ValueError:
        return ValueError(
            "`pseudo_labels` (--data.pseudo_labels) must be a table or the split.json of a run on "
            f"pseudo-labels, got '{path}': {reason.rstrip('.')}."
        )

    content = read_json(path, no_split)
    try:
        stored = content["pseudo_labels"]
        own, labeled, images = content["num_train"], content["labeled"], stored["images"]
        labels = torch.tensor(stored["labels"], dtype=torch.int64)
        if labels.ndim != 1:
            raise ValueError(f"its labels have {labels.ndim} dimensions")
        probs = _stored_probs(stored, num_classes) if soft else None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise no_split(f"{type(error).__name__}: {error}") from error
    if own != num_train:
        raise ValueError(
            f"'{path}' is a split of {own} training images, but this data set has {num_train}: it "
            "belongs to another one."
        )
    if labeled != split.labeled.tolist():
        raise ValueError(
            f"'{path}' is of a run on {len(labeled)} labels, and the data options choose other "
            f"{len(split.labeled)}: give it as `labels_file` (--data.labels_file) too."
        )
    rows = check_indices(path, images, num_train)
    lengths = {len(rows), len(labels), len(rows if probs is None else probs)}
    if rows.tolist() != images or len(lengths) > 1:
        raise ValueError(f"'{path}' must hold one pseudo-label for each image, in their order.")
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(f"'{path}' holds pseudo-labels that are not in [0, {num_classes - 1}].")
    return LabeledImages(rows, labels, probs)


def _stored_probs(stored: dict[str, Any], num_classes: int) -> Tensor:
    probs = torch.tensor(stored["probabilities"], dtype=torch.float32)
    if probs.ndim != 2 or probs.shape[1] != num_classes:
        raise ValueError(f"its probabilities have the shape {tuple(probs.shape)}")
    if (probs < 0).any() or not torch.allclose(probs.sum(dim=1), torch.ones(len(probs))):
        raise ValueError("its probabilities do not sum to 1")
    return probs


def _check_given(path: str, table: PseudoTable, split: Split, targets: Tensor) -> None:
    given = torch.full_like(table.given, -1)
    given[split.labeled] = targets[split.labeled]
    wrong = (given != table.given).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"'{path}' is by a model that was trained with {int((table.given >= 0).sum())} labels; "
            f"the data options choose {len(split.labeled)}, and {len(wrong)} images differ: give "
            "the options of that run, or its split.json as `labels_file` (--data.labels_file)."
        )
