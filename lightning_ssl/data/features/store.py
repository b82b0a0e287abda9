"""Features on disk: a folder for a network and a list of images, an array for a view."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_ssl.files import replacing, writing_text

CHUNK = 256  # consecutive images whose views are drawn, and which are done, together
Wanted = Mapping[str, int]
"""Label of a view to the number of slots."""


class Store:
    """The features of one list of images.

    ``<view>.npy`` is float16 ``(K, N, F)``: K slots, each another draw of the view. Beside it
    ``<view>.done.npy``, bool ``(K, chunks)``, says what is there, ``broken.npy``, bool ``(N,)``,
    which images could not be read, and ``meta.json`` what all depend on. Several processes may
    write, each to chunks of its own.

    Args:
        folder: Where everything is; named by the key.
        count: Number of images, N.
        width: Number of features, F.
    """

    def __init__(self, folder: Path, count: int, width: int) -> None:
        self.folder, self.count, self.width = folder, count, width
        self.chunks = -(-count // CHUNK)
        self._open: dict[str, npt.NDArray[Any]] = {}

    def prepare(self, fields: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Make the folder, where it is missing.

        Args:
            fields: What the features depend on, and the key is made of.
            about: What else to say of them.
        """
        if not (self.folder / "meta.json").exists():
            self._create("broken.npy", np.bool_, (self.count,))
            about = {**about, "images": self.count, "features": self.width, "views": {}}
            self._write_meta({"fields": fields, **about})

    def add(self, label: str, slots: int, description: Mapping[str, Any]) -> None:
        """Make room for the slots of a view; those that are there stay.

        Args:
            label: Name of the array.
            slots: How many there have to be.
            description: What the view is.

        Raises:
            ValueError: If the disk lacks the space.
        """
        if self.slots(label) >= slots:
            return
        size = 2 * (slots - self.slots(label)) * self.count * self.width
        free = shutil.disk_usage(self.folder).free
        if size > free:  # the file would be made, and the process killed where it meets the end
            raise ValueError(
                f"`data.features_dir` must have {size / 1e9:.1f} GB left for the features of "
                f"'{label}', got {free / 1e9:.1f} GB in '{self.folder.parent}'."
            )
        # What says what is done comes first: a crash between the two leaves nothing done.
        self._create(f"{label}.done.npy", np.bool_, (slots, self.chunks))
        self._create(f"{label}.npy", np.float16, (slots, self.count, self.width))
        meta = read_meta(self.folder)
        self._write_meta({**meta, "views": {**meta["views"], label: description}})

    def _create(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        path = self.folder / name
        with replacing(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)  # zeros
            if path.exists():
                before = _load(path)
                array[: len(before)] = before
            array.flush()
            del array

    def _write_meta(self, meta: Mapping[str, Any]) -> None:
        with writing_text(self.folder / "meta.json") as file:
            json.dump(meta, file, indent=1, sort_keys=True)

    def slots(self, label: str) -> int:
        """Number of slots that a view has, done or not.

        Args:
            label: Name of the array.
        """
        array, done = (self.folder / f"{label}{end}.npy" for end in ("", ".done"))
        return min(len(_load(p)) if p.exists() else 0 for p in (array, done))

    def missing(self, chunk: int, wanted: Wanted) -> list[tuple[str, int]]:
        """Label and slot of what is not done of a chunk.

        Args:
            chunk: Which.
            wanted: What has to be there.
        """
        return [
            (label, slot)
            for label, slots in wanted.items()
            for slot in range(slots)
            if not self._array(f"{label}.done", write=True)[slot, chunk]
        ]

    def is_complete(self, wanted: Wanted) -> bool:
        """Whether everything is there; nothing is changed.

        Args:
            wanted: What has to be there.
        """
        return all(
            self.slots(label) >= slots and self._array(f"{label}.done")[:slots].all()
            for label, slots in wanted.items()
        )

    def share_done(self, label: str) -> float:
        """Share of a view's slots and chunks that is done, in [0, 1].

        Args:
            label: Name of the array.
        """
        return float(self._array(f"{label}.done").mean())

    def write(self, label: str, slot: int, start: int, values: npt.NDArray[np.float16]) -> None:
        """Keep features of consecutive images.

        Args:
            label: Name of the array.
            slot: Which draw.
            start: The first image.
            values: ``(n, F)``.
        """
        self._array(label, write=True)[slot, start : start + len(values)] = values

    def finish(self, chunk: int, filled: list[tuple[str, int]], broken: npt.NDArray[Any]) -> None:
        """Say that a chunk is done, when it is on disk.

        Args:
            chunk: Which.
            filled: Label and slot of what was written.
            broken: Rows of images that could not be read.
        """
        found = self._array("broken", write=True)
        found[broken] = True
        for array in (found, *(self._array(label, write=True) for label in dict(filled))):
            array.flush()  # type: ignore[attr-defined]
        for label, slot in filled:
            self._array(f"{label}.done", write=True)[slot, chunk] = True
        for label in dict(filled):
            self._array(f"{label}.done", write=True).flush()  # type: ignore[attr-defined]

    def view(self, label: str) -> npt.NDArray[np.float16]:
        """Features of a view ``(K, N, F)``, read where they are looked at.

        Args:
            label: Name of the array.
        """
        return self._array(label)

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Which images could not be read, ``(N,)``."""
        return np.array(self._array("broken"))

    def _array(self, name: str, write: bool = False) -> npt.NDArray[Any]:
        mode: Literal["r", "r+"] = "r+" if write else "r"
        if f"{name} {mode}" not in self._open:
            path = self.folder / f"{name}.npy"
            if not path.exists():
                raise FileNotFoundError(
                    f"`data.features_dir` must be a folder that all processes see, got "
                    f"'{self.folder.parent}' without {self.folder.name}/{path.name}."
                )
            self._open[f"{name} {mode}"] = _load(path, mode)
        return self._open[f"{name} {mode}"]


def default_folder() -> str:
    """Where features are stored: ``lightning_ssl/features`` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "lightning_ssl", "features")


def _load(path: Path, mode: Literal["r", "r+"] = "r") -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode=mode)
    except (ValueError, EOFError):  # cut, or another file
        raise _damaged(path) from None
    return array


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"`data.features_dir` holds the damaged file '{path}': delete the folder that it is in, "
        "whose features are then computed again."
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """What a folder says of its features.

    Args:
        folder: The folder of one store.

    Raises:
        ValueError: If the file that says it is damaged.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no text
        raise _damaged(path) from None
    held = {"images": int, "features": int, "views": dict, "fields": dict}
    if not isinstance(meta, dict) or any(type(meta.get(k)) is not t for k, t in held.items()):
        raise _damaged(path)
    return dict(meta)


def stores(folder: Path) -> list[Path]:
    """Folders of all stores, the last changed one last.

    Args:
        folder: Where they are.
    """
    found = [path.parent for path in folder.glob("*/meta.json")]
    return sorted(found, key=lambda path: os.stat(path / "meta.json").st_mtime_ns)
