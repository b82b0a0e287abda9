"""V-PET on frozen networks: a student beside its teachers and their votes.

    CIFAR10_ROOT=... OMP_NUM_THREADS=1 python benchmarks/vpet.py [--labels 40 250] [--seeds 3]
        [--run_dir runs/frozen]

The images of `benchmarks/frozen.py`. Two teachers learn the labels alone on features of a frozen
EfficientNet-Lite0 and -Lite2 (96 pixels, from class means); a student on those of Lite0 learns
their votes (https://arxiv.org/abs/2503.09707). Printed are test accuracies, and the accuracies of
the votes on the training images (mean and standard deviation of a sample over the seeds).
"""

import argparse
import csv
import os
from pathlib import Path

from frozen import QUIET, finish, spread, write_list

from lightning_ssl.cli import run

_NETWORKS = ("timm/tf_efficientnet_lite0", "timm/tf_efficientnet_lite2")


def main() -> None:
    """Read the options and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="*", default=[40, 250])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run_dir", default="runs/frozen")
    args = parser.parse_args()
    folder = Path(args.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images = write_list(Path(os.environ["CIFAR10_ROOT"]), folder / "images.csv")
    lines = []
    for labels in args.labels:
        found = [sequence(folder, images, labels, seed) for seed in range(args.seeds)]
        names = ("teacher, Lite0", "teacher, Lite2", "votes, training images", "student, Lite0")
        for name, values in zip(names, zip(*found, strict=True), strict=True):
            lines.append(f"| {name} | {labels} | {spread(values)} |")
    print("| row | labels | accuracy % |\n|---|---|---|", *lines, sep="\n")


def sequence(folder: Path, images: Path, labels: int, seed: int) -> list[float]:
    """Accuracies of teachers, votes and student, in percent."""
    place = folder / "vpet" / f"{labels}_{seed}"
    common = [
        *("-c", "frozen", "--data.dataset", "csv", "--data.root", str(images)),
        *("--data.val_per_class", "0", "--data.image_size", "96", "--data.num_labels", str(labels)),
        *("--data.features_dir", str(folder / "features"), "--seed_everything", str(seed)),
        *("--model.head_init", "class_means", "--trainer.val_check_interval", "1000", *QUIET),
    ]
    teachers = [f"--model.backbone {network}" for network in _NETWORKS]
    run(["vpet", "--run_dir", str(place), f"--teachers={teachers}", "--common", " ".join(common)])
    table = place / "pseudo_labels.csv"
    steps = [place / "teacher1", place / "teacher2", place / "student"]
    tested = [
        finish(["test", "--ckpt_path", str(step / "checkpoints" / "last.ckpt"), *QUIET])[0]
        for step in steps
    ]
    return [*tested[:2], votes_right(table, images), tested[2]]


def votes_right(table: Path, images: Path) -> float:
    """Share of the training images that the votes label rightly, in percent."""
    with images.open(newline="") as file:
        truth = {row["path"]: row["label"] for row in csv.DictReader(file)}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return 100 * sum(truth[row["image"]] == row["label"] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
