"""Low-rank adapters: fine-tune a pretrained network by a few weights beside its own."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

_INNER = ".base_layer"  # where peft moves a layer that it adapts
_ADDED = ".lora_"


def add_lora(
    backbone: nn.Module,
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.1,
    targets: str | Sequence[str] = "qkv",
) -> None:
    r"""Add low-rank adapters to layers of a network, by peft: only they learn.

    .. math:: W x + b + \frac{\alpha}{r} B A \, \mathrm{dropout}(x)

    with :math:`A` of r rows drawn as a linear layer's weight and :math:`B = 0`, so that the network
    is the same at first.

    Reference: Hu et al., 2022, https://arxiv.org/abs/2106.09685, eq. 3.

    Args:
        backbone: The network; its layers are replaced.
        rank: Rows of A, at least 1.
        alpha: Scale, above 0; None for ``rank``, which makes the factor 1.
        dropout: Share of the adapters' inputs that is dropped, in [0, 1).
        targets: Layers, linear or convolutions: the ends of their names, or a regular expression of
            the whole name. ``qkv`` is the attention of timm's transformers.

    Raises:
        ValueError: If a value is out of range, peft is not installed, or no layer has such a name.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`adapter_args.rank` must be at least 1, got {rank!r}.")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"`adapter_args.alpha` must be above 0 or null, got {alpha!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`adapter_args.dropout` must be in [0, 1), got {dropout!r}.")
    if find_spec("peft") is None:
        raise ValueError(
            "`adapter` 'lora' needs peft, which is not installed: pip install 'lightning_ssl[peft]'"
        )
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    names = targets if isinstance(targets, str) and not targets.isidentifier() else None
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type]  # a number
        lora_dropout=dropout,
        target_modules=names or ([targets] if isinstance(targets, str) else list(targets)),
    )
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ValueError(
            f"`adapter_args.targets` must name linear layers or convolutions of the network, a "
            f"{type(backbone).__name__}, by the ends of their names or a regular expression, got "
            f"{targets!r}: {str(error).splitlines()[0]}"
        ) from error


def set_mode(backbone: nn.Module, frozen: bool) -> None:
    """Keep what does not learn in evaluation mode: a frozen network, and an adapted one's norms.

    Args:
        backbone: The network, in the mode of its method.
        frozen: Whether all of it is frozen.
    """
    if frozen:
        backbone.eval()
    elif is_adapted(backbone):
        for layer in backbone.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def is_adapted(module: nn.Module) -> bool:
    """Whether a module holds adapters.

    Args:
        module: A network, or a method.
    """
    return any(_ADDED in name for name, _ in module.named_parameters())


def plain_name(name: str) -> str:
    """Name of a weight as it was before adapters were added.

    Args:
        name: Its name.
    """
    return name.replace(_INNER, "")


def is_added(name: str) -> bool:
    """Whether a weight is an adapter's own.

    Args:
        name: Its name.
    """
    return _ADDED in name


def base_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of an adapted network that do not learn, by name; empty for any other network.

    Args:
        backbone: The network.
    """
    if not is_adapted(backbone):
        return {}
    return {name: v for name, v in backbone.state_dict().items() if not is_added(name)}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Tell weights apart.

    Args:
        state: Weights by name.
    """
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{plain_name(name)} {tuple(value.shape)}".encode())
        found.update(value.double().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def merge_adapters(backbone: nn.Module) -> None:
    """Add the adapters to the weights beside them and take them out: a plain network is left.

    Args:
        backbone: The network; its layers are replaced.
    """
    if not is_adapted(backbone):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, last = name.rpartition(".")
            setattr(backbone.get_submodule(parent), last, layer.get_base_layer())
