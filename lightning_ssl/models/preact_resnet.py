"""ResNet-50 v2 as google-research/s4l defines it."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad, relu

Norm = Literal["batch", "none"]


class PreActResNet50(nn.Module):
    """ResNet-50 with pre-activation bottlenecks.

    A 7x7 stem of stride 2 without normalisation, 3x3 max-pooling of stride 2 over a map padded
    with zeros; 3, 4, 6 and 3 units with 256, 512, 1024 and 2048 times ``width`` channels, the
    first unit of each stage but the first with stride 2 in its 3x3 convolution; norm, ReLU and
    global average. No convolution has a bias; kernels start Glorot-uniform, every norm at 1 and 0.
    Width 1 has 23,500,352 parameters, width 4 375,347,456.

    Reference: https://arxiv.org/abs/1603.05027, https://arxiv.org/abs/1905.03670.

    Args:
        width: Factor of the channels.
        in_channels: Channels of the images.
        small_stem: 3x3 stem of stride 1 and no pooling, for images up to 64 pixels.
        bn_momentum: Share of the newest batch in the running statistics; s4l has 0.01, which needs
            hundreds of updates.
        norm: `none` drops every normalisation.

    Attributes:
        num_features: Channels of the last stage.
    """

    def __init__(
        self,
        width: int = 1,
        *,
        in_channels: int = 3,
        small_stem: bool = False,
        bn_momentum: float = 0.1,
        norm: Norm = "batch",
    ) -> None:
        """Build the layers."""
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(f"`norm` must be one of ('batch', 'none'), got {norm!r}.")
        make_norm = partial(_norm, norm=norm, momentum=bn_momentum)
        self.small_stem = small_stem
        kernel, stride = (3, 1) if small_stem else (7, 2)
        inner = 64 * width
        self.stem = nn.Conv2d(in_channels, inner, kernel, stride, kernel // 2, bias=False)
        self.pool = nn.MaxPool2d(3, 2)
        self.stages = nn.Sequential()
        for stage, units in enumerate((3, 4, 6, 3)):
            outer = 256 * width * 2**stage
            strides = [2 if stage > 0 else 1] + [1] * (units - 1)
            channels = [inner] + [outer] * (units - 1)
            self.stages.append(
                nn.Sequential(
                    *(_Unit(c, outer, s, make_norm) for c, s in zip(channels, strides, strict=True))
                )
            )
            inner = outer
        self.bn = make_norm(inner)
        self.num_features = inner
        self.apply(_init_conv)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: Images ``(B, in_channels, H, W)``.

        Returns:
            Features ``(B, num_features)``.
        """
        x = self.stem(x)
        if not self.small_stem:
            # With zeros, which may be larger than what is there: not MaxPool2d's own padding.
            x = self.pool(pad(x, (1, 1, 1, 1)))
        return relu(self.bn(self.stages(x))).mean(dim=(2, 3))


class _Unit(nn.Module):
    """Norm, ReLU and convolution three times; a strided or widening shortcut is activated, too."""

    def __init__(
        self, inner: int, outer: int, stride: int, make_norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        neck = outer // 4
        self.bn1, self.bn2, self.bn3 = make_norm(inner), make_norm(neck), make_norm(neck)
        self.conv1 = nn.Conv2d(inner, neck, 1, bias=False)
        self.conv2 = nn.Conv2d(neck, neck, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(neck, outer, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if inner != outer or stride > 1:
            self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        residual: Tensor = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(activated))))
        out = self.conv3(relu(self.bn3(out)))
        return out + residual


def _norm(channels: int, norm: Norm, momentum: float) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
