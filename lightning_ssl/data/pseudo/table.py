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


@dataclass(frozen=True)
class PseudoTable:
    """What a model says of all training images, one row per image in their order.

    Attributes:
        given: Classes that the model was trained with ``(N,)``, int64, -1 for the other images.
        label: Predicted classes ``(N,)``, int64, -1 for images that cannot be read.
        probability: Of ``label``, in [0, 1]; 0 where there is none.
        averaged_label: Predicted from several views of the image, like ``label``.
        averaged_probability: Of ``averaged_label``, like ``probability``.
    """

    given: Tensor
    label: Tensor
    probability: Tensor
    averaged_label: Tensor
    averaged_probability: Tensor


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
    labels = [*classes, None]  # -1 is the last one
    columns: dict[str, list[Any]] = {"image": [name(i) for i in range(len(table.given))]}
    for column in COLUMNS[1:]:
        values = getattr(table, column)
        if values.is_floating_point():
            known = getattr(table, column.replace("probability", "label")).ge(0).tolist()
            numbers = zip(values.tolist(), known, strict=True)
            columns[column] = [round(number, 6) if known else None for number, known in numbers]
        else:
            columns[column] = [labels[number] for number in values.tolist()]
    if os.fspath(path).endswith(".parquet"):
        arrow, parquet = _parquet(path)
        with replacing(path) as temporary:
            types = [arrow.string() if "prob" not in c else arrow.float64() for c in COLUMNS]
            arrays = [arrow.array(columns[c], t) for c, t in zip(COLUMNS, types, strict=True)]
            parquet.write_table(arrow.table(arrays, names=list(COLUMNS)), temporary)
    else:
        with writing_text(path, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(zip(*(columns[c] for c in COLUMNS), strict=True))


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
    columns = _read_parquet(path) if path.endswith(".parquet") else _read_csv(path)
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
    return PseudoTable(
        **{
            column: _numbers(path, column, columns[column])
            if column.endswith("probability")
            else _classes(path, column, columns[column], classes)
            for column in COLUMNS[1:]
        }
    )


def _read_csv(path: str) -> dict[str, Sequence[Any]]:
    try:
        text = io.StringIO(read_text(path), newline="")
        header, *rows = csv.reader(text, strict=True)
    except (csv.Error, ValueError) as error:  # no line at all, or no text
        raise ValueError(f"'{path}' cannot be read as CSV: {error}") from error
    _check_columns(path, header)
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"'{path}', line {line}: the header has {len(header)} columns, this line "
                f"{len(row)}."
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _read_parquet(path: str) -> dict[str, Sequence[Any]]:
    arrow, parquet = _parquet(path)
    try:
        table = parquet.read_table(path)
    except arrow.ArrowException as error:
        raise ValueError(f"'{path}' cannot be read as Parquet: {error}") from error
    _check_columns(path, table.column_names)
    return {
        name: ["" if value is None else value for value in table.column(name).to_pylist()]
        for name in COLUMNS
    }


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


def _check_columns(path: str, columns: Sequence[str]) -> None:
    unknown, missing = sorted(set(columns) - {*COLUMNS}), sorted({*COLUMNS} - set(columns))
    if unknown or missing or len(columns) != len(COLUMNS):
        raise ValueError(
            f"'{path}' must have the columns {','.join(COLUMNS)}, got {','.join(columns)} "
            f"(unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'})."
        )


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


def _numbers(path: str, column: str, values: Sequence[Any]) -> Tensor:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(float(value or 0))
        except ValueError:
            found.append(-1)
        if not 0 <= found[-1] <= 1:
            raise ValueError(
                f"'{path}', column `{column}`, image {row}: a probability must be in [0, 1], got "
                f"'{value}'."
            )
    return torch.tensor(found, dtype=torch.float64)
