"""A full FixMatch training step against bare forward and backward, and where the rest goes.

    python benchmarks/step.py                                     # about 7 minutes on 2 cores
    python benchmarks/step.py --backbone wrn_10_1 --repeats 9 --threads 1 --cpu-time --keep-memory
    python benchmarks/step.py --backbone wrn_28_2 --steps 50 --device cuda --markdown

Full is the wall time of a step inside ``Trainer.fit``: fetching, transfer, views, forward, losses,
logging, backward, optimizer, schedule, average of the weights. Bare is forward, cross-entropy and
backward of the same network on as many fixed float images, channels last. A round times
``--steps`` full steps and then as many bare ones, so that noise meets both; the ratio is the
median over the rounds of full / bare, and next to it the ratio of the two minima. Each round ends
with as many full steps in which every part is timed (on CUDA the device is waited for after each
part, which makes those steps slower than the timed ones); the parts add up to such a step.

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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from augment import cpu
from pytorch_lightning.profilers import Profiler
from torch import Tensor, nn
from torch.nn import functional

from lightning_ssl.augment import Views
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.methods import FixMatch

BARS = {"wrn_10_1": 1.08, "wrn_28_2": 1.02}
CLASSES, IMAGES, LABELS, WARMUP = 10, 50_000, 4_000, 2
FETCH, OPTIMIZER = "fetch, transfer, gather", "optimizer, schedule"
LOSS, REST = "losses, logging", "rest of Lightning"
PARTS = {  # the last word of Lightning's names of what it does
    "train_dataloader_next": FETCH,
    "batch_to_device": FETCH,
    "training_step": LOSS,
    "backward": "backward",
    "optimizer_step": OPTIMIZER,
    "lr_scheduler_step": OPTIMIZER,
}


class Parts(Profiler):
    """Time of each part without what is timed inside it; what has no name counts for its caller."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.on = False
        self.times: dict[str, float] = {}

    def begin(self) -> None:
        """Start anew, inside one action of Lightning's."""
        self.on, self.times, self._stack = True, defaultdict(float), [REST, REST]
        self._mark = self.clock()

    def end(self, steps: int) -> dict[str, float]:
        """Return seconds per step."""
        self._switch()
        self.on = False
        return {part: seconds / steps for part, seconds in self.times.items()}

    def start(self, action_name: str) -> None:
        """Enter an action."""
        if self.on:
            self._switch()
            hook = action_name.rpartition(".")[2]
            part = PARTS.get(hook) or (action_name if action_name.islower() else None)
            if hook == "on_train_batch_end" and "[Callback]EMA" in action_name:
                part = "EMA"
            self._stack.append(part or self._stack[-1])

    def stop(self, action_name: str) -> None:
        """Leave it."""
        if self.on:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        now = self.clock()
        self.times[self._stack[-1]] += now - self._mark
        self._mark = now


class SplitViews:
    """The views of the datamodule, one after the other and timed while parts are."""

    def __init__(self, views: Views, data: SSLDataModule, method: FixMatch, parts: Parts) -> None:
        self.views, self.parts = views, parts
        options = {"mean": data.mean, "std": data.std, "hflip": data.source.hflip}
        self.single = {
            stream: {
                name: Views({stream: {name: copies}}, data.image_size, seed=data.seed, **options)
                for name, copies in declared.items()
            }
            for stream, declared in method.views.items()
        }

    def __call__(self, stream: str, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Make the views of a stream."""
        if not self.parts.on:
            return self.views(stream, *args, **kwargs)
        out: dict[str, Any] = {}
        for name, views in self.single[stream].items():
            with self.parts.profile(f"views: {stream}, {name}"):
                out |= views(stream, *args, **kwargs)[0]
        return out, {}


class Rounds(pl.Callback):
    """Interleave full steps, bare steps and steps in parts while a trainer fits."""

    def __init__(self, images: int, steps: int, repeats: int, parts: Parts) -> None:
        self.images, self.steps, self.repeats, self.parts = images, steps, repeats, parts
        self.full: list[float] = []
        self.bare: list[float] = []
        self.bare_parts: list[tuple[float, float]] = []
        self.full_parts: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the bare network's input and split the views."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        draw = data._draw_views
        draw.views = SplitViews(draw.views, data, pl_module, self.parts)  # type: ignore[arg-type]
        shape = (self.images, data.source.channels, data.image_size, data.image_size)
        images = torch.randn(shape, device=pl_module.device)
        self._input = images.contiguous(memory_format=torch.channels_last)
        self._target = torch.randint(CLASSES, (self.images,), device=pl_module.device)
        self._network = nn.Sequential(pl_module.backbone, pl_module.classifier)
        pl_module.register_forward_pre_hook(lambda *_: self.parts.start("forward"))
        pl_module.register_forward_hook(lambda *_: self.parts.stop("forward"))
        self._rounds = self._run()

    def on_train_batch_start(self, *args: Any) -> None:
        """Go on to the next step; one lasts from here to here."""
        next(self._rounds)

    def _run(self) -> Iterator[None]:
        """Yield for each full step."""
        for _ in range(WARMUP):
            yield
            self._time_bare(1)
        for _ in range(self.repeats):
            start = self.parts.clock()
            for _ in range(self.steps):
                yield
            self.full.append((self.parts.clock() - start) / self.steps)
            self.bare.append(self._time_bare(self.steps))
            self.bare_parts.append(self._split_bare())
            self.parts.begin()
            for _ in range(self.steps):
                yield
            self.full_parts.append(self.parts.end(self.steps))
        yield

    def _time_bare(self, steps: int) -> float:
        start = self.parts.clock()
        for _ in range(steps):
            self._loss().backward()
            self._network.zero_grad()
        return (self.parts.clock() - start) / steps

    def _split_bare(self) -> tuple[float, float]:
        start = self.parts.clock()
        loss = self._loss()
        middle = self.parts.clock()
        loss.backward()
        end = self.parts.clock()
        self._network.zero_grad()
        return middle - start, end - middle

    def _loss(self) -> Tensor:
        return functional.cross_entropy(self._network(self._input), self._target)


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


def run(backbone: str, args: argparse.Namespace) -> Rounds:
    """Fit for as many steps as the rounds need."""
    pl.seed_everything(0, verbose=False)
    pixels = torch.randint(256, (IMAGES, 3, args.size, args.size), dtype=torch.uint8)
    source = from_arrays(pixels, torch.arange(IMAGES) % CLASSES)
    data = SSLDataModule.from_source(
        source,
        num_labels=LABELS,
        val_per_class=0,
        batch_size=args.labeled,
        unlabeled_batch_size=args.unlabeled,
    )
    parts = Parts(clock_of(args.device, args.cpu_time))
    rounds = Rounds(args.labeled + 2 * args.unlabeled, args.steps, args.repeats, parts)
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
    trainer.fit(FixMatch(CLASSES, backbone=backbone), datamodule=data)
    return rounds


def step_row(backbone: str, rounds: Rounds) -> list[str]:
    """Line of the first table."""
    ratios = [full / bare for full, bare in zip(rounds.full, rounds.bare, strict=True)]
    ratio, bar = statistics.median(ratios), BARS.get(backbone)
    return [
        backbone,
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
    forward, backward = (statistics.median(part) for part in zip(*rounds.bare_parts, strict=True))
    beside = {"forward": forward, "backward": backward}
    names = dict.fromkeys(name for parts in rounds.full_parts for name in parts)
    median = {n: statistics.median(p.get(n, 0.0) for p in rounds.full_parts) for n in names}
    views = [name for name in median if name.startswith("views")]
    order = [FETCH, *views, "forward", LOSS, "backward", OPTIMIZER, "EMA", REST]
    rows = [_part(name, median.get(name, 0.0), bare, beside.get(name)) for name in order]
    extra = [*views, FETCH, LOSS, OPTIMIZER, "EMA", REST]
    rows.append(_part("all but forward, backward", sum(median.get(n, 0.0) for n in extra), bare))
    rows.append(_part("sum", sum(median.values()), bare, forward + backward))
    whole = statistics.median(sum(parts.values()) for parts in rounds.full_parts)
    rows.append(_part("step timed in parts", whole, bare))
    return rows


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
    parser.add_argument("--backbone", nargs="+", default=["wrn_10_1", "wrn_28_2"])
    parser.add_argument("--steps", type=int, default=1, help="of each kind per round")
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    parser.add_argument("--labeled", type=int, default=64)
    parser.add_argument("--unlabeled", type=int, default=448)
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
    print(
        f"FixMatch, {args.labeled} + 2 x {args.unlabeled} images of {args.size}x{args.size}, "
        f"{args.repeats} rounds of {args.steps} steps; ms per step\n"
    )
    results = {backbone: run(backbone, args) for backbone in args.backbone}
    head = ["backbone", "bare", "full", "ratio", "over rounds", "of minima", "bar"]
    show(head, [step_row(*item) for item in results.items()], args.markdown)
    for backbone, rounds in results.items():
        show([backbone, "ms", "of bare", "bare ms"], part_rows(rounds), args.markdown)


if __name__ == "__main__":
    main()
