"""What a checkpoint knows, as a config that every flag can overrule."""

from pathlib import Path
from typing import Any

import torch

TRAINED_ON = ("num_labeled", "num_unlabeled", "class_counts", "image_side")
LINKED = ("num_classes", *TRAINED_ON, "in_channels", "image_std")
DATA = "lightning_ssl.data.SSLDataModule"


def known_to_checkpoint(path: str, predict: bool) -> dict[str, Any]:
    """Config of the method and the data of a checkpoint.

    Args:
        path: The checkpoint.
        predict: Whether images are to be predicted; of the data only their form is then taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    checkpoint = open_checkpoint(path)
    known: dict[str, Any] = {"seed_everything": checkpoint.get("seed", 0)}
    if "method" in checkpoint:
        arguments = _arguments(checkpoint, "hyper_parameters")
        init_args = {name: value for name, value in arguments.items() if name not in LINKED}
        known["model"] = {"class_path": checkpoint["method"], "init_args": init_args}
    record = checkpoint.get(DATA.rpartition(".")[2])
    if record is not None:
        form = ("classes", "image_size", "in_channels", "mean", "std")
        data: dict[str, Any] = {"dataset": "folder"}
        if not predict:
            data = _arguments(checkpoint, "datamodule_hyper_parameters")
            data["seed"] = record["seed"]
        known["data"] = {
            "class_path": DATA,
            "init_args": {
                **data,
                **{name: record[name] for name in form},
                "exif_orientation": record.get("exif_orientation", False),
            },
        }
    return known


def trained_on(path: str) -> dict[str, Any]:
    """Sizes of the data that a checkpoint's method was trained on, as far as it takes them.

    Args:
        path: The checkpoint.
    """
    arguments = _arguments(open_checkpoint(path), "hyper_parameters")
    return {name: arguments[name] for name in TRAINED_ON if name in arguments}


def follow_record(data: Any, run_dir: str) -> None:
    """Let a run that goes on by ``--ckpt_path last`` see its images as it did.

    Defaults may have changed since it began: which size, which order of classes, which side is up.

    Args:
        data: Options of the data as parsed, with ``init_args``; what they leave open is filled in.
        run_dir: Folder of the run.
    """
    last = Path(run_dir, "checkpoints", "last.ckpt")
    if data.get("class_path") != DATA or not last.is_file():
        return
    record = open_checkpoint(str(last)).get(DATA.rpartition(".")[2])
    if record is None:
        return
    given = data["init_args"]
    for name in ("classes", "image_size"):
        if given.get(name) is None:
            given[name] = record.get(name)
    if given.get("exif_orientation") is None:
        given["exif_orientation"] = record.get("exif_orientation", False)


def open_checkpoint(path: str) -> dict[str, Any]:
    """Open a checkpoint without unpickling.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"`ckpt_path` must be a checkpoint file, 'best', 'last' or 'hpc', got '{path}'."
        )
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:  # a damaged file makes the reader raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"`ckpt_path` '{path}' is no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"`ckpt_path` '{path}' is no checkpoint: it holds no dictionary")
    return checkpoint


def _arguments(checkpoint: dict[str, Any], key: str) -> dict[str, Any]:
    """Constructor arguments, without what the command line adds to them."""
    arguments = checkpoint.get(key, {})
    return {name: value for name, value in arguments.items() if not name.startswith("_")}
