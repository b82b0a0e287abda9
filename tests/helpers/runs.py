"""Short runs of the command line, and what they leave behind."""

import csv
from pathlib import Path
from typing import Any

import torch

from lightning_ssl.cli import run

SMALL = (
    *("--data.dataset", "digits", "--data.num_labels", "20"),
    *("--data.batch_size", "8", "--data.unlabeled_batch_size", "16"),
    *("--model.backbone", "wrn_10_1", "--trainer.enable_model_summary", "false"),
    *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    *("--report", "false"),  # a tenth of such a run
)


def fit(method: str, run_dir: str, steps: int, *args: str) -> Any:
    """Train a few steps on digits; later arguments win."""
    return run(
        [
            *("fit", "--model", method, *SMALL, "--run_dir", run_dir),
            *("--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps)),
            *args,
        ]
    )


def load(run_dir: str, name: str = "last") -> dict[str, Any]:
    """Open a checkpoint of a run, as a stranger would."""
    return torch.load(Path(run_dir, "checkpoints", f"{name}.ckpt"), weights_only=True)


def read_rows(path: str) -> list[dict[str, str]]:
    """Rows of a CSV file by its columns."""
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Names of the leaves in which two nested states differ, to the last bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted({*first, *second}, key=str)
        return [
            name
            for key in keys
            for name in differences(first.get(key), second.get(key), f"{path}/{key}")
        ]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [path]
        return [
            name
            for i, (a, b) in enumerate(zip(first, second, strict=True))
            for name in differences(a, b, f"{path}/{i}")
        ]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    return [] if first == second else [path]
