"""Checkpoints of an adapted network hold its adapters, not the weights beside them."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule

from lightning_ssl.models import base_state, digest_of

_STATES = ("state_dict", "current_model_state")
_KEY = "base_weights"


def remember(method: Any) -> None:
    """Note which weights an adapted network has, before they are moved and converted.

    Args:
        method: The method, whose network is its ``backbone``.
    """
    state = base_state(method.backbone)
    method.base_digest = digest_of(state) if state else None


def leave_out(method: Any, checkpoint: dict[str, Any]) -> None:
    """Take out of a checkpoint what does not learn, and note what it was.

    Args:
        method: The method.
        checkpoint: What is to be written.
    """
    names = {f"backbone.{name}" for name in base_state(method.backbone)}
    if not names:
        return
    for key in _STATES:
        if key in checkpoint:
            checkpoint[key] = {n: v for n, v in checkpoint[key].items() if n not in names}
    checkpoint[_KEY] = _remembered(method)


def _remembered(method: Any) -> str:
    """The digest; weights are read once, and here where no trainer has set up the method."""
    if getattr(method, "base_digest", None) is None:
        remember(method)
    digest: str = method.base_digest
    return digest


def is_partial(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint lacks weights that its network started from.

    Args:
        checkpoint: What was read.
    """
    return _KEY in checkpoint


def put_back(method: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Fill in what a checkpoint left out, from the method itself.

    Args:
        method: The method; where it has ``weights``, it starts from them.
        checkpoint: What was read.

    Raises:
        ValueError: If the network has other weights than the checkpoint's had.
    """
    digest, backbone = checkpoint.get(_KEY), method.backbone
    if digest is None:
        return
    method.start_from_weights()  # type: ignore[operator]  # those that were given for this
    own: dict[str, Any] = base_state(backbone)  # type: ignore[arg-type]  # a module
    if not own or _remembered(method) != digest:
        raise ValueError(
            "`ckpt_path` holds adapters alone, of a network with other weights than `backbone` has "
            "now: give those it was adapted from, by --model.backbone_args.pretrained true or "
            "--model.weights FILE, in Python `backbone_args` or `weights`."
        )
    for key in _STATES:
        if key in checkpoint:
            checkpoint[key] = {**{f"backbone.{n}": v for n, v in own.items()}, **checkpoint[key]}
