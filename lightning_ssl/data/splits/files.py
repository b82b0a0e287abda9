"""Splits, and lists of labelled images, as files."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_ssl.data.sources.images import Images
from lightning_ssl.data.text import read_json, read_text
from lightning_ssl.files import writing_text

Names = Images | Callable[[int], str] | Sequence[str]

_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Split:
    """Three lists of indices into the training images, int64, each increasing.

    Attributes:
        labeled: Images whose label training sees.
        unlabeled: Images that training sees without label; by default all that are not held out,
            the labelled ones included.
        val: Labelled images held out to validate on, in neither of the others; empty where the
            data set has validation images of its own.
    """

    labeled: Tensor
    unlabeled: Tensor
    val: Tensor


class LabeledImages(NamedTuple):
    """Images with the classes that training tells them to have.

    Attributes:
        rows: Indices into the training images ``(N,)``, int64, increasing.
        target: Classes ``(N,)``, int64.
        probs: Probabilities of all classes ``(N, C)``, float32, where training tells these.
    """

    rows: Tensor
    target: Tensor
    probs: Tensor | None = None


class LabelList(NamedTuple):
    """What a file says about labels.

    Attributes:
        labeled: Indices of labelled images, increasing.
        split: The whole split, where the file holds one.
    """

    labeled: Tensor
    split: Split | None = None


def assemble(num_train: int, labeled: Tensor, val: Tensor, include_labeled: bool) -> Split:
    """Complete a split: the unlabelled images are all others.

    Args:
        num_train: Number of training images.
        labeled: Labelled indices, increasing.
        val: Held-out indices, increasing.
        include_labeled: Whether the labelled images are in the unlabelled list, too.
    """
    if include_labeled and not len(val):
        return Split(labeled, torch.arange(num_train), val)
    keep = np.ones(num_train, dtype=bool)
    keep[val.numpy()] = False
    if not include_labeled:
        keep[labeled.numpy()] = False
    return Split(labeled, torch.from_numpy(np.flatnonzero(keep)), val)


def save_split(
    path: str | os.PathLike[str],
    split: Split,
    num_train: int,
    pseudo: LabeledImages | None = None,
) -> None:
    """Write a split as JSON. A reader never sees half a file.

    Args:
        path: The file; its folder is made where missing.
        split: The split. Where its unlabelled images are all that are not held out, with or
            without the labelled ones, they are not written but derived.
        num_train: Number of training images.
        pseudo: Images that training saw with a pseudo-label, and that label. Read as a list of
            labels the file gives the labelled images alone.

    Raises:
        ValueError: If held-out images are among the unlabelled ones.
    """
    if torch.isin(split.unlabeled, split.val).any():
        raise ValueError("`split.unlabeled` must hold no image of `split.val`.")
    include = bool(torch.isin(split.labeled, split.unlabeled).all())
    derived = assemble(num_train, split.labeled, split.val, include)
    content: dict[str, Any] = {
        "num_train": num_train,
        "include_labeled": include,
        "labeled": split.labeled.tolist(),
        "val": split.val.tolist(),
    }
    if not torch.equal(derived.unlabeled, split.unlabeled):
        content["unlabeled"] = split.unlabeled.tolist()
    if pseudo is not None:
        content["pseudo_labels"] = {
            "images": pseudo.rows.tolist(),
            "labels": pseudo.target.tolist(),
        }
        if pseudo.probs is not None:
            content["pseudo_labels"]["probabilities"] = pseudo.probs.tolist()
    with writing_text(path) as file:
        json.dump(content, file)
        file.write("\n")


def load_split(path: str | os.PathLike[str], num_train: int) -> Split:
    """Read what :func:`save_split` wrote.

    Args:
        path: The file.
        num_train: Number of training images.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no split, or one of another data set.
    """
    split = read_labels(path, num_train).split
    if split is None:
        raise ValueError(f"'{os.fspath(path)}' is a list of labels, not a split.")
    return split


def read_labels(
    path: str | os.PathLike[str], num_train: int, names: Names | None = None
) -> LabelList:
    """Read a list of labelled images; what kind it is shows in its content.

    Args:
        path: A split of :func:`save_split`, a ``.npy`` of indices, a text of one index or file name
            per line (suncet), or JSON ``{"values": [file names]}`` (s4l).
        num_train: Number of training images.
        names: The training images, or their names, for lists of names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is twice in the file, out of range or unknown, or the file belongs
            to another data set.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`labels_file` (--data.labels_file): there is no file '{path}'.")
    with open(path, "rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_NPY_MAGIC):
        return LabelList(check_indices(path, _read_array(path), num_train))
    if start.startswith((b"{", b"[")):
        return _read_json(path, num_train, names)
    try:
        lines = list(enumerate(map(str.strip, read_text(path).splitlines()), start=1))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    entries = [line for _, line in lines if line]
    others = [(number, line) for number, line in lines if line and not _is_index(line)]
    if others and 2 * len(others) <= len(entries):
        number, line = others[0]
        raise ValueError(
            f"'{path}', line {number}: '{line[:100]}' is no index, as most other lines are."
        )
    return LabelList(_resolve(path, entries, num_train, names))


def _read_array(path: str) -> Any:
    try:
        return np.load(path)
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise _unreadable(path, str(error)) from error


def _read_json(path: str, num_train: int, names: Names | None) -> LabelList:
    content = read_json(path, lambda reason: _unreadable(path, reason))
    if isinstance(content, dict) and isinstance(content.get("values"), list):
        return LabelList(_resolve(path, [str(v) for v in content["values"]], num_train, names))
    if not isinstance(content, dict) or not {"num_train", "labeled", "val"} <= set(content):
        raise _unreadable(path)
    if content["num_train"] != num_train:
        raise ValueError(
            f"'{path}' is a split of {content['num_train']} training images, but this data set has "
            f"{num_train}: it belongs to another one."
        )
    labeled = check_indices(path, content["labeled"], num_train)
    val = check_indices(path, content["val"], num_train)
    if np.intersect1d(labeled.numpy(), val.numpy()).size:
        raise ValueError(f"'{path}' has images that are both labelled and held out.")
    if "unlabeled" in content:
        unlabeled = check_indices(path, content["unlabeled"], num_train)
        if np.intersect1d(unlabeled.numpy(), val.numpy()).size:
            raise ValueError(f"'{path}' has images that are both unlabelled and held out.")
        return LabelList(labeled, Split(labeled, unlabeled, val))
    include = bool(content.get("include_labeled", True))
    return LabelList(labeled, assemble(num_train, labeled, val, include))


def _unreadable(path: str, reason: str = "") -> ValueError:
    return ValueError(
        f"`labels_file` (--data.labels_file) must be a split written by this package, a .npy of "
        f"indices, a text with one index or file name per line, or JSON with a list 'values' of "
        f"file names, got '{path}'{': ' + reason.rstrip('.') if reason else ''}."
    )


def check_indices(path: str, values: Any, num_train: int) -> Tensor:
    """Make a list of images out of what a file holds.

    Args:
        path: The file, for messages.
        values: What should be indices.
        num_train: Number of training images.

    Returns:
        The indices, increasing.

    Raises:
        ValueError: If they are no integers, out of range or not distinct.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"'{path}' must hold a list of indices: {error}.") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"'{path}' must hold a list of indices, got {array.dtype} of shape {array.shape}."
        )
    wrong = array[(array < 0) | (array >= num_train)]
    if wrong.size:
        raise ValueError(
            f"'{path}': {wrong.size} indices are not in [0, {num_train - 1}], the training images; "
            f"the first: {wrong[0]}."
        )
    array = np.sort(array.astype(np.int64))
    twice = array[1:][array[1:] == array[:-1]]
    if twice.size:
        raise ValueError(f"'{path}' lists {twice.size} images twice; the first: {twice[0]}.")
    return torch.from_numpy(array)


def _is_index(entry: str) -> bool:
    return entry.removeprefix("-").isdecimal() and len(entry) < 20


def _resolve(path: str, entries: list[str], num_train: int, names: Names | None) -> Tensor:
    if all(map(_is_index, entries)):
        return check_indices(path, [int(entry) for entry in entries], num_train)
    if names is None:
        raise ValueError(
            f"'{path}' lists file names ('{entries[0]}'), but these images have none, only indices."
        )
    wanted = {entry.replace(os.sep, "/"): -1 for entry in entries}
    if len(wanted) < len(entries):
        raise ValueError(f"'{path}' lists {len(entries) - len(wanted)} images twice.")
    _find(path, wanted, num_train, names)
    missing = [entry for entry, index in wanted.items() if index < 0]
    if missing:
        raise ValueError(
            f"'{path}': {len(missing)} of {len(wanted)} file names are not among the "
            f"{num_train} training images; the first: '{missing[0]}'."
        )
    return check_indices(path, list(wanted.values()), num_train)


def _find(path: str, wanted: dict[str, int], num_train: int, names: Names) -> None:
    """Match each entry with the image whose path ends in it: a name, or with its folders."""
    if isinstance(names, Images):
        get: Callable[[int], str] = names.name
    else:
        get = names if callable(names) else names.__getitem__
    depths = sorted({entry.count("/") + 1 for entry in wanted})
    for index in range(num_train):
        parts = get(index).replace(os.sep, "/").rsplit("/", depths[-1])
        for depth in depths:
            tail = "/".join(parts[-depth:])
            if tail not in wanted or depth > len(parts):
                continue
            if wanted[tail] >= 0:
                raise ValueError(
                    f"'{path}' lists '{tail}', which is the name of several images: "
                    f"'{get(wanted[tail])}' and '{get(index)}'. List it with its folder."
                )
            wanted[tail] = index
