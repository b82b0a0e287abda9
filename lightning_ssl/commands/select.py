"""Choose which images to label first, or next."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ssl.commands.network import build_frozen
from lightning_ssl.commands.restore import restore
from lightning_ssl.data import Source, SSLDataModule
from lightning_ssl.data.features.cache import open_features
from lightning_ssl.data.sources.folder import images_below
from lightning_ssl.data.sources.images import FileImages, Images
from lightning_ssl.evaluation.selection import most_uncertain, prototypes
from lightning_ssl.files import check_output, printable, writing_text
from lightning_ssl.losses import softmax
from lightning_ssl.methods import SSLModule

By = Literal["prototypes", "margin", "entropy"]


def select(
    fit_options: Sequence[str],
    count: int,
    output: str = "to_label.csv",
    by: By = "prototypes",
    ckpt_path: str | None = None,
    root: str | None = None,
    seed: int = 0,
) -> None:
    """Write a list of images that begins with those to label.

    ``prototypes`` are the images nearest to the centres of k-means, as many centres as images, on
    the features of a pretrained network: each stands for many, and any first part of the list is a
    choice of its own. With a checkpoint also those that its classifier is least sure of. Fill in
    the column ``label`` of the first rows; ``--data.dataset csv --data.root to_label.csv`` then
    trains on them and on the labels from before, takes the rest as unlabelled, and validates and
    tests on the images that were held out before.

    Args:
        fit_options: Options of ``fit`` that name the images and the network: of ``folder`` all
            images below ``root`` count, whatever their folders are called. Not with a checkpoint.
        count: Number of images to label.
        output: The CSV file: ``path``, ``label``, empty but for images that have one, ``split``
            (``train``, ``val`` or ``test``) and ``rank``, counted from 1, of the images to label.
        by: ``prototypes``; or with a checkpoint ``margin``, the smallest difference of the two
            largest probabilities, or ``entropy``, the largest.
        ckpt_path: Checkpoint of a run, whose unlabelled images are chosen from.
        root: Folder of its data where it is not where it was while training.
        seed: Seed of k-means.
    """
    check_output(output, "output")
    if ckpt_path is None and by != "prototypes":
        raise ValueError(f"`by` must be 'prototypes' without a `ckpt_path`, got '{by}'.")
    if ckpt_path is not None and fit_options:
        raise ValueError(
            f"Options of fit must not be given with `ckpt_path`, which knows them, got "
            f"'{fit_options[0]}'."
        )
    if ckpt_path is None:
        method, data = build_frozen(fit_options, num_classes=2)
        if data.dataset == "folder":
            data = _all_below(data)
        known = held_out = torch.empty(0, dtype=torch.int64)
    else:
        method, data = restore(ckpt_path, root)
        _check_is_other(output, data)
        data.prepare_data()
        held_out = data.split.val
        known = torch.cat([data.split.labeled, held_out])
    images = data.source.train
    labels = torch.full((len(images),), -1)
    labels[known] = images.targets[known]
    free = (labels < 0).nonzero().flatten()
    if not 1 <= count <= len(free):
        raise ValueError(
            f"`count` must be in [1, {len(free)}], the images without a label, got {count}."
        )
    features = open_features(data, method)["train"][free].float()
    if by == "prototypes":
        chosen = free[prototypes(features, count, seed=seed)]
    else:
        chosen = free[most_uncertain(_probabilities(method, features), count, by=by)]
    with writing_text(output, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "rank"))
        writer.writerows(_rows(data, labels, chosen, held_out, Path(output).parent))
    rank_zero_info(f"{count} of {len(free)} images to label, the first rows of {output}")
    if isinstance(images, FileImages):
        rank_zero_info(
            "Fill in their column `label`, and train with --data.dataset csv --data.root "
            f"{quote(output)}"
        )


def _check_is_other(output: str, data: SSLDataModule) -> None:
    """Refuse to replace the list that a run is on: its checkpoint means rows of it."""
    if data.dataset == "csv" and Path(output).resolve() == Path(str(data.root)).resolve():
        raise ValueError(
            f"`output` must be another file than the list that the run was trained on, got "
            f"'{output}'."
        )


def _all_below(data: SSLDataModule) -> SSLDataModule:
    """The same with every image of the folder, whatever the folders in it are called."""
    if data.root is None:
        raise ValueError("`data.root` must be the folder of images to choose from, got none.")
    images = images_below(data.root, data.in_channels, data.exif_orientation)
    form = (data.image_size, data.in_channels, data.mean, data.std)
    source = Source("folder", ("", " "), *form, hflip=True, train=images)
    kept = ("crop_pct", "interpolation", "features_dir", "cached_features")
    return SSLDataModule.from_source(source, **{name: data.hparams[name] for name in kept})


def _probabilities(method: SSLModule, features: Tensor) -> Tensor:
    with torch.no_grad():
        logits = method.classifier(method.embed(features.to(method.dtype)))
        return softmax(logits / method.logit_temperature)


def _rows(
    data: SSLDataModule, labels: Tensor, chosen: Tensor, held_out: Tensor, folder: Path
) -> Iterator[tuple[str, str, str, int | str]]:
    """The images to label, all others of the training set, and those of the data's other sets."""
    base = folder.resolve()

    def path(images: Images, row: int) -> str:
        if not isinstance(images, FileImages):
            return images.name(row)
        name = Path(images.paths[row]).absolute()
        return printable(str(name.relative_to(base) if name.is_relative_to(base) else name))

    train = data.source.train
    for rank, row in enumerate(chosen.tolist(), 1):
        yield path(train, row), "", "train", rank
    taken, validates = set(chosen.tolist()), set(held_out.tolist())
    for row, label in enumerate(labels.tolist()):
        if row not in taken:
            split = "val" if row in validates else "train"
            yield path(train, row), data.classes[label] if label >= 0 else "", split, ""
    for split, images in (("val", data.source.val), ("test", data.source.test)):
        if isinstance(images, FileImages):  # others have no names of their own
            for row, label in enumerate(images.targets.tolist()):
                yield path(images, row), data.classes[label], split, ""
