"""ResNet-50 v2 as google-research/s4l defines it."""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_ssl.models.bottleneck import BN_EPS, PreActBottleneck, init_glorot
from lightning_ssl.models.norms import Norm, activate, norm_2d


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

    Raises:
        ValueError: If ``norm`` does not exist.
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
        super().__init__()
        self.small_stem = small_stem
        kernel, stride = (3, 1) if small_stem else (7, 2)
        inner = 64 * width
        self.stem = nn.Conv2d(in_channels, inner, kernel, stride, kernel // 2, bias=False)
        self.pool = nn.MaxPool2d(3, 2)
        self.stages = nn.Sequential()
        make_unit = partial(
            PreActBottleneck, activated_shortcut=True, norm=norm, bn_momentum=bn_momentum
        )
        for stage, units in enumerate((3, 4, 6, 3)):
            outer = 256 * width * 2**stage
            group = nn.Sequential()
            for unit in range(units):
                stride = 2 if stage > 0 and unit == 0 else 1
                group.append(make_unit(inner, outer // 4, outer, stride=stride))
                inner = outer
            self.stages.append(group)
        self.bn = norm_2d(inner, norm, eps=BN_EPS, momentum=bn_momentum)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = inner
        self.apply(init_glorot)

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
        out: Tensor = self.avgpool(activate(self.bn, self.stages(x)))
        return out.flatten(1)
