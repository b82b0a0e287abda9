"""What storing features costs beside the forward passes that make them.

    CIFAR10_ROOT=... OMP_NUM_THREADS=1 python benchmarks/filling.py [--images 1000] [--sizes 96 224]

Some training images of CIFAR-10, as files, through a frozen EfficientNet-Lite0: evaluation's form,
4 weak and 8 strong views, by `lightning-ssl features`. Timed in the same run are the network's
calls alone and all from the first to the last of them: reading, decoding, views, transfer, storing.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from timm.models import EfficientNet
from torch.nn.modules import module

from lightning_ssl.cli import run


class Clock:
    """Seconds in the network, and from its first call to its last."""

    def __init__(self) -> None:
        self.inside = self.first = self.last = self.began = 0.0

    def before(self, network: Any, args: Any) -> None:
        """A call begins."""
        if isinstance(network, EfficientNet):
            self.began = time.perf_counter()
            self.first = self.first or self.began

    def after(self, network: Any, args: Any, output: Any) -> None:
        """A call ends."""
        if isinstance(network, EfficientNet):
            self.last = time.perf_counter()
            self.inside += self.last - self.began


def main() -> None:
    """Read the options and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[96, 224])
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            images = write_list(Path(os.environ["CIFAR10_ROOT"]), Path(folder), args.images)
            clock = Clock()
            hooks = [
                module.register_module_forward_pre_hook(clock.before),
                module.register_module_forward_hook(clock.after),
            ]
            run(
                [
                    *("features", "-c", "frozen", "--data.dataset", "csv"),
                    *("--data.root", str(images), "--data.val_per_class", "0"),
                    *("--data.num_labels", "40", "--data.image_size", str(size)),
                    *("--features_dir", f"{folder}/features", "--trainer.accelerator", "cpu"),
                ]
            )
            for hook in hooks:
                hook.remove()
        whole = clock.last - clock.first
        rows.append(f"| {size} | {clock.inside:.1f} | {whole:.1f} | {whole / clock.inside:.3f} |")
    print("| pixels | s in the network | s in all | ratio |\n|---|---|---|---|", *rows, sep="\n")


def write_list(root: Path, folder: Path, count: int) -> Path:
    """List as many images of each class."""
    path = folder / "images.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        for class_ in sorted((root / "train").iterdir()):
            for name in sorted(os.listdir(class_))[: count // 10]:
                writer.writerow((class_ / name, class_.name))
    return path


if __name__ == "__main__":
    main()
