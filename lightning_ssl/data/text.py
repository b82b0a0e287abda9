"""Text files of the user's: what is wrong with one is said with its name and line."""

import json
import os
from collections.abc import Callable
from typing import Any


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.

    Raises:
        ValueError: If it has another encoding; the file and the line are named.
    """
    with open(path, "rb") as file:
        content = file.read()
    name = os.fspath(path)
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
