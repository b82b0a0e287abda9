"""Predictions as one CSV file."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.evaluation.outliers import outlier_threshold
from lightning_ssl.evaluation.predictions import describe_predictions
from lightning_ssl.files import check_output, replacing, save, writing_text


class PredictionWriter(Callback):
    """Write ``path,label,probability,margin`` for every image, in the order of the data.

    The margin is the difference of the two largest probabilities. Where the method knows features
    of the labelled images, from its checkpoint, there is a column ``outlier_score``, too, before
    the margin: the cosine to the nearest of them, see
    :func:`~lightning_ssl.evaluation.outliers.nearest_label_scores`.

    An unreadable image gets empty values (and a row of NaN as its embedding).

    Each process writes its own part; the first one merges them, so a run on any number of
    processes gives the same file. The file appears only when it is complete.

    Args:
        path: The CSV file.
        embeddings: Whether to write the features too, ``(N, F)``, float32, one row per line of
            the CSV, to the same name with the ending ``.npy``.
        top_k: How many of the most probable classes have columns, the second one ``label_2`` and
            ``probability_2``; or ``all`` for a column ``prob_<class>`` of each class.

    Raises:
        ValueError: If ``top_k`` is below 1.
    """

    def __init__(
        self,
        path: str = "predictions.csv",
        embeddings: bool = False,
        top_k: int | Literal["all"] = 1,
    ) -> None:
        if top_k != "all" and top_k < 1:
            raise ValueError(f"`predictions.top_k` must be at least 1, or 'all', got {top_k}.")
        self.path = Path(path).expanduser()
        self.embeddings = embeddings
        self.top_k = top_k
        self._parts: list[dict[str, Tensor]] = []
        self._labeled: Tensor | None = None
        self._num_classes = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the file can be written, before anything is computed.

        Raises:
            ValueError: If the folder does not exist, or the file cannot be written.
        """
        if stage != "predict":
            return
        if not os.path.isdir(self.path.parent) or os.path.isdir(self.path):
            raise ValueError(
                f"`predictions.path` must be a file in an existing folder, got '{self.path}'."
            )
        if self.embeddings and self.path == self._array:
            raise ValueError(
                "`predictions.path` must not end in .npy, which is what the embeddings end in, got "
                f"'{self.path}'."
            )
        num_classes = getattr(pl_module, "num_classes", None)
        if num_classes is not None and self.top_k != "all" and self.top_k > num_classes:
            raise ValueError(
                f"`predictions.top_k` must be in [1, {num_classes}], the number of classes, or "
                f"'all', got {self.top_k}."
            )
        check_output(self.path, "predictions.path")
        check_output(self._part_file(trainer.world_size - 1), "predictions.path")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier run predicted."""
        self._parts = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the file needs of a batch, on the CPU."""
        self._labeled = known_features(pl_module)
        probs, features = outputs["probs"], outputs["embedding"]
        self._num_classes = probs.shape[1]
        count = 1 if self.top_k == "all" else self.top_k
        part = describe_predictions(probs, features, self._labeled, count)
        part["index"] = outputs["index"]
        if self.top_k == "all":
            part["probs"] = probs
        if self.embeddings:
            part["embedding"] = features.float()
        self._parts.append({name: value.cpu() for name, value in part.items()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the parts of all processes into one file; none of them is left behind."""
        mine = self._part_file(trainer.global_rank)
        try:
            save(_concatenate(self._parts), mine)
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                files = [self._part_file(rank) for rank in range(trainer.world_size)]
                parts = [torch.load(file, weights_only=True) for file in files]
                merged = _concatenate([part for part in parts if part])
                limited = trainer.limit_predict_batches != 1.0
                self._write(merged, trainer.datamodule, limited)  # type: ignore[attr-defined]
                rank_zero_info(f"Predictions: {self.path}")
            trainer.strategy.barrier()
        finally:
            mine.unlink(missing_ok=True)

    @property
    def _array(self) -> Path:
        return self.path.with_suffix(".npy")

    def _part_file(self, rank: int) -> Path:
        return self.path.with_name(f".{self.path.name}.{rank}.part")

    def _write(self, merged: dict[str, Tensor], datamodule: Any, limited: bool) -> None:
        # Another project's datamodule knows neither: positions and class numbers stand in.
        name = getattr(datamodule, "predict_name", str)
        classes = getattr(datamodule, "classes", None)
        total = getattr(datamodule, "num_predicted", len(merged["index"]))
        index = merged.pop("index")
        spread = {
            name: values.new_full(
                (total, *values.shape[1:]), torch.nan if values.is_floating_point() else -1
            ).index_copy_(0, index, values)
            for name, values in merged.items()
        }
        if self.embeddings:
            with replacing(self._array) as temporary, open(temporary, "wb") as binary:
                np.save(binary, spread["embedding"].numpy())
        names = [str(c) for c in classes or range(self._num_classes)]
        columns = _columns(spread, names)
        with writing_text(self.path, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", *columns))
            for row, values in enumerate(zip(*columns.values(), strict=True)):
                writer.writerow((name(row), *values))
        self._report(merged)
        unreadable = [name(row) for row in (spread["label"][:, 0] < 0).nonzero().flatten().tolist()]
        if unreadable:
            left = "are beyond `trainer.limit_predict_batches` or " if limited else ""
            rank_zero_warn(
                f"{len(unreadable)} of {total} images {left}could not be read; their labels are "
                f"empty. The first: {', '.join(unreadable[:5])}."
            )

    def _report(self, merged: dict[str, Tensor]) -> None:
        """Say how many images are far from all labelled ones."""
        if self._labeled is not None and len(self._labeled) > 1:
            threshold = outlier_threshold(self._labeled.float())
            far = int((merged["outlier_score"] < threshold).sum())
            rank_zero_info(
                f"{far} of {len(merged['outlier_score'])} images are farther from the labelled "
                "ones than 95 % of these are from each other: `outlier_score` below "
                f"{threshold:.3f}."
            )


def _columns(found: dict[str, Tensor], classes: Sequence[str]) -> dict[str, list[str]]:
    """Columns of the table by name; what is not known of an image is empty."""
    names = [*classes, ""]  # -1 is the last one

    known = (found["label"][:, 0] >= 0).tolist()

    def numbers(values: Tensor) -> list[str]:
        pairs = zip(values.tolist(), known, strict=True)
        return [f"{value:.6f}" if is_known else "" for value, is_known in pairs]

    columns = {}
    for place, (label, values) in enumerate(
        zip(found["label"].unbind(1), found["probability"].unbind(1), strict=True), 1
    ):
        which = "" if place == 1 else f"_{place}"
        columns[f"label{which}"] = [names[number] for number in label.tolist()]
        columns[f"probability{which}"] = numbers(values)
        if place == 1:
            measures = [n for n in ("outlier_score", "margin") if n in found]
            columns |= {name: numbers(found[name]) for name in measures}
    if "probs" in found:
        parts = zip(classes, found["probs"].unbind(1), strict=True)
        columns |= {f"prob_{name}": numbers(values) for name, values in parts}
    return columns


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
