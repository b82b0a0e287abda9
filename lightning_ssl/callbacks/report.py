"""The report that a run ends with."""

import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ssl.callbacks.embeddings import Sample
from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.distributed import gather_uneven
from lightning_ssl.evaluation.calibration import fit_temperature
from lightning_ssl.evaluation.report.pictures import as_uri
from lightning_ssl.evaluation.report.record import (
    Record,
    describe_evaluation,
    describe_projection,
    read_record,
    write_record,
)
from lightning_ssl.evaluation.report.stored import write_page
from lightning_ssl.seeding import global_seed

_POINTS = 1000  # of the projection
_EXAMPLES, _CLASSES, _UNLABELED, _VIEWED = 4, 20, 12, 3
_PACKAGES = (
    *("lightning_ssl", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm"),
    "numpy",
)


class Report(Callback):
    """Write ``report.html``, ``report.json`` and ``metrics.json`` when a fit or a test ends.

    What is shown comes from the last evaluation that ended, of which each process keeps logits and
    a sample of the features: nothing is evaluated twice. A test adds to the report of its run. A
    report that cannot be written is no reason for a run to fail: that is said in a warning.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.command: str | None = None
        """What was typed; for whoever knows it."""
        self._began, self._first = monotonic(), 0
        self._outcomes: _Outcomes | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._began, self._first = monotonic(), trainer.global_step
        self._outcomes = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the evaluation before."""
        if not trainer.sanity_checking:
            self._outcomes = _Outcomes(trainer, trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self._outcomes = _Outcomes(trainer, trainer.test_dataloaders)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the method says of a batch."""
        fits = isinstance(outputs, Mapping) and {"logits", "embedding"} <= outputs.keys()
        if fits and self._outcomes is not None and not dataloader_idx:
            self._outcomes.add(outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report of the run."""
        self._end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a validation that is no part of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test."""
        self._end(trainer, pl_module)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        outcomes, self._outcomes = self._outcomes, None
        found = None if outcomes is None else outcomes.gather(pl_module)  # asks all processes
        if not trainer.is_global_zero:
            return
        try:
            self._write(trainer, pl_module, found)
        except Exception as error:  # whatever it is, the run has what it ran for
            rank_zero_warn(f"No report was written: {type(error).__name__}: {error}")

    def _write(self, trainer: Trainer, pl_module: LightningModule, found: "_Found | None") -> None:
        fits = trainer.state.fn == TrainerFn.FITTING
        record = Record() if fits else read_record(self.folder) or Record()
        album = getattr(trainer.datamodule, "album", None)  # type: ignore[attr-defined]
        if fits or not record.run:
            record.run = self._describe_run(trainer, pl_module, album)
        if album is not None and (fits or not record.data):
            record.data = _describe_data(album)
            record.views = _describe_views(album, pl_module.device) if fits else []
        if found is not None:
            earlier = record.evaluations.get(found.stage, {})
            own = _describe(trainer, pl_module, album, found)
            own["watched"] = fits or earlier.get("watched", False)
            record.evaluations[found.stage] = own
        write_record(record, self.folder)
        rank_zero_info(f"Report: {write_page(self.folder)}")

    def _describe_run(
        self, trainer: Trainer, pl_module: LightningModule, album: Any
    ) -> dict[str, Any]:
        data = {} if album is None else album.facts()
        method = type(pl_module).__name__
        out: dict[str, Any] = {
            "title": f"{method} on {_place(data)}" if data else method,
            "command": self.command,
            "facts": _facts(trainer, pl_module, data),
        }
        if trainer.state.fn == TrainerFn.FITTING:
            out["seconds"] = monotonic() - self._began
            if self._first:
                out["span"] = f"from update {self._first} on"
        return out


def _place(data: dict[str, Any]) -> str:
    """What the data are called: a folder or a file by its own name."""
    own = data["dataset"] in ("folder", "csv") and data["root"]
    return os.path.basename(os.path.abspath(data["root"])) if own else str(data["dataset"])


class _Found:
    """An evaluation of all processes, on the CPU and in the order of the index."""

    def __init__(self, stage: str, parts: list[Tensor]) -> None:
        logits, target, index, features, place = parts
        order = index.argsort()
        self.stage = stage
        self.logits, self.target, self.index = logits[order], target[order], index[order]
        kept = place.argsort()
        self.features = features[kept]
        self.features_target = self.target[torch.searchsorted(self.index, place[kept])]


class _Outcomes:
    """What this process sees of an evaluation.

    Args:
        trainer: The trainer that evaluates.
        loader: Its images.
    """

    def __init__(self, trainer: Trainer, loader: Any) -> None:
        self.stage = str(getattr(loader, "stage", "val"))
        self._sample = Sample(trainer, loader, _POINTS)
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, outputs: Mapping[str, Tensor], batch: Any) -> None:
        """Keep a batch.

        Args:
            outputs: Logits and embedding.
            batch: Images, classes and indices.
        """
        _, target, index = batch
        kept = self._sample.choose(len(index)).to(index.device)
        values = (outputs["logits"].float(), target, index, outputs["embedding"][kept].float())
        self._parts.append(tuple(value.detach().cpu() for value in (*values, index[kept])))

    def gather(self, module: LightningModule) -> _Found | None:
        """Bring the shares of all processes together.

        Args:
            module: The method, on the device that processes talk by.

        Returns:
            The evaluation; None where no process saw an image.
        """
        none = torch.empty(0, dtype=torch.int64)
        parts = self._parts or [(torch.empty(0, 0), none, none, torch.empty(0, 0), none)]
        mine = (torch.cat(column) for column in zip(*parts, strict=True))
        found = [gather_uneven(column.to(module.device)).cpu() for column in mine]
        return _Found(self.stage, found) if len(found[2]) else None


def _describe(
    trainer: Trainer, pl_module: LightningModule, album: Any, found: _Found
) -> dict[str, Any]:
    """Sum up an evaluation, with pictures of what went wrong."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    numbers = [str(number) for number in range(found.logits.shape[1])]
    classes = list(getattr(data, "classes", numbers))
    known = found.target >= 0
    out: dict[str, Any] = {"images": len(found.target)}
    if known.any():
        logits, target, index = (v[known] for v in (found.logits, found.target, found.index))
        temperature = _temperature(pl_module, found.stage, logits, target)
        out = describe_evaluation(logits, target, classes, temperature)
        for image in (*out["mistakes"], *out["uncertain"]):
            row = int(index[image.pop("row")])
            shown = None if album is None else album.evaluated(found.stage, row)
            image["name"] = str(row) if shown is None else shown.name
            image["picture"] = None if shown is None else _as_uri(shown.pixels)
    labeled = known_features(pl_module)
    marked = None if album is None or labeled is None else album.labeled_classes(len(labeled))
    out["projection"] = describe_projection(found.features, found.features_target, labeled, marked)
    path = _checkpoint(trainer)
    out["updates"] = _updates(trainer)
    out["checkpoint"] = None if path is None else os.path.basename(path)
    return out


def _temperature(module: Any, stage: str, logits: Tensor, target: Tensor) -> float | None:
    """That of the weights; on a test set never one that was fitted to it."""
    stored = float(getattr(module, "logit_temperature", 1.0))
    if stored != 1 or stage != "val" or not logits.isfinite().all():
        return stored if stored != 1 else None
    return fit_temperature(logits, target)


def _checkpoint(trainer: Any) -> str | None:
    """The file that is evaluated; None where that is what training ended with."""
    path = None if trainer.state.fn == TrainerFn.FITTING else trainer.ckpt_path
    return path if path is None or os.path.isfile(path) else None


def _updates(trainer: Trainer) -> int:
    """Updates of the weights that are evaluated; a trainer that only tests has made none."""
    path = _checkpoint(trainer)
    if path is None:
        return int(trainer.global_step)
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def _describe_data(album: Any) -> dict[str, Any]:
    counts, unknown = album.counts()
    examples = album.examples(_EXAMPLES, _CLASSES, _UNLABELED)
    return {
        "classes": album.facts()["classes"],
        "counts": counts,
        "unknown": unknown,
        "cached": album.has_stored_features,
        "examples": [
            {"class": image.target, "name": image.name, "picture": _as_uri(image.pixels)}
            for image in examples
        ],
    }


def _describe_views(album: Any, device: torch.device) -> list[dict[str, Any]]:
    return [
        {
            "stream": stream,
            "images": [
                {
                    "name": image.name,
                    "picture": _as_uri(image.pixels),
                    "views": {name: [*map(as_uri, v)] for name, v in image.views.items()},
                }
                for image in images
            ],
        }
        for stream, images in album.views(_VIEWED, device).items()
    ]


def _as_uri(pixels: Tensor | None) -> str | None:
    return None if pixels is None else as_uri(pixels)


def _facts(trainer: Trainer, module: Any, data: dict[str, Any]) -> dict[str, str]:
    """What was run, in words."""
    network = getattr(module, "backbone", None)
    hparams = getattr(module, "hparams", {})
    out = {"Method": type(module).__name__}
    if network is not None:
        name = hparams.get("backbone", type(network).__name__)
        learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
        every = sum(p.numel() for p in module.parameters())
        out["Network"] = f"{name}, {every:,} weights, of which {learning:,} learn"
    if data:
        place = f" in {data['root']}" if data["root"] else ""
        form = f"{data['image_size']}x{data['image_size']} pixels, {data['channels']} channels"
        out["Data"] = f"{data['dataset']}{place}, {len(data['classes'])} classes, {form}"
        out["Labels"] = f"{data['labels']} labelled images"
    out["Seed"] = str(global_seed())
    out["Updates"] = str(_updates(trainer))
    out["Precision"] = str(trainer.precision)
    out["Hardware"] = _hardware(trainer, module)
    out["Versions"] = ", ".join(_versions())
    out["Finished"] = datetime.now().isoformat(" ", "minutes")
    return out


def _hardware(trainer: Trainer, module: Any) -> str:
    device = module.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type.upper()}, {_processor()}, {torch.get_num_threads()} threads"
    return f"{trainer.world_size} processes on {name}" if trainer.world_size > 1 else name


def _processor() -> str:
    """Name of the processor; Python's own is often empty on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()} on {sys.platform}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a checkout that is not installed
            continue
    return found
