"""Tables of pseudo-labels as CSV or Parquet files."""

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.data.text import read_text
from lightning_ssl.files import replacing, writing_text

COLUMNS = ("image", "given", "label", "probability", "averaged_label", "averaged_probability")
LABEL_COLUMNS = ("label", "averaged_label")
_OF_CLASS = "prob_"  # and the name of a class
_SCORE = "outlier_score"


@dataclass(frozen=True)
class PseudoTable:
    """What a model says of all training images, one row per image in their order.

    Attributes:
        given: Classes that the model was trained with ``(N,)``, int64, -1 for the other images.
        label: Predicted classes ``(N,)``, int64, -1 for images that cannot be read.
        probability: Of ``label``, in [0, 1]; 0 where there is none.
        averaged_label: Predicted from several views of the image, like ``label``; None where
            several models predict.
        averaged_probability: Of ``averaged_label``, like ``probability``.
        probs: What several models say together, probabilities ``(N, C)``; rows of 0 for images
            that cannot be read. None where one model predicts.
        outlier_score: Cosine to the nearest labelled image ``(N,)``, 0 for images that cannot be
            read; None where it is not known.
    """

    given: Tensor
    label: Tensor
    probability: Tensor
    averaged_label: Tensor | None = None
    averaged_probability: Tensor | None = None
    probs: Tensor | None = None
    outlier_score: Tensor | None = None


def check_table_path(path: str | os.PathLike[str], argument: str) -> None:
    """See that a table can be of the kind that its ending says.

    Args:
        path: The file.
        argument: Name of the argument that gave it, for messages.

    Raises:
        ValueError: If the ending is of no kind of table, or its library is not installed.
    """
    if not os.fspath(path).endswith((".csv", ".parquet")):
        raise ValueError(f"`{argument}` must end in .csv or .parquet, got '{os.fspath(path)}'.")
    if os.fspath(path).endswith(".parquet"):
        _parquet(path)


def write_table(
    path: str | os.PathLike[str],
    table: PseudoTable,
    name: Callable[[int], str],
    classes: Sequence[str],
) -> None:
    """Write a table; the file appears when it is complete.

    Args:
        path: The file, which ends in ``.csv`` or ``.parquet``.
        table: What to write. Probabilities are rounded to six digits in both kinds.
        name: Gives the name of an image by its index.
        classes: Class names; a label is written as its class's name, -1 as nothing.
    """
    columns = _texts(table, name, classes)
    if os.fspath(path).endswith(".parquet"):
        arrow, parquet = _parquet(path)
        names = (*COLUMNS[:3], COLUMNS[4])
        with replacing(path) as temporary:
            types = [arrow.string() if c in names else arrow.float64() for c in columns]
            arrays = [arrow.array(v, t) for v, t in zip(columns.values(), types, strict=True)]
            parquet.write_table(arrow.table(arrays, names=list(columns)), temporary)
    else:
        with writing_text(path, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


def _texts(
    table: PseudoTable, name: Callable[[int], str], classes: Sequence[str]
) -> dict[str, list[Any]]:
    labels = [*classes, None]  # -1 is the last one
    columns: dict[str, list[Any]] = {"image": [name(i) for i in range(len(table.given))]}
    columns["given"] = [labels[number] for number in table.given.tolist()]

    def numbers(values: Tensor, of: Tensor) -> list[float | None]:
        known = of.ge(0).tolist()
        return [round(v, 6) if k else None for v, k in zip(values.tolist(), known, strict=True)]

    for column in LABEL_COLUMNS:
        chosen = getattr(table, column)
        if chosen is not None:
            probability = column.replace("label", "probability")
            columns[column] = [labels[number] for number in chosen.tolist()]
            columns[probability] = numbers(getattr(table, probability), chosen)
    if table.probs is not None:
        for class_, values in zip(classes, table.probs.unbind(dim=1), strict=True):
            columns[f"{_OF_CLASS}{class_}"] = numbers(values, table.label)
    if table.outlier_score is not None:
        columns[_SCORE] = numbers(table.outlier_score, table.label)
    return columns


def read_table(
    path: str | os.PathLike[str], name: Callable[[int], str], num_train: int, classes: Sequence[str]
) -> PseudoTable:
    """Read what :func:`write_table` wrote.

    Args:
        path: The file.
        name: Gives the name of a training image by its index.
        num_train: Number of training images.
        classes: Class names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table, or one of other images or classes.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`pseudo_labels` (--data.pseudo_labels): there is no file '{path}'."
        )
    check_table_path(path, "pseudo_labels")
    read = _read_parquet if path.endswith(".parquet") else _read_csv
    header, lists = read(path)
    _check_columns(path, header, classes)
    columns = dict(zip(header, lists, strict=True))
    images = columns["image"]
    if len(images) != num_train:
        raise ValueError(
            f"'{path}' is a table of {len(images)} images, but this data set has {num_train} "
            "training images: it belongs to another one."
        )
    for index, image in enumerate(images):
        if image != name(index):
            raise ValueError(
                f"'{path}' belongs to another data set: image {index} is '{image}' there and "
                f"'{name(index)}' here."
            )
    return _parse(path, columns, classes)


def _parse(path: str, columns: dict[str, Sequence[Any]], classes: Sequence[str]) -> PseudoTable:
    values: dict[str, Tensor] = {}
    for column in ("given", *LABEL_COLUMNS):
        if column in columns:
            values[column] = _classes(path, column, columns[column], classes)
    for column in ("probability", "averaged_probability"):
        if column in columns:
            values[column] = _numbers(path, column, columns[column])
    if _SCORE in columns:
        values[_SCORE] = _numbers(path, _SCORE, columns[_SCORE], low=-1)
    soft = [f"{_OF_CLASS}{name}" for name in classes]
    if soft[0] in columns:
        rows = [_numbers(path, column, columns[column]) for column in soft]
        values["probs"] = _normalized(path, torch.stack(rows, dim=1), values["label"])
    return PseudoTable(**values)


def _read_csv(path: str) -> tuple[list[str], Sequence[Sequence[Any]]]:
    try:
        text = io.StringIO(read_text(path), newline="")
        header, *rows = csv.reader(text, strict=True)
    except (csv.Error, ValueError) as error:  # no line at all, or no text
        raise ValueError(f"'{path}' cannot be read as CSV: {error}") from error
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"'{path}', line {line}: the header has {len(header)} columns, this line "
                f"{len(row)}."
            )
    return header, [[row[i] for row in rows] for i in range(len(header))]


def _read_parquet(path: str) -> tuple[list[str], Sequence[Sequence[Any]]]:
    arrow, parquet = _parquet(path)
    try:
        table = parquet.read_table(path)
    except arrow.ArrowException as error:
        raise ValueError(f"'{path}' cannot be read as Parquet: {error}") from error
    lists = [["" if v is None else v for v in column.to_pylist()] for column in table.columns]
    return table.column_names, lists


def _parquet(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    try:
        import pyarrow  # an extra: most runs do without
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"'{os.fspath(path)}' needs pyarrow, which is not installed: pip install "
            "'lightning_ssl[parquet]', or use a file that ends in .csv."
        ) from error
    return pyarrow, pyarrow.parquet


def _check_columns(path: str, columns: Sequence[str], classes: Sequence[str]) -> None:
    several = any(name.startswith(_OF_CLASS) for name in columns)
    soft = (f"{_OF_CLASS}{name}" for name in classes)
    wanted = (*COLUMNS[:4], *soft) if several else COLUMNS
    unknown = sorted({*columns} - {*wanted, _SCORE})
    missing = sorted({*wanted} - {*columns})
    if unknown or missing or len({*columns}) < len(columns):
        raise ValueError(
            f"'{path}' must have the columns {','.join(wanted)}, got {','.join(columns)} "
            f"(unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'})."
        )


def _normalized(path: str, probs: Tensor, label: Tensor) -> Tensor:
    """Undo the rounding of probabilities, whose rows shall sum to 1."""
    sums = probs.sum(dim=1)
    wrong = ((sums - 1).abs().gt(1e-2) & label.ge(0)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"'{path}', image {wrong[0]}: the probabilities of the classes must sum to 1, got "
            f"{float(sums[wrong[0]]):.4f}."
        )
    return torch.where(label.ge(0)[:, None], probs / sums[:, None], 0.0)


def _classes(path: str, column: str, values: Sequence[str], classes: Sequence[str]) -> Tensor:
    numbers = {name: i for i, name in enumerate(classes)} | {"": -1}
    found = [numbers.get(value, -2) for value in values]
    if -2 in found:
        row = found.index(-2)
        raise ValueError(
            f"'{path}', column `{column}`, image {row}: '{values[row]}' is none of the "
            f"{len(classes)} classes."
        )
    return torch.tensor(found, dtype=torch.int64)


def _numbers(path: str, column: str, values: Sequence[Any], low: int = 0) -> Tensor:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(float(value or 0))
        except ValueError:
            found.append(torch.nan)
        if not low <= found[-1] <= 1:
            kind = "probability" if low == 0 else "cosine"
            raise ValueError(
                f"'{path}', column `{column}`, image {row}: a {kind} must be in [{low}, 1], got "
                f"'{value}'."
            )
    return torch.tensor(found, dtype=torch.float64)
