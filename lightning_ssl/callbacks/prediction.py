"""Predictions as one CSV file."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.evaluation.outliers import nearest_label_scores, outlier_threshold
from lightning_ssl.files import check_output, replacing, save, writing_text


class PredictionWriter(Callback):
    """Write ``path,label,probability`` for every image, in the order of the data.

    Where the method knows features of the labelled images, from its checkpoint, there is a column
    ``outlier_score``, too: the cosine to the nearest of them, see
    :func:`~lightning_ssl.evaluation.outliers.nearest_label_scores`.

    An unreadable image gets empty values (and a row of NaN as its embedding).

    Each process writes its own part; the first one merges them, so a run on any number of
    processes gives the same file. The file appears only when it is complete.

    Args:
        path: The CSV file.
        embeddings: Whether to write the features too, ``(N, F)``, float32, one row per line of
            the CSV, to the same name with the ending ``.npy``.
    """

    def __init__(self, path: str = "predictions.csv", embeddings: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.embeddings = embeddings
        self._parts: list[dict[str, Tensor]] = []
        self._labeled: Tensor | None = None

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
        probability, label = outputs["probs"].max(dim=1)
        part = {"index": outputs["index"], "label": label, "probability": probability}
        if self.embeddings:
            part["embedding"] = outputs["embedding"].float()
        self._labeled = known_features(pl_module)
        if self._labeled is not None:
            features = outputs["embedding"].float()
            part["score"] = nearest_label_scores(features, self._labeled.to(features))
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
        index = merged["index"]
        label = torch.full((total,), -1).scatter_(0, index, merged["label"]).tolist()
        columns = {n: merged[n].float() for n in ("probability", "score") if n in merged}
        spread = [torch.zeros(total).scatter_(0, index, values) for values in columns.values()]
        if self.embeddings:
            rows = torch.full((total, merged["embedding"].shape[1]), torch.nan)
            rows.index_copy_(0, merged["index"], merged["embedding"])
            with replacing(self._array) as temporary, open(temporary, "wb") as binary:
                np.save(binary, rows.numpy())
        with writing_text(self.path, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "probability", "outlier_score")[: 2 + len(spread)])
            numbers = zip(*(values.tolist() for values in spread), strict=True)
            for row, (number, values) in enumerate(zip(label, numbers, strict=True)):
                known = (classes[number] if classes else number, *(f"{v:.6f}" for v in values))
                writer.writerow((name(row), *(known if number >= 0 else ("",) * len(known))))
        self._report(merged)
        unreadable = [name(index) for index, number in enumerate(label) if number < 0]
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
            far = int((merged["score"] < threshold).sum())
            rank_zero_info(
                f"{far} of {len(merged['score'])} images are farther from the labelled ones than "
                f"95 % of these are from each other: `outlier_score` below {threshold:.3f}."
            )


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
