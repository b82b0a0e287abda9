"""ResNet-20 with pre-activation bottlenecks, the small network of PAWS-TF."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from lightning_ssl.models.bottleneck import BN_EPS, PreActBottleneck, init_glorot
from lightning_ssl.models.norms import Norm, activate, norm_2d


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
        self.bn1 = norm_2d(16, norm, eps=BN_EPS, momentum=bn_momentum)
        self.stages = nn.Sequential()
        unit = partial(
            PreActBottleneck, activated_shortcut=False, norm=norm, bn_momentum=bn_momentum
        )
        for middle, (inner, outer) in zip((16, 64, 128), pairwise(channels), strict=True):
            stride = 1 if inner == 16 else 2
            project = unit(inner, middle, outer, stride=stride)
            self.stages.append(nn.Sequential(project, unit(outer, middle, outer, stride=1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.apply(init_glorot)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: Images ``(B, in_channels, H, W)``, any side.

        Returns:
            Features ``(B, 256)``.
        """
        out: Tensor = self.avgpool(self.stages(activate(self.bn1, self.conv1(x))))
        return out.flatten(1)
