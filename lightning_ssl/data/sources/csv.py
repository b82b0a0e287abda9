"""Data sets that are lists of image files with labels, as CSV."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.data.sources.base import Source, name_some
from lightning_ssl.data.sources.classes import check_classes, check_marks, sort_classes
from lightning_ssl.data.sources.folder import file_source
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.data.text import read_text
from lightning_ssl.files import as_name, printable

_SPLITS = ("train", "val", "test")
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def open_csv(
    root: str,
    *,
    in_channels: int = 3,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    exif_orientation: bool = True,
) -> Source:
    """Read a CSV with the columns ``path``, ``label`` and optionally ``split``.

    An empty label means an image without one. Paths are relative to the CSV's folder. Classes are
    the labels of the training rows, sorted (as numbers if all are numbers). What pandas and Excel
    add is understood: an index column without a name, semicolons or tabs in place of commas, and
    whole numbers written as ``3.0``. The column ``rank`` of the command ``select`` says nothing.

    Args:
        root: The CSV file.
        in_channels: 3 or 1.
        image_size: Side of the images; None for what the headers suggest.
        classes: Class names in the order that gives their numbers; None for sorted.
        exif_orientation: Whether photos are turned as their EXIF data say.

    Raises:
        FileNotFoundError: If the CSV or a listed file does not exist.
        ValueError: If the CSV's columns, splits or classes are not as described, or a file is
            listed twice.
    """
    if not os.path.isfile(root):
        raise FileNotFoundError(f"`root` (--data.root) must be a CSV file, got '{root}'.")
    rows = _whole_numbers(_read(root), classes)
    _check_files(root, rows)
    parts = {split: [row for row in rows if row.split == split] for split in _SPLITS}
    names = _list_classes(root, parts["train"], classes)
    number = {name: i for i, name in enumerate(names)} | {"": -1}
    images = {}
    for split, listed in parts.items():
        if split != "train":
            _check_held_out(root, split, listed, number)
        targets = torch.tensor([number[row.label] for row in listed], dtype=torch.int64)
        images[split] = FileImages(
            (row.path for row in listed), targets, in_channels, exif_orientation
        )
    return file_source(
        "csv",
        names,
        images["train"],
        image_size,
        val=images["val"] if parts["val"] else None,
        test=images["test"] if parts["test"] else None,
        predefined=(images["train"].targets >= 0).nonzero().flatten(),
    )


def _read(root: str) -> list[_Row]:
    folder = os.path.dirname(os.path.abspath(root))
    text = read_text(root)
    # The line ends of all systems; old spreadsheets know a carriage return alone.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter(text))
    rows = []
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        if not any(columns):
            raise ValueError(
                f"'{root}', line 1: it must have the columns path,label and optionally split, got "
                "an empty line or file."
            )
        _check_columns(root, columns)
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue  # a blank line
            if len(fields) != len(columns):
                raise ValueError(
                    f"'{root}', line {reader.line_num}: the header has {len(columns)} columns, "
                    f"this line {len(fields)}."
                )
            rows.append(
                _row(root, folder, reader.line_num, dict(zip(columns, fields, strict=True)))
            )
    except csv.Error as error:
        raise ValueError(
            f"'{root}', line {reader.line_num}: it cannot be read as CSV: {error}."
        ) from error
    return rows


def delimiter(text: str) -> str:
    """The sign between columns: Excel writes semicolons where a comma is the decimal point.

    Args:
        text: Of the table.
    """
    header = next(iter(text.splitlines()), "")
    return max(",;\t", key=header.count)


def _row(root: str, folder: str, line: int, row: dict[str, str]) -> _Row:
    split = row.get("split", "train").strip()
    if split not in _SPLITS:
        raise ValueError(f"'{root}', line {line}: `split` must be one of {_SPLITS}, got '{split}'.")
    if not row["path"].strip():
        raise ValueError(f"'{root}', line {line}: `path` must be a file, got nothing.")
    path = os.path.normpath(os.path.join(folder, as_name(row["path"])))
    return _Row(line, path, row["label"].strip(), split)


def _whole_numbers(rows: Sequence[_Row], classes: Sequence[str] | None) -> list[_Row]:
    """Write ``3.0`` as ``3``, where all labels are whole numbers: pandas adds it beside a gap."""
    labels = {row.label for row in rows} - {"", *(classes or ())}
    short = {label: label.split(".")[0] for label in labels if _WHOLE.fullmatch(label)}
    # A mark such as `nan` does not make the others words.
    rest = [
        label for label in labels - set(short) if not label.lower().lstrip("-+").startswith("na")
    ]
    if rest:
        return list(rows)
    return [replace(row, label=short.get(row.label, row.label)) for row in rows]


def _check_columns(root: str, columns: Sequence[str]) -> None:
    # What pandas calls its index when it is written, read and written again, or made a column.
    index = {name for name in columns if name in ("", "index") or name.startswith("unnamed: ")}
    columns = [name for name in columns if name not in index]
    unknown = sorted(set(columns) - {"path", "label", "split", "rank"})
    missing = sorted({"path", "label"} - set(columns))
    twice = sorted({name for name in columns if columns.count(name) > 1})
    found = (("unknown", unknown), ("missing", missing), ("twice", twice))
    wrong = "; ".join(f"{what}: {', '.join(names)}" for what, names in found if names)
    if wrong:
        raise ValueError(
            f"'{root}', line 1: it must have the columns path,label and optionally split, got "
            f"{','.join(columns)[:200]} ({wrong[:200]})."
        )


def _check_files(root: str, rows: Sequence[_Row]) -> None:
    # One listing per folder: asking for each of a million files takes minutes on network storage.
    listings: dict[str, dict[str, bool]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        folder, name = os.path.split(row.path)
        if folder not in listings:
            listings[folder] = _list(folder)
        if not listings[folder].get(name):
            found = ", only a folder of that name" if name in listings[folder] else ""
            raise FileNotFoundError(
                f"'{root}', line {row.line}: there is no file '{printable(row.path)}'{found}."
            )
        if row.path in seen:
            raise ValueError(
                f"'{root}', line {row.line}: '{printable(row.path)}' stands in line "
                f"{seen[row.path]} already."
            )
        seen[row.path] = row.line


def _list(folder: str) -> dict[str, bool]:
    """What a folder holds, and whether it is a file; a link is one, as asking takes a call."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: not entry.is_dir(follow_symlinks=False) for entry in entries}


def _list_classes(
    root: str, rows: Sequence[_Row], classes: Sequence[str] | None
) -> tuple[str, ...]:
    counts = Counter(row.label for row in rows if row.label)
    if not counts:
        raise ValueError(f"'{root}' has no training image with a label.")
    first = {row.label: f"'{root}', line {row.line}" for row in reversed(rows) if row.label}
    check_marks(first, classes, "An image without a label has an empty one in a CSV")
    once = sorted(name for name, count in counts.items() if count == 1)
    if once:
        rank_zero_warn(f"'{root}': one training image only has the label: {name_some(once)}.")
    if classes is None:
        return tuple(sort_classes(counts))
    check_classes(list(counts), classes, f"'{root}'")
    return tuple(classes)


def _check_held_out(root: str, split: str, rows: Sequence[_Row], number: dict[str, int]) -> None:
    for row in rows:
        if not row.label or row.label not in number:
            raise ValueError(
                f"'{root}', line {row.line}: a {split} image must have the label of a training "
                f"image, got '{row.label}'."
            )
