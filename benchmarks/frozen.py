"""Methods on features of a frozen pretrained network, beside the classifiers that need no training.

    CIFAR10_ROOT=... OMP_NUM_THREADS=1 python benchmarks/frozen.py [--labels 40 250] [--seeds 3]
        [--size 96] [--run_dir runs/frozen] [ROW ...]

CIFAR-10, 500 training and 200 test images of each class, drawn once. `-c frozen` with 1,000 updates
for each method, whose further options are in `ROWS`. The labelled images are those of the seed, for
`lightning-ssl baselines` as well. Printed are test accuracies (mean and standard deviation of a
sample over the seeds) and CPU seconds of a run, its start and its validation included.
"""

import argparse
import csv
import math
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from lightning_ssl.cli import run

_MEANS = ("--model.head_init", "class_means")
_NARROW = ("--model.hidden_features", "128")
_HEAD = ("--model.head_args", "{hidden_features: 384}", "--model.output_dim", "512")
_PAWS = (*_HEAD, "--data.batch_size", "40", "--data.unlabeled_batch_size", "64")
QUIET = (
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
)
# Row to the method and its options.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Supervised": ("Supervised", ()),
    "Supervised, class means": ("Supervised", _MEANS),
    "PseudoLabel, class means": ("PseudoLabel", _MEANS),
    "PiModel, class means": ("PiModel", _MEANS),
    "MeanTeacher, class means": ("MeanTeacher", _MEANS),
    "UDA, class means": ("UDA", _MEANS),
    "FixMatch": ("FixMatch", ()),
    "FixMatch, class means": ("FixMatch", _MEANS),
    "FixMatch, class means, threshold 0.6": ("FixMatch", (*_MEANS, "--model.threshold", "0.6")),
    "FixMatch, class means, aligned, threshold 0.6": (
        "FixMatch",
        (*_MEANS, "--model.threshold", "0.6", "--model.imbalance", "ProgressiveAlignment"),
    ),
    "FlexMatch, class means": ("FlexMatch", _MEANS),
    "FreeMatch, class means": ("FreeMatch", _MEANS),
    "SoftMatch, class means": ("SoftMatch", _MEANS),
    "AdaMatch": ("AdaMatch", ()),
    "AdaMatch, class means": ("AdaMatch", _MEANS),
    "Dash, class means": ("Dash", _MEANS),
    "DeFixMatch, class means": ("DeFixMatch", _MEANS),
    "ReFixMatch, class means": ("ReFixMatch", _MEANS),
    "SequenceMatch, class means": ("SequenceMatch", _MEANS),
    "SimMatch, hidden 128": ("SimMatch", _NARROW),
    "CoMatch, hidden 128": ("CoMatch", _NARROW),
    "PAWS": ("PAWS", _PAWS),
    "PAWS after vMF-SNE": ("PAWS", _PAWS),
}


def main() -> None:
    """Read the options and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=known_row, default=list(ROWS), metavar="ROW")
    parser.add_argument("--labels", type=int, nargs="*", default=[40, 250])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--run_dir", default="runs/frozen")
    args = parser.parse_args()
    folder = Path(args.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images = write_list(Path(os.environ["CIFAR10_ROOT"]), folder / "images.csv")
    lines = []
    for labels in args.labels:
        data = [
            *("--data.dataset", "csv", "--data.root", str(images), "--data.val_per_class", "0"),
            *("--data.image_size", str(args.size), "--data.num_labels", str(labels)),
            *("--data.features_dir", str(folder / "features")),
        ]
        floor = folder / f"baselines_{labels}.csv"
        run(
            ["baselines", "-c", "frozen", *data, "--seeds", str(args.seeds), "--output", str(floor)]
        )
        for row in args.rows:
            found = [train(row, seed, data, folder / f"{labels}") for seed in range(args.seeds)]
            accuracies, seconds = zip(*found, strict=True)
            lines.append(f"| {row} | {labels} | {spread(accuracies)} | {mean(seconds):.1f} |")
            print(lines[-1], flush=True)
    print("| row | labels | test accuracy % | CPU s |\n|---|---|---|---|", *lines, sep="\n")


def known_row(name: str) -> str:
    """A row; `choices` of argparse refuse the default of a list."""
    if name not in ROWS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(ROWS)}; got {name}")
    return name


def write_list(root: Path, path: Path) -> Path:
    """List some images of each class."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for split, count in (("train", 500), ("test", 200)):
            for class_ in sorted((root / split).iterdir()):
                names = sorted(os.listdir(class_))
                for name in sorted(draw.sample(names, count)):
                    writer.writerow((class_.absolute() / name, class_.name, split))
    return path


def train(row: str, seed: int, data: list[str], folder: Path) -> tuple[float, float]:
    """Test accuracy in percent, and CPU seconds."""
    method, options = ROWS[row]
    place = folder / f"{row.replace(', ', '_').replace(' ', '_')}_{seed}"
    common = ["--seed_everything", str(seed), *QUIET]
    before = 0.0
    if row.endswith("after vMF-SNE"):
        start = [
            *("fit", "-c", "frozen", "--model", "VMFSNE", *data, *common, *_HEAD),
            *("--data.unlabeled_batch_size", "512", "--trainer.max_steps", "150"),
            *("--trainer.val_check_interval", "150", "--run_dir", f"{place}_start"),
        ]
        before = finish(start)[1]
        weights = f"{place}_start/checkpoints/last.ckpt"
        options = (*options, "--model.weights", weights, "--trainer.max_steps", "300")
    every = "300" if "300" in options else "1000"
    accuracy, seconds = finish(
        [
            *("fit", "-c", "frozen", "--model", method, *data, *common, *options),
            *("--trainer.val_check_interval", every, "--run_dir", str(place)),
        ]
    )
    return accuracy, before + seconds


def finish(command: list[str]) -> tuple[float, float]:
    """Run a command; its test accuracy in percent, NaN without one, and its CPU seconds."""
    start = time.process_time()
    cli: Any = run(command)
    seconds = time.process_time() - start
    return 100 * float(cli.trainer.callback_metrics.get("test/acc", math.nan)), seconds


def spread(values: tuple[float, ...]) -> str:
    """Mean and, of more than one, the standard deviation of a sample."""
    text = f"{mean(values):.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


mean = statistics.mean

if __name__ == "__main__":
    main()
