"""Look at what a checkpoint's network makes of the images: embeddings on a plane."""

import contextlib
import csv
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from lightning_ssl.callbacks import Embeddings
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.cli.checkpoint import known_to_checkpoint
from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.evaluation.projection import class_names, draw_projection
from lightning_ssl.files import check_output_folder, replacing, writing_text


def project(
    ckpt_path: str,
    output: str = "projection",
    part: Literal["test", "val"] = "test",
    root: str | None = None,
    model: str | None = None,
    max_images: int = 2000,
) -> None:
    """Embed the held-out images of a checkpoint's data and plot their principal components.

    Writes ``embeddings.npy`` ((N, F), float32), ``labels.csv`` (index and class of each row),
    ``projection.png`` and ``projector``, a folder for ``tensorboard --logdir``.

    Args:
        ckpt_path: The checkpoint.
        output: Folder of the results; those of an earlier projection in it are replaced.
        part: ``test``, or ``val`` for what is looked at while training: the validation images, or
            the test images where there are none.
        root: Folder of the data (for ``csv`` the file), where it is not where it was.
        model: Class path of the method, where it is your own and of no installed package.
        max_images: Largest number of images; of more a fixed random sample is taken.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it knows no data, or ``output`` cannot be written to.
    """
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(f"`ckpt_path` must be a checkpoint file, got '{ckpt_path}'.")
    folder = Path(output)
    files = ("embeddings.npy", "labels.csv", "projection.png", "projector/metadata.tsv")
    check_output_folder(folder, "output", files)
    named = () if model is None else (model,)
    if "data" not in known_to_checkpoint(ckpt_path, predict=False, named=named):
        raise ValueError(f"`ckpt_path` must be of a run on SSLDataModule, got '{ckpt_path}'.")
    cli = run_trainer(
        [
            *("test" if part == "test" else "validate", "--ckpt_path", ckpt_path),
            *("--trainer.callbacks+=lightning_ssl.callbacks.Embeddings",),
            *("--trainer.callbacks.max_images", str(max_images)),
            *("--trainer.devices", "1", "--verbose", "false", "--report", "false"),
            *(() if model is None else ("--model", model)),
            *(() if root is None else ("--data.root", root)),
        ]
    )
    (found,) = find_callbacks(cli.trainer, Embeddings)
    labels = class_names(found.targets, cli.datamodule.classes)
    title = f"{len(labels)} {found.stage} images"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "embeddings.npy") as temporary, open(temporary, "wb") as binary:
        np.save(binary, found.features.numpy())
    with writing_text(folder / "labels.csv", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("index", "class"))
        writer.writerows(zip(found.index.tolist(), labels, strict=True))
    draw_projection(
        found.features, found.targets, cli.datamodule.classes, folder / "projection.png", title
    )
    _write_projector(found.features.numpy(), labels, folder / "projector")
    Console().print(f"Written to {folder}: {title}", soft_wrap=True)


def _write_projector(features: np.ndarray, labels: list[str], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    # It prints a warning where it replaces earlier files.
    with contextlib.redirect_stdout(None), SummaryWriter(str(folder)) as writer:
        writer.add_embedding(features, labels, tag="embeddings")
