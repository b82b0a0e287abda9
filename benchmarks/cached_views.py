"""How many stored views of each image are enough, beside views drawn and embedded in each step.

    CIFAR10_ROOT=... OMP_NUM_THREADS=1 python benchmarks/cached_views.py [--counts 1 2 4 8]
        [--seeds 3] [--updates 300] [--run_dir runs/frozen]

The images and the frozen network of `benchmarks/frozen.py`, 40 labels, FixMatch from class means
with a threshold of 0.6, 64 unlabelled images a step. Every row has the same updates and batches.
Printed are test accuracies (mean and standard deviation of a sample over the seeds) and CPU seconds
of a run, without the computation of features.
"""

import argparse
import os
from pathlib import Path

from frozen import QUIET, finish, spread, write_list

from lightning_ssl.cli import run


def main() -> None:
    """Read the options and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--run_dir", default="runs/frozen")
    args = parser.parse_args()
    folder = Path(args.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images = write_list(Path(os.environ["CIFAR10_ROOT"]), folder / "images.csv")
    common = [
        *("-c", "frozen", "--model", "FixMatch"),
        *("--model.head_init", "class_means", "--model.threshold", "0.6"),
        *("--model.ema_decay", "0.98", "--trainer.max_steps", str(args.updates)),
        *("--trainer.val_check_interval", str(args.updates)),
        *("--data.dataset", "csv", "--data.root", str(images), "--data.val_per_class", "0"),
        *("--data.image_size", "96", "--data.num_labels", "40"),
        *("--data.unlabeled_batch_size", "64", *QUIET),
    ]
    cached = [*common, "--data.features_dir", str(folder / "features"), "--data.cached_views"]
    rows = {f"{count}": [*cached, str(count)] for count in args.counts}
    rows["online"] = [*common, "--data.cached_features", "false"]
    print("| views | test accuracy % | CPU s |\n|---|---|---|")
    for name, options in rows.items():
        if name != "online":
            run(["features", *options])
        found = [
            finish(["fit", *options, "--seed_everything", str(seed), "--run_dir",
                    str(folder / "views" / f"{name}_{seed}")])
            for seed in range(args.seeds)
        ]  # fmt: skip
        accuracies, seconds = zip(*found, strict=True)
        print(f"| {name} | {spread(accuracies)} | {spread(seconds)} |", flush=True)


if __name__ == "__main__":
    main()
