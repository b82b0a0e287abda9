"""Fractions of the learning rate for the layers of a network that is fine-tuned."""

from typing import Any, cast

from torch import nn

_ABOVE = "<head>"  # matches no pattern, as everything that timm takes for a head


def layer_scales(backbone: nn.Module, decay: float | None) -> dict[nn.Parameter, float]:
    """Give layer k of L the fraction ``decay ** (L - k)``, from 0 for the embedding of the image.

    Layers are those of timm's ``group_matcher``: of a transformer its stem (patch and position
    embedding, class token), each block, and with the last block a norm that follows it. What timm
    counts to the head, such as the norm after average pooling, has the full rate, as the heads of
    a method have. These are the rates of BEiT (https://arxiv.org/abs/2106.08254) and of USB
    (https://arxiv.org/abs/2208.07204), whose head is layer L.

    Args:
        backbone: A network of timm's; any other without decay.
        decay: Factor in (0, 1]; None for the full rate everywhere.

    Returns:
        Fraction of each parameter of the backbone; empty without decay.

    Raises:
        ValueError: If the layers of the backbone are not known.
    """
    if decay is None:
        return {}
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(
            "`optimizer.layer_decay` needs a `backbone` that knows its layers, one of timm's with "
            "a `group_matcher`, such as 'timm/vit_small_patch16_224', got "
            f"{type(backbone).__name__}."
        )
    from timm.models._manipulate import group_with_matcher  # slow to import, and few runs need it

    named = dict(backbone.named_parameters())
    matcher = cast(Any, backbone).group_matcher(coarse=False)
    layers = group_with_matcher([*named.items(), (_ABOVE, None)], matcher, reverse=True)
    return {value: decay ** (layers[_ABOVE] - layers[name]) for name, value in named.items()}
