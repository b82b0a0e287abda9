"""ResNet-20 with pre-activation bottlenecks, the small network of PAWS-TF."""

from itertools import pairwise

from torch import Tensor, nn

from lightning_ssl.models.norms import Norm, activate, norm_2d

_BN_EPS = 1e-3  # Keras' default


class _Bottleneck(nn.Module):
    """Norm, ReLU, convolution, three times (1x1, 3x3 with the stride, 1x1), plus a shortcut.

    A shortcut that changes the width is a 1x1 convolution of the raw input.
    """

    def __init__(
        self, inner: int, middle: int, outer: int, *, stride: int, norm: Norm, bn_momentum: float
    ) -> None:
        super().__init__()
        self.bn1 = norm_2d(inner, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(inner, middle, 1, bias=False)
        self.bn2 = norm_2d(middle, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn3 = norm_2d(middle, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.conv3 = nn.Conv2d(middle, outer, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer:
            self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(activate(self.bn2, self.conv1(activate(self.bn1, x))))
        out, residual = self.conv3(activate(self.bn3, out)), self.shortcut(x)
        total: Tensor = out + residual
        return total


class ResNet20V2(nn.Module):
    """ResNet-20 with pre-activation bottlenecks, as in sayakpaul/PAWS-TF.

    From there: a 3x3 stem of 16 channels with BatchNorm and ReLU; three stages of one projection
    and one identity block, 16 to 64, 64 to 128 and 128 to 256 channels, narrowed to 16, 64 and 128
    inside, the second and third halving the side; the global average follows without a last
    BatchNorm or ReLU; no biases; weights start Glorot-uniform and BatchNorm has ``eps`` 1e-3, as
    Keras has it. Not from there: 3x3 convolutions pad both sides as torch does; where TensorFlow
    halves an even side it pads only the right and the bottom. It has 565,360 parameters.

    Reference: https://arxiv.org/abs/1603.05027.

    Args:
        in_channels: Channels of the images.
        bn_momentum: Share of the newest batch in the running statistics; Keras has 0.01.
        norm: `none` drops every normalisation.

    Attributes:
        num_features: 256.

    Raises:
        ValueError: If ``norm`` does not exist.
    """

    def __init__(
        self, *, in_channels: int = 3, bn_momentum: float = 0.1, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        channels = (16, 64, 128, 256)
        self.num_features = channels[-1]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = norm_2d(16, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.stages = nn.Sequential()
        for middle, (inner, outer) in zip((16, 64, 128), pairwise(channels), strict=True):
            stride = 1 if inner == 16 else 2
            project = _Bottleneck(
                inner, middle, outer, stride=stride, norm=norm, bn_momentum=bn_momentum
            )
            keep = _Bottleneck(outer, middle, outer, stride=1, norm=norm, bn_momentum=bn_momentum)
            self.stages.append(nn.Sequential(project, keep))
        self.apply(_init_conv)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: Images ``(B, in_channels, H, W)``, any side.

        Returns:
            Features ``(B, 256)``.
        """
        features: Tensor = self.stages(activate(self.bn1, self.conv1(x)))
        return features.mean(dim=(2, 3))


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
