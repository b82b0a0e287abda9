"""The logged values of a run as one table."""

import csv
import os
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lightning_ssl.files import appending, writing_text


def read_metrics(path: str) -> list[dict[str, str]]:
    """Read the rows of a run's ``metrics.csv``; one that a killed run did not finish is left out.

    Args:
        path: The file; where there is none there are no rows.

    Raises:
        ValueError: If it is no such file.
    """
    if not os.path.exists(path):
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        names = reader.fieldnames
        if names is not None and "step" not in names:
            raise ValueError("its first line does not name the column 'step'")
        if any(None in row for row in rows):
            raise ValueError("a line has more columns than the first one")
    except (csv.Error, OSError, ValueError) as error:
        raise ValueError(
            f"'{path}' cannot be continued, move it away to go on without its rows: {error}."
        ) from error
    return [row for row in rows if row["step"] and row["step"].isdecimal()]


class MetricsFile(Logger):
    """Writes ``metrics.csv``: a row for each logged step, which a resumed run continues.

    Lightning's own CSV logger starts a new folder with every part of a run, and a part repeats the
    steps since the last checkpoint of the one before it.

    Args:
        save_dir: Folder of the file.
        flush_every: Rows that are kept back until they are written together.
    """

    def __init__(self, save_dir: str, flush_every: int = 20) -> None:
        super().__init__()
        self._save_dir, self.flush_every = os.fspath(save_dir), flush_every
        self.path = os.path.join(self._save_dir, "metrics.csv")
        self._names: list[str] = []  # columns of the file; none where there is no file yet
        self._rows: list[dict[str, Any]] = []  # not written yet

    @property
    def name(self) -> str:
        """Nothing: a run has one file."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, likewise."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return self._save_dir

    @rank_zero_only
    def continue_at(self, step: int) -> None:
        """Keep the rows of the steps before one, and drop those that are made again.

        Args:
            step: Optimizer updates that are done.
        """
        self._names, self._rows = [], []
        rows = read_metrics(self.path) if step else []
        kept = [row for row in rows if int(row["step"]) < step]
        if kept:
            self._replace(sorted({n for row in kept for n, value in row.items() if value}), kept)
        elif os.path.exists(self.path):
            os.unlink(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: Values by name.
            step: Optimizer updates that were done before.
        """
        self._rows.append({**metrics, "step": step or 0})
        if len(self._rows) >= self.flush_every:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def save(self) -> None:
        """Write what was kept back."""
        if not self._rows:
            return
        names = sorted({*self._names, *(name for row in self._rows for name in row)})
        if names == self._names and os.path.exists(self.path):
            with appending(self.path) as file:
                csv.DictWriter(file, names).writerows(self._rows)
        else:  # further columns
            self._replace(names, [*(read_metrics(self.path) if self._names else []), *self._rows])
        self._rows = []

    def _replace(self, names: list[str], rows: list[dict[str, Any]]) -> None:
        with writing_text(self.path, newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self._names = names

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what was kept back.

        Args:
            status: Not used.
        """
        self.save()
