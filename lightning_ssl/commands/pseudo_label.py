"""Predict a class for every training image: one model from one view and twenty, or several."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ssl.augment import Normalize
from lightning_ssl.augment.base import to_float
from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.commands.restore import restore
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.loading.fetch import EvaluationFetch
from lightning_ssl.data.loading.five_crops import FiveCropFetch
from lightning_ssl.data.loading.loader import EvaluationLoader
from lightning_ssl.data.pseudo.table import PseudoTable, check_table_path, write_table
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.evaluation.ensemble import mean_of_models
from lightning_ssl.evaluation.outliers import nearest_label_scores
from lightning_ssl.files import check_output, save
from lightning_ssl.losses import softmax
from lightning_ssl.methods import S4LRotation, SSLModule

_BATCHES_PER_PART = 20  # what an interruption costs at most


Ensemble = Literal["votes", "probabilities"]


def pseudo_label(
    ckpt_path: list[str] | str,
    output: str = "pseudo_labels.csv",
    ensemble: Ensemble | None = None,
    root: str | None = None,
    model: str | None = None,
    batch_size: int = 256,
    num_workers: int = 4,
    accelerator: str = "auto",
    devices: list[int] | int | str = "auto",
    num_nodes: int = 1,
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    progress_bar: bool = True,
) -> None:
    """Write a table of predicted classes of the training images that a run was made for.

    The averaged weights predict. ``label`` comes from the image as evaluation sees it, never
    turned; ``averaged_label`` from the mean of the logits of five crops in four rotations each, as
    in https://arxiv.org/abs/1905.03670, which suits models that were trained on rotations.

    Several checkpoints, of runs on the same labelled images, predict together, each from the image
    as its own evaluation sees it. The table then has their mean, a probability of each class, in
    place of the averaged labels.

    ``outlier_score`` is the cosine of an image's features to those of the nearest labelled image,
    where the checkpoint was written after a validation, which brings these.

    Nothing is random, and the number of devices changes nothing. After an interruption the same
    command goes on where it was.

    Args:
        ckpt_path: Checkpoint of the run, or a list of several, ``[first.ckpt,second.ckpt]``.
        output: The table, ``.csv`` or ``.parquet``; it appears when it is complete.
        ensemble: Mean of what, where there are several checkpoints: ``votes`` for one vote each, as
            in https://arxiv.org/abs/2503.09707, or ``probabilities``; null for ``votes``.
        root: Folder of the data where it is not where it was while training.
        model: Class path of the method, where it is your own and of no installed package.
        batch_size: Images of a batch on one device; with one checkpoint each goes through the
            network twenty times.
        num_workers: Decoding processes for each device, where images are files.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        devices: Number of devices of a machine, or a list of them, or ``auto`` for all.
        num_nodes: Number of machines.
        precision: Floating-point precision of the network.
        progress_bar: Whether to show the progress.
    """
    check_table_path(output, "output")
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    check_output(output, "output")
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    if not paths or (ensemble is not None and len(paths) == 1):
        raise ValueError(
            f"`{'ensemble' if paths else 'ckpt_path'}` needs checkpoints, several of them for "
            f"`ensemble`, got {len(paths)}."
        )
    restored = [restore(path, root, model) for path in paths]
    for _, data in restored:
        data.prepare_data()
    _check_same(paths, [data for _, data in restored])
    labelers = [
        _Labeler(
            *(method, data, Path(output), num_workers, len(paths) > 1),
            (_digest(path), data.root, len(data.source.train), batch_size, precision),
        )
        for path, (method, data) in zip(paths, restored, strict=True)
    ]
    labelers[-1].finish = partial(_write, labelers, ensemble != "probabilities")
    for labeler in labelers:
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress_bar,
        )
        try:
            trainer.predict(labeler, return_predictions=False)
        except BaseException:
            with suppress(OSError):  # parts are what the same command goes on from
                labeler.folder.rmdir()
            raise


def _digest(path: str) -> str:
    checkpoint = hashlib.blake2b()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            checkpoint.update(block)
    return checkpoint.hexdigest()


def _check_same(paths: Sequence[str], data: Sequence[SSLDataModule]) -> None:
    """See that several runs had the same images, classes and labels."""

    def given(one: SSLDataModule) -> dict[str, Any]:
        rows, images = one.split.labeled, one.source.train
        return {
            "training images": (one.dataset, one.root, len(images)),
            "classes": one.classes,
            "labelled images": (rows.tolist(), images.targets[rows].tolist()),
        }

    first = given(data[0])
    for path, other in zip(paths[1:], map(given, data[1:]), strict=True):
        wrong = [what for what in first if first[what] != other[what]]
        if wrong:
            raise ValueError(
                f"`ckpt_path` must be of runs on the same data, got '{path}' with other "
                f"{wrong[0]} than '{paths[0]}'."
            )


class _Labeler(pl.LightningModule):
    """Predict in batches that are the same for any number of processes, and keep them in parts.

    Args:
        method: The network.
        data: The data, whose training images are predicted.
        output: The table.
        num_workers: Decoding processes.
        single: Whether to predict one view only, but the probabilities of all classes.
        job: What the parts depend on besides: checkpoint, data, images, batch size, precision.
    """

    def __init__(
        self,
        method: SSLModule,
        data: SSLDataModule,
        output: Path,
        num_workers: int,
        single: bool,
        job: tuple[str, str | None, int, int, str],
    ) -> None:
        super().__init__()
        if isinstance(method, S4LRotation):
            method.average_rotations = False  # or each of the turned views would be turned again
        method.logit_temperature = 1.0  # thresholds of papers mean the network's own confidence
        self.method, self.data, self.output, self.single = method, data, output, single
        *_, self.num_images, self.batch_size, _ = job
        self.num_workers = num_workers if isinstance(data.source.train, FileImages) else 0
        # Parts of another job must not be taken for parts of this one.
        text = json.dumps([*job, "single"] if single else job)
        key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self.folder = output.with_name(f".{output.name}.{key}.parts")
        self.finish: Callable[[], None] | None = None
        self._normalize = Normalize(data.mean, data.std)
        self._kept: list[dict[str, Tensor]] = []

    def predict_dataloader(self) -> EvaluationLoader:
        """What this process has to do of the batches that no part holds yet."""
        done = torch.zeros(self.num_images, dtype=torch.bool)
        done[self.stored()["index"]] = True
        self.trainer.strategy.barrier()  # before another process adds parts
        # Whole batches, as the composition of a batch may change the last bits.
        batches = torch.arange(self.num_images).split(self.batch_size)
        left = [batch for batch in batches if not done[batch].any()]
        own = left[self.trainer.global_rank :: self.trainer.world_size]
        images, size = self.data.source.train, self.data.image_size
        return EvaluationLoader(
            EvaluationFetch(images, size, False) if self.single else FiveCropFetch(images, size),
            torch.cat([*own, torch.empty(0, dtype=torch.int64)]),
            self.batch_size,
            stage="predict",
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Predict the views of some images.

        Args:
            batch: Images ``(B, C, H, W)``, uint8, or crops ``(B, 5, C, H, W)``, the first of which
                is what evaluation sees, and indices ``(B,)``.
            batch_idx: Position in the list of batches.

        Returns:
            The indices; what is predicted is kept until it is written.
        """
        pixels, index = batch
        if len(index) == 0:  # nothing left for this process, or nothing readable
            return index
        labeled = known_features(self.method)
        if self.single:
            found = self.method.predict_step((self._as_input(pixels), index), batch_idx)
            part, seen = {"probs": found["probs"]}, found["embedding"]
        else:
            part, seen = self._twenty_views(pixels), None
        if labeled is not None:
            seen = self.method.embed(self._as_input(pixels[:, 0])) if seen is None else seen
            features = seen.float()
            part["outlier_score"] = nearest_label_scores(features, labeled.to(features))
        self._kept.append({name: value.cpu() for name, value in {"index": index, **part}.items()})
        if len(self._kept) == _BATCHES_PER_PART:
            self._store()
        return index

    def _twenty_views(self, crops: Tensor) -> dict[str, Tensor]:
        images = [self._as_input(crop) for crop in crops.unbind(dim=1)]
        single, total = None, torch.zeros((), device=self.device)
        for image, turns in product(images, range(4)):
            logits = self.method(torch.rot90(image, turns, (-2, -1))).float()
            single = logits if single is None else single
            total = total + logits
        assert single is not None
        probability, label = softmax(single).max(dim=1)
        averaged_probability, averaged_label = softmax(total / (4 * len(images))).max(dim=1)
        return {
            "label": label,
            "probability": probability,
            "averaged_label": averaged_label,
            "averaged_probability": averaged_probability,
        }

    def _as_input(self, pixels: Tensor) -> Tensor:
        images: Tensor = self._normalize(to_float(pixels), {})
        return images.to(self.dtype)

    def on_predict_end(self) -> None:
        """Keep the last part; after the last model write the table."""
        self._store()
        self.trainer.strategy.barrier()
        if self.finish is not None and self.trainer.is_global_zero:
            self.finish()
        self.trainer.strategy.barrier()

    def _store(self) -> None:
        if self._kept:
            save(_concatenate(self._kept), self.folder / f"{int(self._kept[0]['index'][0])}.pt")
            self._kept = []

    def stored(self) -> dict[str, Tensor]:
        """All parts of all processes as one."""
        files = sorted(self.folder.glob("*.pt"))
        parts = [torch.load(file, weights_only=True) for file in files]
        return _concatenate(parts or [{"index": torch.empty(0, dtype=torch.int64)}])

    def columns(self) -> dict[str, Tensor]:
        """What was predicted, in the order of the images; labels are -1 where nothing was."""
        found = self.stored()
        index = found.pop("index")
        columns = {}
        for name, values in found.items():
            empty = 0.0 if values.is_floating_point() else -1
            columns[name] = values.new_full((self.num_images, *values.shape[1:]), empty)
            columns[name][index] = values
        return columns


def _write(labelers: Sequence[_Labeler], votes: bool) -> None:
    labeler = labelers[0]
    data, output, split = labeler.data, labeler.output, labeler.data.split
    found = [one.columns() for one in labelers]
    columns = found[0] if len(found) == 1 else _together(found, votes)
    columns["given"] = torch.full((labeler.num_images,), -1)
    columns["given"][split.labeled] = data.source.train.targets[split.labeled]
    unreadable = (columns["label"] < 0).nonzero().flatten().tolist()
    if unreadable:
        names = [data.train_name(i) for i in unreadable[:5]]
        rank_zero_warn(
            f"{len(unreadable)} of {labeler.num_images} images could not be read; their labels "
            f"are empty. The first: {', '.join(names)}."
        )
    write_table(output, PseudoTable(**columns), data.train_name, data.classes)
    for folder in output.parent.glob(f".{escape(output.name)}.*.parts"):
        shutil.rmtree(folder)
    rank_zero_info(f"Pseudo-labels: {output}")


def _together(found: list[dict[str, Tensor]], votes: bool) -> dict[str, Tensor]:
    """Columns of all models; what one of them could not read has no label."""
    models = torch.stack([columns["probs"] for columns in found])
    readable = models.sum(dim=2).gt(0).all(dim=0)
    probs, label = mean_of_models(models, votes)
    scores = [columns["outlier_score"] for columns in found if "outlier_score" in columns]
    score = {"outlier_score": torch.stack(scores).mean(dim=0)} if len(scores) == len(found) else {}
    return {
        **score,
        "label": label.masked_fill(~readable, -1),
        "probability": probs.gather(1, label[:, None])[:, 0],
        "probs": probs,
    }


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
