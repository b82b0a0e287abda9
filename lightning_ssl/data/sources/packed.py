"""Many strings in one array."""

import os
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """Immutable strings in one array, so that a million paths cost no Python object each.

    Worker processes share the array; a list would be copied into each of them page by page, as
    reading a string touches its reference count.

    Args:
        strings: The strings.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        """Count the strings."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Get one string, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # raises IndexError and resolves negative indices
        start = self._ends[position - 1] if position else 0
        return os.fsdecode(self._bytes[start : self._ends[position]].tobytes())
