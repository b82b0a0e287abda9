"""A full training step of a method against bare forward and backward, and where the rest goes.

    python benchmarks/step.py                                     # about 7 minutes on 2 cores
    python benchmarks/step.py --backbone wrn_10_1 --repeats 9 --threads 1 --cpu-time --keep-memory
    python benchmarks/step.py --method PAWS --backbone paws_wrn_28_2 --steps 50 --device cuda

Full is the wall time of a step inside ``Trainer.fit``: fetching, transfer, views, forward, heads,
losses, logging, backward, optimizer, schedule, average of the weights. The method's arguments are
their defaults (``--method-args "{warmup: 0}"``, for example, changes them), the batch sizes those
of its config. Bare is the backbone alone, without heads: the calls of it that one step makes,
counted in a warm-up step, on as many fixed float images of the same sizes, channels last; the mean
of all features is the loss. A call that no gradient comes back to is a forward pass; one whose
images need a gradient, as in adversarial training, is followed at once by the backward pass to
them; the others share one backward pass to the weights. A second network of the backbone's class,
such as a teacher, counts like the backbone, also where it is the average of the weights.

A round times ``--steps`` full steps and then as many bare ones, so that noise meets both; the ratio
is the median over the rounds of full / bare, and next to it the ratio of the two minima. Each round
ends with as many full steps in which every part is timed (on CUDA the device is waited for after
each part, which makes those steps slower than the timed ones); the parts add up to such a step.
Forward and backward are the network's, and stand beside those of a bare step; the backward passes
of losses and heads are parts of their own. Joining views is what comes between them and the
network: one tensor of several views, channels last.

On a busy machine ``--threads 1 --cpu-time`` still tells a few per cent apart. By default glibc
gives large freed blocks back to the system, and the page faults of taking them anew are a fifth of
both kinds of step on a CPU, and most of the noise; ``--keep-memory`` has it keep them.
"""

import argparse
import ctypes
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from augment import cpu
from parts import (
    BACKWARD,
    EMA,
    FETCH,
    FORWARD,
    HEADS,
    HEADS_BACKWARD,
    JOIN,
    LOSS,
    LOSS_BACKWARD,
    OPTIMIZER,
    REST,
    Parts,
    SplitViews,
)
from torch import Tensor, nn

from lightning_ssl import methods
from lightning_ssl.cli.checkpoint import TRAINED_ON
from lightning_ssl.cli.configs import CONFIGS
from lightning_ssl.cli.errors import parameters
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.methods.families.teacher import TeacherModule

METHODS = [name for name in methods.__all__ if name != "SSLModule"]
BARS = {"wrn_10_1": 1.08, "wrn_28_2": 1.02}
CLASSES, IMAGES, LABELS, WARMUP = 10, 50_000, 4_000, 2
SIZES = ("batch_size", "unlabeled_batch_size")
VIEWS = ("support_views", "global_views", "local_views", "copies")


@dataclass
class Call:
    """One call of a network in a step."""

    shape: torch.Size
    to_images: bool
    """Whether its images need a gradient."""
    backward: bool = False
    """Whether a gradient came back."""

    def __str__(self) -> str:
        kind = "" if self.backward else ", forward"
        kind = ", to images" if self.backward and self.to_images else kind
        return f"{self.shape[0]} of {self.shape[2]}x{self.shape[3]}{kind}"


class Rounds(pl.Callback):
    """Interleave full steps, bare steps and steps in parts while a trainer fits."""

    def __init__(self, steps: int, repeats: int, parts: Parts) -> None:
        self.steps, self.repeats, self.parts = steps, repeats, parts
        self.calls: list[Call] = []
        self.full: list[float] = []
        self.bare: list[float] = []
        self.bare_parts: list[dict[str, float]] = []
        self.full_parts: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch network and heads, and split the views."""
        draw = trainer.datamodule._draw_views  # type: ignore[attr-defined]
        draw.views = SplitViews(draw.views, self.parts)
        self._backbone: Any = pl_module.backbone
        kind = type(self._backbone)
        teacher = pl_module.teacher if isinstance(pl_module, TeacherModule) else None
        modules = [*pl_module.modules(), *(() if teacher is None else teacher.modules())]
        self._networks = [module for module in modules if type(module) is kind]
        for network in self._networks:
            self.parts.watch(network, FORWARD, BACKWARD)
        for head in pl_module.children():
            if head not in self._networks and any(True for _ in head.parameters()):
                self.parts.watch(head, HEADS, HEADS_BACKWARD)
        for name in ("forward_together", "features_together", "project_together"):
            if hasattr(pl_module, name):
                setattr(pl_module, name, self.parts.timed(JOIN, getattr(pl_module, name)))
        self._rounds = self._run()

    def on_train_batch_start(self, *args: Any) -> None:
        """Go on to the next step; one lasts from here to here."""
        next(self._rounds)

    def _run(self) -> Iterator[None]:
        """Yield for each full step."""
        handles = [network.register_forward_hook(self._record) for network in self._networks]
        yield
        for handle in handles:
            handle.remove()
        device = next(self._backbone.parameters()).device
        self._images = [
            torch.randn(call.shape, device=device)
            .contiguous(memory_format=torch.channels_last)
            .requires_grad_(call.to_images)
            for call in self.calls
        ]
        self._time_bare(1)
        for _ in range(WARMUP - 1):
            yield
            self._time_bare(1)
        for _ in range(self.repeats):
            start = self.parts.clock()
            for _ in range(self.steps):
                yield
            self.full.append((self.parts.clock() - start) / self.steps)
            self.bare.append(self._time_bare(self.steps))
            self.parts.begin()
            self._time_bare(self.steps)
            self.bare_parts.append(self.parts.end(self.steps))
            self.parts.begin()
            for _ in range(self.steps):
                yield
            self.full_parts.append(self.parts.end(self.steps))
        yield

    def _record(self, _network: nn.Module, inputs: tuple[Tensor], features: Tensor) -> None:
        call = Call(inputs[0].shape, inputs[0].requires_grad)
        self.calls.append(call)
        if features.requires_grad:
            features.register_hook(lambda _: setattr(call, "backward", True))

    def _time_bare(self, steps: int) -> float:
        start = self.parts.clock()
        for _ in range(steps):
            self._step_bare()
        return (self.parts.clock() - start) / steps

    def _step_bare(self) -> None:
        losses = []
        for call, images in zip(self.calls, self._images, strict=True):
            with torch.set_grad_enabled(call.backward):
                loss = self._backbone(images).mean()
            if call.backward and call.to_images:
                torch.autograd.grad(loss, images)
            elif call.backward:
                losses.append(loss)
        if losses:
            torch.stack(losses).sum().backward()
        self._backbone.zero_grad()


def clock_of(device: str, cpu_time: bool) -> Callable[[], float]:
    """What tells the time, when the device has done what it was given."""
    now = time.process_time if cpu_time else time.perf_counter

    def wait_and_tell() -> float:
        torch.cuda.synchronize()
        return now()

    return wait_and_tell if device == "cuda" else now


def keep_memory() -> None:
    """Serve large blocks from the heap and never give it back: no page faults after warm-up."""
    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold = -4, -1  # names in malloc.h
    if not (libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1)):
        raise OSError("`--keep-memory` needs glibc's mallopt.")


def config_of(method: str) -> dict[str, Any]:
    """The config with the paper's values."""
    configs = (yaml.safe_load(path.read_text()) for path in (CONFIGS / "methods").glob("*.yaml"))
    return next(config for config in configs if config["model"]["class_path"] == method)


def batch_sizes(args: argparse.Namespace) -> dict[str, int]:
    """Those of the method's config, unless flags say otherwise."""
    data = config_of(args.method)["data"]
    given = {size: getattr(args, size) or data.get(size) for size in SIZES}
    return {size: number for size, number in given.items() if number}


def run(backbone: str, args: argparse.Namespace) -> Rounds:
    """Fit for as many steps as the rounds need."""
    pl.seed_everything(0, verbose=False)
    pixels = torch.randint(256, (IMAGES, 3, args.size, args.size), dtype=torch.uint8)
    source = from_arrays(pixels, torch.arange(IMAGES) % CLASSES)
    data = SSLDataModule.from_source(
        source, num_labels=LABELS, val_per_class=0, **batch_sizes(args)
    )
    parts = Parts(clock_of(args.device, args.cpu_time))
    rounds = Rounds(args.steps, args.repeats, parts)
    trainer = pl.Trainer(
        accelerator=args.device,
        devices=1,
        max_epochs=-1,
        max_steps=WARMUP + 2 * args.steps * args.repeats + 1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rounds],
        profiler=parts,
    )
    options = config_of(args.method)["model"]["init_args"]
    views = {name: value for name, value in options.items() if name in VIEWS}
    method = getattr(methods, args.method)
    sizes = {n: getattr(data, n) for n in TRAINED_ON if n in parameters(method)}
    given = {**sizes, **views, **args.method_args}
    trainer.fit(method(CLASSES, backbone=backbone, **given), datamodule=data)
    return rounds


def step_row(backbone: str, rounds: Rounds) -> list[str]:
    """Line of the first table."""
    ratios = [full / bare for full, bare in zip(rounds.full, rounds.bare, strict=True)]
    ratio, bar = statistics.median(ratios), BARS.get(backbone)
    return [
        backbone,
        str(len(rounds.calls)),
        " + ".join(map(str, rounds.calls)),
        f"{statistics.median(rounds.bare) * 1e3:.1f}",
        f"{statistics.median(rounds.full) * 1e3:.1f}",
        f"{ratio:.3f}",
        f"{min(ratios):.3f}-{max(ratios):.3f}",
        f"{min(rounds.full) / min(rounds.bare):.3f}",
        "-" if bar is None else f"{bar:.2f} {'met' if ratio <= bar else 'missed'}",
    ]


def part_rows(rounds: Rounds) -> list[list[str]]:
    """Lines of the second table: each part, medians over the rounds."""
    bare = statistics.median(rounds.bare)
    median, beside = _medians(rounds.full_parts), _medians(rounds.bare_parts)
    views = [name for name in median if name.startswith("views")]
    before, losses = [FETCH, *views, JOIN], [HEADS, LOSS, LOSS_BACKWARD, HEADS_BACKWARD]
    after = [OPTIMIZER, EMA, REST]
    order = [*before, FORWARD, *losses, BACKWARD, *after]
    network = {part: beside.get(part, 0.0) for part in (FORWARD, BACKWARD)}
    rows = [_part(name, median.get(name, 0.0), bare, network.get(name)) for name in order]
    extra = sum(seconds for name, seconds in median.items() if name not in network)
    rows.append(_part("all but forward, backward", extra, bare))
    rows.append(_part("sum", sum(median.values()), bare, sum(network.values())))
    whole = statistics.median(sum(parts.values()) for parts in rounds.full_parts)
    rows.append(_part("step timed in parts", whole, bare))
    return rows


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for parts in rounds for name in parts)
    return {name: statistics.median(parts.get(name, 0.0) for parts in rounds) for name in names}


def _part(name: str, seconds: float, bare: float, beside: float | None = None) -> list[str]:
    other = "" if beside is None else f"{beside * 1e3:.1f}"
    return [name, f"{seconds * 1e3:.2f}", f"{seconds / bare:.2%}", other]


def show(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """Print a table, as text or as Markdown."""
    if markdown:
        print("| " + " | ".join(head) + " |")
        print("|---" * len(head) + "|")
        for row in rows:
            print("| " + " | ".join(row) + " |")
    else:
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    print(flush=True)


def main() -> None:
    """Print the ratio of each backbone, and its parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="FixMatch")
    parser.add_argument("--method-args", type=yaml.safe_load, default={}, help="as YAML")
    parser.add_argument("--backbone", nargs="+", default=["wrn_10_1", "wrn_28_2"])
    parser.add_argument("--steps", type=int, default=1, help="of each kind per round")
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    for flag, size in zip(("--labeled", "--unlabeled"), SIZES, strict=True):
        parser.add_argument(flag, dest=size, type=int, help="images; as in the method's config")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="of torch; as many as cores by default")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of this process, for a busy machine"
    )
    parser.add_argument(
        "--keep-memory", action="store_true", help="have glibc keep freed memory, for both"
    )
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.keep_memory:
        keep_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(f"python {' '.join(sys.argv)}")
    gpu = f", {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    print(f"{cpu()}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()},")
    print(f"torch {torch.__version__}, pytorch-lightning {pl.__version__}")
    sizes = ", ".join(f"{size} {number}" for size, number in batch_sizes(args).items())
    print(f"{args.method}, {sizes}; {args.repeats} rounds of {args.steps} steps; ms per step\n")
    results = {backbone: run(backbone, args) for backbone in args.backbone}
    times = ["bare", "full", "ratio", "over rounds", "of minima", "bar"]
    head = ["backbone", "network calls", "images", *times]
    show(head, [step_row(*item) for item in results.items()], args.markdown)
    for backbone, rounds in results.items():
        show([backbone, "ms", "of bare", "bare ms"], part_rows(rounds), args.markdown)


if __name__ == "__main__":
    main()
