"""Small image folders, written once per test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write PNGs: ``make_folder({"train/cat": 3, "unlabeled": 2}, size=(12, 8))``.

    Image k of all (in the order of the mapping) has the gray level k.
    """

    def make(tree: Mapping[str, int], size: tuple[int, int] = (8, 8), root: str = "root") -> Path:
        level = 0
        for folder, count in tree.items():
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.full((size[1], size[0], 3), level, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / root / folder / f"{number:03d}.png")
                level += 1
        return tmp_path / root

    return make
