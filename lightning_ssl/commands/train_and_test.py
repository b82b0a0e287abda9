"""A training run and its test, for commands that compare runs; here or in a process of its own."""

import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities import rank_zero_only

from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.cli.errors import USER_ERRORS, error_line
from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.files import writing_text


def train_and_test(command: Sequence[str]) -> dict[str, Any]:
    """Train, and test what training ends with.

    Args:
        command: Options of ``fit``.

    Returns:
        The metrics of the test by their logged names, ``seconds`` of training with its
        evaluations, those before an interruption included, and optimizer ``updates``.
    """
    # Checkpoints carry its time.
    cli = run_trainer(["fit", *command, "--trainer.callbacks+=pytorch_lightning.callbacks.Timer"])
    trainer: Any = cli.trainer
    (timer,) = find_callbacks(trainer, Timer)
    updates = trainer.global_step
    trainer.loggers = []  # the logged curves are those of training
    last = Path(cli.config["fit"].run_dir, "checkpoints", "last.ckpt")
    (metrics,) = trainer.test(
        cli.model, datamodule=cli.datamodule, ckpt_path=last, verbose=False, weights_only=True
    )
    return {**metrics, "seconds": timer.time_elapsed(), "updates": updates}


def _main() -> None:
    """Write what `train_and_test` returns to the file of the first argument."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, *command = sys.argv[1:]
    try:
        _write(path, train_and_test(command))
    except USER_ERRORS as error:
        traceback.print_exc()  # nobody was there to ask for it
        print(error_line(error), file=sys.stderr)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """Wait for the end of the standard input: it comes however the process at its other end ends.

    Otherwise training would go on unseen, in the way of a second attempt.
    """
    os.read(0, 1)
    os._exit(1)


@rank_zero_only
def _write(path: str, result: dict[str, Any]) -> None:
    with writing_text(path) as file:
        file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    _main()
