"""What frozen features are worth without training: one table of simple classifiers."""

import csv
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_ssl.checks import check_count
from lightning_ssl.commands.network import build_frozen
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.features.cache import open_features
from lightning_ssl.data.splits.make import Split
from lightning_ssl.evaluation.baselines import Pool, run_baselines
from lightning_ssl.files import check_output, writing_text

_COLUMNS = ("method", "seed", "labels", "transductive", "test", "seconds")


class BaselineRow(NamedTuple):
    """What a classifier reaches with one choice of labelled images; accuracies in [0, 1]."""

    method: str
    seed: int
    labels: int
    transductive: float | None
    test: float | None
    seconds: float


def baselines(
    fit_options: Sequence[str], output: str = "baselines.csv", seeds: int = 3
) -> list[BaselineRow]:
    """Classify by the frozen features of a pretrained network, without training it, in seconds.

    Class means, soft nearest neighbours, logistic regression, label propagation, self-training and
    TransCLIP: the floor under every trained method. Each image goes through the network once; what
    comes out is kept, see ``lightning-ssl features``. Accuracies are of the unlabelled training
    images whose class is known (transductive) and of the test images, where there are any, else of
    those set apart for validation.

    Args:
        fit_options: Options of ``fit``.
        output: The CSV file: accuracies in [0, 1], a row for each classifier and seed.
        seeds: Number of choices of labelled images, whose seeds count from that of the data.

    Returns:
        The rows of the file.
    """
    check_count("seeds", seeds)
    check_output(output, "output")
    method, data = build_frozen(fit_options)
    splits = [_with_seed(data, data.seed + number).split for number in range(seeds)]
    known = data.source.train.targets >= 0
    held_out = data.source.test is not None or len(splits[0].val)
    if not held_out and not known[_unlabeled(splits[0])].any():
        raise ValueError(
            "`data` must have images to measure on: a test part, known classes of unlabelled "
            f"images, or more labels, of which a part is set apart, got none in '{data.dataset}'."
        )
    features = {part: values.float() for part, values in open_features(data, method).items()}
    rows: list[BaselineRow] = []
    for seed, split in enumerate(splits, data.seed):
        rows += _run(data, split, seed, features)
    with writing_text(output, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    _print(rows, f"{len(splits[0].labeled)} labelled images, {seeds} choices of them")
    Console().print(f"Written to {output}", soft_wrap=True)
    return rows


def _with_seed(data: SSLDataModule, seed: int) -> SSLDataModule:
    """The same images, which are not opened again, with another choice of labels."""
    options = {
        name: v for name, v in data.hparams.items() if name not in ("dataset", "in_channels")
    }
    return SSLDataModule.from_source(data.source, **{**options, "seed": seed})


def _unlabeled(split: Split) -> Tensor:
    return split.unlabeled[~torch.isin(split.unlabeled, split.labeled)]


def _run(
    data: SSLDataModule, split: Split, seed: int, features: dict[str, Tensor]
) -> list[BaselineRow]:
    """Every classifier on one choice of labelled images."""
    train, targets, others = features["train"], data.source.train.targets, _unlabeled(split)
    new, truth = train[split.val], targets[split.val]
    if data.source.test is not None:
        new, truth = features["test"], data.source.test.targets
    labels, hidden, rows = len(split.labeled), targets[others], []
    pool = Pool(
        train[torch.cat([split.labeled, others])],
        torch.arange(labels),
        targets[split.labeled],
        data.num_classes,
        new,
    )
    start = time.perf_counter()
    for name, found in run_baselines(pool):
        seconds, start = time.perf_counter() - start, time.perf_counter()
        accuracies = (_accuracy(found.train[labels:], hidden), _accuracy(found.test, truth))
        rows.append(BaselineRow(name, seed, labels, *accuracies, round(seconds, 2)))
    return rows


def _accuracy(probs: Tensor, target: Tensor) -> float | None:
    known = target >= 0
    if not known.any():
        return None
    return round((probs.argmax(dim=1)[known] == target[known]).double().mean().item(), 4)


def _print(rows: list[BaselineRow], title: str) -> None:
    table = Table("method", "transductive %", "test %", "seconds", title=title)
    for name in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        table.add_row(
            name,
            _summary([row.transductive for row in own]),
            _summary([row.test for row in own]),
            f"{sum(row.seconds for row in own) / len(own):.1f}",
        )
    Console().print(table)


def _summary(values: Sequence[float | None]) -> str:
    """Mean and deviation over the choices, in percent."""
    known = 100 * torch.tensor([value for value in values if value is not None])
    if not len(known):
        return "-"
    spread = f" ± {known.std().item():.1f}" if len(known) > 1 else ""
    return f"{known.mean().item():.1f}{spread}"
