"""Measure how well each stage of a network separates the classes by a linear classifier."""

import csv
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_ssl.augment import Normalize
from lightning_ssl.augment.base import to_float
from lightning_ssl.commands.restore import restore
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.loading.fetch import EvaluationFetch
from lightning_ssl.data.loading.loader import EvaluationLoader
from lightning_ssl.data.sources.images import FileImages, Images
from lightning_ssl.evaluation.probe import logistic_regression, sgd_probe
from lightning_ssl.files import check_output, writing_text
from lightning_ssl.methods import SSLModule
from lightning_ssl.models.stages import stage_features
from lightning_ssl.seeding import make_generator

_COLUMNS = ("stage", "features", "logistic_regression", "sgd_probe")

_Found = tuple[dict[str, Tensor], Tensor]
_Row = tuple[str | int | float, ...]


def probe(
    ckpt_path: str,
    output: str = "probe.csv",
    root: str | None = None,
    model: str | None = None,
    part: Literal["test", "val"] = "test",
    all_labels: bool = False,
    max_features: int = 9000,
    c: float = 1.0,
    epochs: int = 70,
    batch_size: int = 512,
    lr: float = 0.1,
    seed: int = 0,
    num_workers: int = 4,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> None:
    """Train linear classifiers on the frozen features of every stage and report their accuracy.

    The averaged weights and the view that evaluation sees, for training images too. Two classifiers
    per stage: logistic regression to its optimum, and softmax regression by SGD in the schedule of
    https://arxiv.org/abs/1901.09005. One device; the features stay in memory.

    Args:
        ckpt_path: Checkpoint of a run.
        output: The CSV file: accuracies in [0, 1], one row per stage.
        root: Folder of the data where it is not where it was while training.
        model: Class path of the method, where it is your own and of no installed package.
        part: Images to report on: ``test`` or ``val``.
        all_labels: Whether to learn from every training image with a known class that is not held
            out, instead of the labelled images of the run.
        max_features: Largest number of values of a stage; larger maps are max-pooled.
        c: Inverse strength of logistic regression's penalty.
        epochs: Passes of SGD.
        batch_size: Images of a step of SGD.
        lr: Learning rate of SGD for 256 images.
        seed: Seed of SGD's order.
        num_workers: Decoding processes, where images are files.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        progress_bar: Whether to show the progress.
    """
    positive = {"max_features": max_features, "c": c, "epochs": epochs, "lr": lr}
    for name, value in {**positive, "batch_size": batch_size}.items():
        if value <= 0:
            raise ValueError(f"`{name}` must be above 0, got {value}.")
    if num_workers < 0:
        raise ValueError(f"`num_workers` must be at least 0, got {num_workers}.")
    check_output(output, "output")
    method, data = restore(ckpt_path, root, model)
    data.prepare_data()
    held_out = _held_out(data, part)  # an error before anything is computed
    extractor = _Extractor(method, data, max_features)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress_bar,
    )
    train = (data.source.train, _training_rows(data, all_labels))
    found, target = _extract(trainer, extractor, *train, num_workers)
    reported, truth = _extract(trainer, extractor, *held_out, num_workers)
    rows: list[_Row] = []
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    for stage, features in found.items():
        options["generator"] = make_generator(seed, "probe", stage)
        optimum = logistic_regression(features, target, c)
        by_sgd = sgd_probe(features, target, data.num_classes, **options)
        accuracies = [round(p.accuracy(reported[stage], truth), 4) for p in (optimum, by_sgd)]
        rows.append((stage, features.shape[1], *accuracies))
    _report(rows, output, f"{len(target)} training images, accuracy on {len(truth)} {part} images")


def _report(rows: list[_Row], output: str, title: str) -> None:
    with writing_text(output, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    table = Table(*_COLUMNS, title=title)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)
    Console().print(f"Written to {output}", soft_wrap=True)


def _training_rows(data: SSLDataModule, all_labels: bool) -> Tensor:
    if not all_labels:
        return data.split.labeled
    known = data.source.train.targets >= 0
    known[data.split.val] = False
    return known.nonzero().flatten()


def _held_out(data: SSLDataModule, part: str) -> tuple[Images, Tensor]:
    images = data.source.test if part == "test" else data.source.val
    if images is not None:
        return images, torch.arange(len(images))
    if part == "val" and len(data.split.val):
        return data.source.train, data.split.val
    raise ValueError(
        f"`part` must be a part that the data of the checkpoint has, got '{part}', of which "
        f"'{data.dataset}' has no images."
    )


def _extract(
    trainer: pl.Trainer, extractor: "_Extractor", images: Images, rows: Tensor, num_workers: int
) -> _Found:
    data = extractor.data
    loader = EvaluationLoader(
        EvaluationFetch(images, data.image_size),
        rows,
        data.eval_batch_size,
        num_workers=num_workers if isinstance(images, FileImages) else 0,
        pin_memory=trainer.strategy.root_device.type == "cuda",
    )
    batches: list[_Found] = trainer.predict(extractor, loader)  # type: ignore[assignment]
    stages = batches[0][0]
    features = {name: torch.cat([found[name] for found, _ in batches]) for name in stages}
    return features, torch.cat([target for _, target in batches])


class _Extractor(pl.LightningModule):
    """Features of every stage, on the CPU.

    Args:
        method: The network.
        data: Where the images come from.
        max_features: Largest number of values of a stage.
    """

    def __init__(self, method: SSLModule, data: SSLDataModule, max_features: int) -> None:
        super().__init__()
        self.method, self.data, self.max_features = method, data, max_features
        self._normalize = Normalize(data.mean, data.std)

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> _Found:
        """Features and classes of some images.

        Args:
            batch: Images ``(B, C, H, W)``, uint8, classes and indices.
            batch_idx: Position in the set.
        """
        pixels, target, _ = batch
        images = self._normalize(to_float(pixels), {}).to(self.dtype)
        found = stage_features(self.method.backbone, images, self.max_features)
        return {name: value.float().cpu() for name, value in found.items()}, target.cpu()
