"""A run as its folder holds it, and the page made of that."""

import os
from collections.abc import Callable
from pathlib import Path

from lightning_ssl.evaluation.figures import read_curves
from lightning_ssl.evaluation.report.page import Run, report_page
from lightning_ssl.evaluation.report.record import Record, read_record
from lightning_ssl.files import printable, writing_text


def read_stored(folder: str | os.PathLike[str]) -> Run:
    """Read what a run's folder holds.

    Args:
        folder: The folder.

    Returns:
        The run, with a remark where it ended without a report.

    Raises:
        ValueError: If a file in it is damaged.
    """
    folder = Path(folder)
    record, remarks = read_record(folder), []
    if record is None:
        record = Record()
        remarks.append(
            "The run ended, or was stopped, without a report: what it logged is shown, and nothing "
            "of its images."
        )
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
    name = printable(folder.resolve().name)
    return Run(name, record, read_curves(folder / "metrics.csv"), text, remarks)


def write_page(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report of a run from what its folder holds.

    Args:
        folder: The run's folder.
        output: The file; None for ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        ValueError: If what the folder holds is damaged.
        OSError: If the file cannot be written.
    """
    path = Path(folder, "report.html") if output is None else Path(output)
    run = read_stored(folder)
    page = composed(lambda: report_page(run))
    with writing_text(path) as file:
        file.write(page)
    return path


def composed(page: Callable[[], str]) -> str:
    """Make a page of records, which may be anyone's.

    Args:
        page: Makes it.

    Raises:
        ValueError: If a value is missing or another than this package writes.
    """
    try:
        return page()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`report.json` of a run is damaged: {reason}.") from error
