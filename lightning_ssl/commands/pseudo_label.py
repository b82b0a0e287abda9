"""Predict a class for every training image, from one view and from twenty."""

import hashlib
import json
import shutil
from contextlib import suppress
from glob import escape
from itertools import product
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ssl.augment import Normalize
from lightning_ssl.augment.base import to_float
from lightning_ssl.commands.restore import restore
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.loading.five_crops import FiveCropFetch
from lightning_ssl.data.loading.loader import EvaluationLoader
from lightning_ssl.data.pseudo.table import PseudoTable, check_table_path, write_table
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.files import check_output, save
from lightning_ssl.losses import softmax
from lightning_ssl.methods import S4LRotation, SSLModule

_BATCHES_PER_PART = 20  # what an interruption costs at most


def pseudo_label(
    ckpt_path: str,
    output: str = "pseudo_labels.csv",
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
    in https://arxiv.org/abs/1905.03670, which suits models that were trained on rotations. Nothing
    is random, and the number of devices changes nothing. After an interruption the same command
    goes on where it was.

    Args:
        ckpt_path: Checkpoint of the run.
        output: The table, ``.csv`` or ``.parquet``; it appears when it is complete.
        root: Folder of the data where it is not where it was while training.
        model: Class path of the method, where it is your own and of no installed package.
        batch_size: Images of a batch on one device; each goes through the network twenty times.
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
    method, data = restore(ckpt_path, root, model)
    data.prepare_data()
    checkpoint = hashlib.blake2b()
    with open(ckpt_path, "rb") as file:
        while block := file.read(1 << 24):
            checkpoint.update(block)
    job = (checkpoint.hexdigest(), data.root, len(data.source.train), batch_size, precision)
    labeler = _Labeler(method, data, Path(output), job, num_workers)
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


class _Labeler(pl.LightningModule):
    """Predict in batches that are the same for any number of processes, and keep them in parts.

    Args:
        method: The network.
        data: The data, whose training images are predicted.
        output: The table.
        job: What the parts depend on: checkpoint, data, images, batch size, precision.
        num_workers: Decoding processes.
    """

    def __init__(
        self,
        method: SSLModule,
        data: SSLDataModule,
        output: Path,
        job: tuple[str, str | None, int, int, str],
        num_workers: int,
    ) -> None:
        super().__init__()
        if isinstance(method, S4LRotation):
            method.average_rotations = False  # or each of the turned views would be turned again
        self.method, self.data, self.output = method, data, output
        *_, self.num_images, self.batch_size, _ = job
        self.num_workers = num_workers if isinstance(data.source.train, FileImages) else 0
        # Parts of another job must not be taken for parts of this one.
        key = hashlib.blake2b(json.dumps(job).encode(), digest_size=8).hexdigest()
        self.folder = output.with_name(f".{output.name}.{key}.parts")
        self._normalize = Normalize(data.mean, data.std)
        self._kept: list[dict[str, Tensor]] = []

    def predict_dataloader(self) -> EvaluationLoader:
        """What this process has to do of the batches that no part holds yet."""
        done = torch.zeros(self.num_images, dtype=torch.bool)
        done[self._stored()["index"]] = True
        self.trainer.strategy.barrier()  # before another process adds parts
        # Whole batches, as the composition of a batch may change the last bits.
        batches = torch.arange(self.num_images).split(self.batch_size)
        left = [batch for batch in batches if not done[batch].any()]
        own = left[self.trainer.global_rank :: self.trainer.world_size]
        return EvaluationLoader(
            FiveCropFetch(self.data.source.train, self.data.image_size),
            torch.cat([*own, torch.empty(0, dtype=torch.int64)]),
            self.batch_size,
            stage="predict",
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Predict the twenty views of some images.

        Args:
            batch: Crops ``(B, 5, C, H, W)``, uint8, the first of which is what evaluation sees,
                and indices ``(B,)``.
            batch_idx: Position in the list of batches.

        Returns:
            The indices; what is predicted is kept until it is written.
        """
        crops, index = batch
        if len(index) == 0:  # nothing left for this process, or nothing readable
            return index
        images = [self._normalize(to_float(c), {}).to(self.dtype) for c in crops.unbind(dim=1)]
        single, total = None, torch.zeros((), device=self.device)
        for image, turns in product(images, range(4)):
            logits = self.method(torch.rot90(image, turns, (-2, -1))).float()
            single = logits if single is None else single
            total = total + logits
        assert single is not None
        probability, label = softmax(single).max(dim=1)
        averaged_probability, averaged_label = softmax(total / (4 * len(images))).max(dim=1)
        part = {
            "index": index,
            "label": label,
            "probability": probability,
            "averaged_label": averaged_label,
            "averaged_probability": averaged_probability,
        }
        self._kept.append({name: value.cpu() for name, value in part.items()})
        if len(self._kept) == _BATCHES_PER_PART:
            self._store()
        return index

    def on_predict_end(self) -> None:
        """Merge the parts of all processes into the table."""
        self._store()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            self._write()
        self.trainer.strategy.barrier()

    def _store(self) -> None:
        if self._kept:
            save(_concatenate(self._kept), self.folder / f"{int(self._kept[0]['index'][0])}.pt")
            self._kept = []

    def _stored(self) -> dict[str, Tensor]:
        """All parts of all processes as one."""
        files = sorted(self.folder.glob("*.pt"))
        parts = [torch.load(file, weights_only=True) for file in files]
        return _concatenate(parts or [{"index": torch.empty(0, dtype=torch.int64)}])

    def _write(self) -> None:
        found, split = self._stored(), self.data.split
        columns = {"given": torch.full((self.num_images,), -1)}
        columns["given"][split.labeled] = self.data.source.train.targets[split.labeled]
        for name in ("label", "averaged_label"):
            columns[name] = torch.full((self.num_images,), -1)
        for name in ("probability", "averaged_probability"):
            columns[name] = torch.zeros(self.num_images)
        index = found.pop("index")
        for name, values in found.items():
            columns[name][index] = values
        unreadable = (columns["label"] < 0).nonzero().flatten().tolist()
        if unreadable:
            names = [self.data.train_name(i) for i in unreadable[:5]]
            rank_zero_warn(
                f"{len(unreadable)} of {self.num_images} images could not be read; their labels "
                f"are empty. The first: {', '.join(names)}."
            )
        table = PseudoTable(**columns)
        write_table(self.output, table, self.data.train_name, self.data.classes)
        for folder in self.output.parent.glob(f".{escape(self.output.name)}.*.parts"):
            shutil.rmtree(folder)
        rank_zero_info(f"Pseudo-labels: {self.output}")


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
