"""Kill a run again and again, and compare it with one that was never stopped.

``python benchmarks/kills.py --kills 60 --signal KILL`` starts a short run of FixMatch on digits,
sends the signal at a random moment, continues the run, and so on, until it has been stopped as
often as asked; then it lets the run end. Every process is forked after the imports. It prints how
often each moment was met, how many checkpoints did not open, and how many tensors of the last
checkpoint differ from those of the run that was never stopped. Ends with status 1 if any do.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from lightning_ssl.cli.main import commands, main

OPTIONS = (
    *("fit", "--model", "FixMatch", "--data.dataset", "digits", "--data.num_labels", "20"),
    *("--data.batch_size", "8", "--data.unlabeled_batch_size", "16", "--model.threshold", "0.2"),
    *("--model.backbone", "wrn_10_1", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.log_every_n_steps", "5", "--trainer.val_check_interval", "15"),
)
EVERY = 5  # updates between two checkpoints


def start(folder: Path, steps: int) -> int:
    """Fork a process that begins or continues the run."""
    child = os.fork()
    if child:
        return child
    log = os.open(folder.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    last = ("--ckpt_path", "last")
    extra = (
        *("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",),
        *("--trainer.callbacks.dirpath", str(folder / "checkpoints")),
        *("--trainer.callbacks.filename", "last", "--trainer.callbacks.every_n_train_steps"),
        str(EVERY),
    )
    try:
        main([*OPTIONS, *extra, "--run_dir", str(folder), "--trainer.max_steps", str(steps), *last])
    except SystemExit as stopped:
        os._exit(int(stopped.code or 0))
    except BaseException:
        os._exit(1)
    os._exit(0)


def leaves(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Tensors of nested values by their place."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        name: tensor
        for key, item in items
        if isinstance(item, torch.Tensor | dict | list | tuple)
        for name, tensor in leaves(item, f"{path}/{key}").items()
    }


def opened(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        return None
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--steps", type=int, default=600, help="updates of the run")
    parser.add_argument("--seconds", type=float, default=6.0, help="longest time before a signal")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def trial(args: argparse.Namespace, root: Path) -> int:
    """Run both and compare; returns the number of what went wrong."""
    draw, number = random.Random(args.seed), getattr(signal, f"SIG{args.signal}")
    whole, stopped = root / "whole", root / "stopped"
    os.waitpid(start(whole, args.steps), 0)
    met, codes, broken = Counter[str](), Counter[int](), 0
    for _ in range(args.kills):
        child = start(stopped, args.steps)
        time.sleep(draw.uniform(0, args.seconds))
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        codes[os.waitstatus_to_exitcode(status)] += 1
        try:
            checkpoint = opened(stopped)
            met["before a checkpoint" if checkpoint is None else "after one"] += 1
        except Exception:
            broken += 1
    os.waitpid(start(stopped, args.steps), 0)
    one, two = opened(whole), opened(stopped)
    assert one is not None
    assert two is not None
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    first, second = (leaves({n: c[n] for n in names}) for c in (one, two))
    wrong = [n for n in first if n not in second or not torch.equal(first[n], second[n])]
    rows = [(folder / "metrics.csv").read_text() for folder in (whole, stopped)]
    left = [str(p.relative_to(root)) for p in root.rglob("*.tmp")]
    print(f"signals {args.kills} ({args.signal}); met: {dict(met)}; exit codes: {dict(codes)}")
    print(f"checkpoints that did not open: {broken}; half-written files left: {len(left)}")
    print(f"updates {one['global_step']} and {two['global_step']}; differing tensors: "
          f"{len(wrong)} of {len(first)}; metrics.csv equal: {rows[0] == rows[1]}")  # fmt: skip
    return broken + len(wrong) + (rows[0] != rows[1])


if __name__ == "__main__":
    commands()  # imported before the forks
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(1, trial(parse(), Path(folder))))
