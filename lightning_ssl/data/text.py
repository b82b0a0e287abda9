"""Text files of the user's: what is wrong with one is said with its name and line."""

import json
import os
from collections.abc import Callable
from typing import Any

# How files begin that people take for tables.
_PACKED = {
    b"\x1f\x8b": "packed by gzip",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ\x00": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"7z\xbc\xaf\x27\x1c": "an archive of 7-Zip",
    b"PK\x03\x04": "a zip archive or a workbook of Excel (.xlsx)",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel (.xls)",
    b"PAR1": "a Parquet file",
}


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.

    Raises:
        ValueError: If it has another encoding, whose line is named, or is no text at all.
    """
    with open(path, "rb") as file:
        content = file.read()
    name = os.fspath(path)
    packed = next((kind for start, kind in _PACKED.items() if content.startswith(start)), None)
    if packed is not None:
        raise ValueError(f"'{name}', line 1: it is {packed}, no text: unpack it, or save as CSV.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"'{name}', line 1: the text is UTF-16: save as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 1]
        raise ValueError(
            f"'{name}', line {line}: the byte {found!r} is no UTF-8 (in Windows-1252 it would be "
            f"'{found.decode('cp1252', 'replace')}'): save as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"'{name}', line {line}: a zero byte is no text: save as UTF-8.")
    return text


def read_json(path: str | os.PathLike[str], error: Callable[[str], ValueError]) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        error: Makes the error from what is wrong.

    Raises:
        ValueError: If it is no JSON in UTF-8.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as reason:
        raise error(str(reason)) from reason
