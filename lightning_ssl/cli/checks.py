"""Values that are refused before anything is built or trained, as nobody else refuses them well."""

import math
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from lightning_ssl.data.sources.base import SIDES
from lightning_ssl.methods import SSLModule
from lightning_ssl.models import evaluating

_WHOLE, _REAL = int, (int, float)

# Option of the trainer to its kinds of number, smallest value, and whether that is refused itself.
_TRAINER: dict[str, tuple[Any, float, bool]] = {
    "max_steps": (_WHOLE, -1, False),
    "min_steps": (_WHOLE, 0, False),
    "max_epochs": (_WHOLE, -1, False),
    "min_epochs": (_WHOLE, 0, False),
    "gradient_clip_val": (_REAL, 0, False),
    "log_every_n_steps": (_WHOLE, 0, False),
    "val_check_interval": (_REAL, 0, True),
    "check_val_every_n_epoch": (_WHOLE, 1, False),
    "accumulate_grad_batches": (_WHOLE, 1, False),
    "num_nodes": (_WHOLE, 1, False),
    "num_sanity_val_steps": (_WHOLE, -1, False),
    "reload_dataloaders_every_n_epochs": (_WHOLE, 0, False),
    "limit_train_batches": (_REAL, 0, True),
    "limit_val_batches": (_REAL, 0, False),
    "limit_test_batches": (_REAL, 0, False),
    "limit_predict_batches": (_REAL, 0, True),
    "overfit_batches": (_REAL, 0, False),
}
_DATA: dict[str, tuple[Any, float, bool]] = {
    "num_workers": (_WHOLE, 0, False),
    "seed": (_WHOLE, 0, False),
    "num_labels": (_WHOLE, 1, False),
    "labels_per_class": (_WHOLE, 1, False),
    "unlabeled_per_class": (_WHOLE, 1, False),
    "classes_per_batch": (_WHOLE, 1, False),
    "image_size": (_WHOLE, SIDES[0], False),  # which may also come from a checkpoint
}
_MOST = {"seed": 2**63 - 1, "image_size": SIDES[1]}  # what a generator of torch takes
_DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")
_LARGEST_SEED = 2**32 - 1  # what one of NumPy takes


def check_seed(seed: int | bool) -> None:
    """Refuse a seed of the run that is out of range.

    Args:
        seed: ``seed_everything``; a bool says whether one is drawn.

    Raises:
        ValueError: If it is.
    """
    if not isinstance(seed, bool):
        _check_range("seed_everything", seed, 0, False, _LARGEST_SEED)


def check_values(config: Any) -> None:
    """Refuse numbers of the trainer and the data that are out of range.

    Args:
        config: Options of a subcommand as parsed.

    Raises:
        ValueError: If there is one.
    """
    for group, rules, values in (
        ("trainer", _TRAINER, config.trainer),
        ("data", _DATA, config.data.get("init_args") or {}),
    ):
        for name, (kinds, least, above) in rules.items():
            value = values.get(name)
            if isinstance(value, kinds) and not isinstance(value, bool):
                _check_range(f"{group}.{name}", value, least, above, _MOST.get(name, math.inf))
    _check_time(config.trainer.get("max_time"))
    for name in ("steps", "epochs"):
        if config.trainer.get(f"max_{name}") == 0:
            raise ValueError(
                f"`trainer.max_{name}` (--trainer.max_{name}) must be -1 or at least 1, got 0."
            )
        least, most = (config.trainer.get(f"{end}_{name}") for end in ("min", "max"))
        if least is not None and most not in (None, -1) and least > most:
            raise ValueError(
                f"`trainer.min_{name}` (--trainer.min_{name}) must be at most "
                f"`trainer.max_{name}` ({most}), got {least}."
            )
    _check_devices(config.trainer.get("devices"), config.trainer.get("accelerator"))


def _check_time(time: Any) -> None:
    """Refuse a clock that has run out before the first update."""
    if isinstance(time, str):
        found = _DURATION.fullmatch(time)
        right = found is not None and any(int(part) for part in time.split(":"))
    elif isinstance(time, Mapping):
        try:
            right = timedelta(**time) > timedelta(0)
        except (TypeError, OverflowError):  # of another unit, or a number too large
            right = False
    else:
        right = time is None or time > timedelta(0)
    if not right:
        raise ValueError(
            "`trainer.max_time` (--trainer.max_time) must be DD:HH:MM:SS, above zero, got "
            f"{time!r}."
        )


def _check_range(name: str, value: float, least: float, above: bool, most: float) -> None:
    if not (value > least if above else value >= least) or value > most or value == math.inf:
        bound = f"above {least}" if above else f"at least {least}"
        bound += f" and at most {most}" if most < math.inf else ""
        raise ValueError(f"`{name}` (--{name}) must be {bound}, got {value}.")


def _check_devices(devices: Any, accelerator: str | None) -> None:
    listed = devices.split(",") if isinstance(devices, str) else devices
    listed = [listed] if isinstance(listed, int) else listed
    try:
        numbers = [int(part) for part in listed or []] if devices != "auto" else []
        wrong = devices in (0, "0", "", []) or min(numbers, default=0) < -1
    except (TypeError, ValueError):
        wrong = True
    if wrong:
        raise ValueError(
            "`trainer.devices` (--trainer.devices) must be a number of devices, a list of their "
            f"indices such as [0, 1], -1 or 'auto' for all, got {devices!r}."
        )
    by_index = isinstance(devices, list) or -1 in numbers or len(numbers) > 1
    if by_index and (accelerator == "cpu" or (accelerator == "auto" and not _has_accelerator())):
        raise ValueError(
            "`trainer.devices` (--trainer.devices) must be the number of processes on a CPU, got "
            f"{devices!r}."
        )


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def check_trained(config: Any, flags: Collection[str]) -> None:
    """Refuse to evaluate a network that has learnt nothing.

    Args:
        config: Options of ``validate``, ``test`` or ``predict`` as parsed.
        flags: Names of the options that were typed.

    Raises:
        ValueError: If there is neither a checkpoint nor a file of weights. Weights in the config of
            a run's folder are those that the run started from.
    """
    if config.ckpt_path is not None:
        return
    weights = (config.model.get("init_args") or {}).get("weights")
    of_run = config.run_dir is not None and any(Path(config.run_dir, "checkpoints").glob("*.ckpt"))
    if weights is None or (of_run and "model.weights" not in flags):
        raise ValueError(
            "`ckpt_path` (--ckpt_path) must be a checkpoint, or 'best' or 'last' with -c and the "
            "config.yaml of a run, got none: the network would be one that this run never trained. "
            "Weights of elsewhere are given by --model.weights."
        )


def check_fit(model: SSLModule, data: LightningDataModule, processes: int) -> None:
    """Refuse images and batches that the network or the loss cannot do with.

    Args:
        model: The method.
        data: The data.
        processes: Number of processes that share a batch.

    Raises:
        ValueError: If the network takes images of another side, or batches are too small.
    """
    size = getattr(data, "image_size", None)
    patches = getattr(getattr(model, "backbone", None), "patch_embed", None)
    wanted = getattr(patches, "img_size", None)
    if (
        size
        and wanted
        and getattr(patches, "strict_img_size", False)
        and tuple(wanted) != (size,) * 2
    ):
        raise ValueError(
            f"`data.image_size` must be {wanted[0]} for this network, got {size}: give "
            f"--data.image_size {wanted[0]}, or the network --model.backbone_args "
            f"'{{img_size: {size}}}'."
        )
    streams = getattr(model, "views", {})
    for stream, name in (("labeled", "batch_size"), ("unlabeled", "unlabeled_batch_size")):
        batch = getattr(data, name, None)
        if stream not in streams or batch is None:
            continue
        least, why = _least_batch(model, data, streams, processes, batch)
        if batch < least:
            raise ValueError(f"`data.{name}` must be at least {least}, got {batch}: {why}.")


def _least_batch(
    model: SSLModule, data: Any, streams: Any, processes: int, batch: int
) -> tuple[int, str]:
    asked: tuple[int, str] | None = getattr(model, "least_batch", None)
    if asked is not None:
        return asked
    if len(streams) == 1 and batch < 2 * processes and _sees_one_number(model, data):
        return 2 * processes, "BatchNorm needs two images in each process"
    return 1, ""


def _sees_one_number(model: SSLModule, data: Any) -> bool:
    """Whether a BatchNorm gets one number a channel of an image: it has no spread.

    Over a larger map of features it takes its statistics from the places of one image.
    """
    learning = [module for module in model.modules() if module.training]  # others are frozen
    if any(isinstance(module, nn.BatchNorm1d) for module in learning):
        return True
    norms = [module for module in learning if isinstance(module, nn.BatchNorm2d)]
    if not norms or not hasattr(data, "image_size"):
        return False
    seen: list[bool] = []
    hooks = [n.register_forward_pre_hook(lambda _, x: seen.append(x[0][0, 0].numel() == 1))
             for n in norms]  # fmt: skip
    first = next(model.backbone.parameters())
    shape = (1, data.in_channels, data.image_size, data.image_size)
    try:
        with torch.no_grad(), evaluating(model.backbone):
            model.backbone(torch.zeros(shape, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return any(seen)


def check_whole(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint without all that a run goes on with, such as one of weights alone.

    Lightning starts what is missing anew, in silence.

    Args:
        model: The method.
        checkpoint: What was opened.
        path: Its file.

    Raises:
        ValueError: If a part is missing or damaged.
    """
    averaged = ("current_model_state", "averaging_state") if getattr(model, "ema_decay", 0) else ()
    for key in ("optimizer_states", "lr_schedulers", "loops", "callbacks", *averaged):
        part = checkpoint.get(key)
        if key in ("optimizer_states", "lr_schedulers"):
            right = isinstance(part, list) and all(isinstance(state, dict) for state in part)
        elif isinstance(part, dict):
            right = key in averaged or all(isinstance(state, dict) for state in part.values())
        else:
            right = False
        if not right or not (part or key == "callbacks"):
            raise ValueError(
                f"`ckpt_path` '{path}' must hold `{key}` for a run to go on from it, got "
                f"{part!r:.100}: {_instead(path)} a new run starts from its weights by "
                "--model.weights."
            )


def _instead(path: str) -> str:
    """What to continue from in the place of a run's best checkpoint, which is of weights alone."""
    last = Path(path).with_name("last.ckpt")
    return f"continue from '{last}', or" if last.is_file() and last != Path(path) else "but"


def check_state(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint whose weights do not fit, by the first that does not.

    Args:
        model: The method.
        checkpoint: What was opened.
        path: Its file.

    Raises:
        ValueError: If a weight has another shape or is missing.
    """
    weights = checkpoint["state_dict"]
    # What a method keeps besides, such as banks, it may read in its own way.
    for name, own in model.named_parameters():
        found = weights.get(name)
        if not isinstance(found, Tensor):
            raise ValueError(f"`ckpt_path` '{path}' lacks the weight '{name}' of the method.")
        if tuple(found.shape) != tuple(own.shape):
            raise ValueError(
                f"`ckpt_path` '{path}' has the weight '{name}' of shape {tuple(found.shape)}, the "
                f"method one of {tuple(own.shape)}: give the options that it was trained with."
            )
