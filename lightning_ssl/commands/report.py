"""Make the report of a run again from what its folder holds, or compare several runs."""

import os
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from lightning_ssl.evaluation.report.page import comparison_page
from lightning_ssl.evaluation.report.stored import composed, read_stored, write_page
from lightning_ssl.files import check_output, printable, writing_text


def report(runs: list[str], /, output: str | None = None) -> None:
    """Write the report of a run from what its folder holds, or one page that compares several runs.

    Nothing is evaluated, and the data need not be there: pictures lie in the run's folder. Of a run
    that ended without a report what it logged is shown.

    Args:
        runs: Folders of runs.
        output: The file; null for ``report.html`` in the folder of one run, ``comparison.html``
            here for several.

    Raises:
        FileNotFoundError: If a folder holds no run.
        ValueError: If a file of a run is damaged, or ``output`` cannot be written to.
    """
    folders = list(dict.fromkeys(Path(run).expanduser() for run in runs))
    for folder in folders:
        if not any((folder / name).is_file() for name in ("config.yaml", "report.json")):
            raise FileNotFoundError(f"`runs` must be folders of runs, got '{folder}'.")
    several = len(folders) > 1
    path = Path(output or ("comparison.html" if several else folders[0] / "report.html"))
    check_output(path, "output")
    if several:
        _compare(folders, path)
    else:
        write_page(folders[0], path)
    Console().print(f"Report: {path}", soft_wrap=True, markup=False)


def _compare(folders: list[Path], path: Path) -> None:
    """Write the page that compares runs, with links to their reports."""
    runs, links = {}, {}
    for folder in folders:
        name, own = _name(folder, folders), folder / "report.html"
        runs[name] = read_stored(folder)
        if own.is_file():
            links[name] = quote(os.fsencode(os.path.relpath(own, path.parent)))
    page = composed(lambda: comparison_page(runs, links))
    with writing_text(path) as file:
        file.write(page)


def _name(folder: Path, folders: list[Path]) -> str:
    """A run's folder by the part of its path that the others do not have."""
    paths = [os.path.abspath(other) for other in folders]
    shared = os.path.commonpath(paths)
    return printable(os.path.relpath(folder, shared))
