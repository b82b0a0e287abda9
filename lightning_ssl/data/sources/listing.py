"""Which files of a folder are images, and which are left out."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.data.sources.decoding import HEIF_SUFFIXES, heif_is_installed

# What Pillow decodes by itself. Written out, as a list of images must not change with its version:
# a run on more images could not be continued.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx"),
    *(".j2c", ".avif", ".avifs", ".tga", ".icb", ".vda", ".vst", ".pcx", ".dcx", ".sgi", ".rgb"),
    *(".rgba", ".bw", ".ras", ".qoi", ".psd", ".dds", ".ico", ".cur", ".icns", ".xbm", ".xpm"),
    *(".pfm", ".im", ".msp", ".blp", ".fli", ".flc", ".gbr", ".pcd", ".pxr", ".ftc", ".ftu"),
    *(".fit", ".fits"),
)

_SPECIAL = "pipes or devices"
_LOOP = "links in a circle"


class LeftOut:
    """Count of the files of some folders that are not taken for images, by extension."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file by its extension.

        Args:
            name: Its name.
        """
        suffix = os.path.splitext(name)[1].lower()
        self._counts[suffix if suffix.isprintable() and suffix else "without extension"] += 1

    def add_kind(self, kind: str) -> None:
        """Count something that is no file.

        Args:
            kind: What it is.
        """
        self._counts[kind] += 1

    def __bool__(self) -> bool:
        """Whether anything was left out."""
        return bool(self._counts)

    def __str__(self) -> str:
        """List the counts, the largest first; empty where nothing was left out."""
        listed = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        text = ", ".join(f"{count} {kind}" for kind, count in listed)
        if any(self._counts[suffix] for suffix in HEIF_SUFFIXES):
            text += " (HEIC needs: pip install 'lightning_ssl[heic]')"
        return text

    def warn(self, where: str) -> None:
        """Warn where anything was left out.

        Args:
            where: The folders.
        """
        if self:
            rank_zero_warn(f"Left out of {where}, not read as images: {self}.")


def walk_images(folder: str, left_out: LeftOut | None = None) -> Iterator[str]:
    """Find the images of a folder at any depth: its own, sorted, then those of its subfolders.

    Hidden files and folders are left out; so are files that are no images by their extension, pipes
    and devices, which are counted.

    Args:
        folder: The folder.
        left_out: Where to count.
    """
    folders, files = scan(folder, LeftOut() if left_out is None else left_out)
    yield from chain(files, *(walk_images(inner, left_out) for inner in folders))


def scan(folder: str, left_out: LeftOut) -> tuple[list[str], list[str]]:
    """List subfolders and image files, each sorted by name (by code point: alike everywhere).

    Args:
        folder: The folder.
        left_out: Where to count what is neither.
    """
    folders, files = [], []
    suffixes = SUFFIXES + (HEIF_SUFFIXES if heif_is_installed() else ())
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # The extension first: asking whether a link is a folder costs a system call.
            if entry.name.lower().endswith(suffixes) and not entry.is_dir():
                if _is_special(entry):
                    left_out.add_kind(_SPECIAL)
                else:
                    files.append(entry.path)
            elif not entry.is_dir():
                left_out.add(entry.name)
            elif entry.is_symlink() and _holds(entry.path, folder):
                left_out.add_kind(_LOOP)
            else:
                folders.append(entry.path)
    return sorted(folders), sorted(files)


def _is_special(entry: "os.DirEntry[str]") -> bool:
    """Whether reading may wait for ever; a broken link is none, and is named where it is read."""
    if entry.is_file():
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _holds(link: str, folder: str) -> bool:
    outer, inner = os.path.realpath(link), os.path.realpath(folder)
    return os.path.commonpath([outer, inner]) == outer
