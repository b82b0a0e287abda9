"""ResNet-50 with a multiple of the channels, as PAWS and SimCLR have it."""

from typing import Any

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


class WiderResNet50(ResNet):  # type: ignore[misc]
    """torchvision's ResNet-50 with ``width`` times the channels in every layer, the stem too.

    torchvision's ``wide_resnet50_2`` is another network: it widens the 3x3 convolutions only. The
    stride is on them, and no residual branch starts at zero, as in torchvision.

    Reference: https://arxiv.org/abs/2104.13963, https://arxiv.org/abs/2002.05709.

    Args:
        width: Factor of the channels.
    """

    def __init__(self, width: int) -> None:
        self.width = width  # the parent's constructor already asks for it
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.conv1 = nn.Conv2d(3, 64 * width, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(2048 * width, 1000)

    def _make_layer(
        self, block: type[nn.Module], planes: int, blocks: int, **options: Any
    ) -> nn.Sequential:
        if planes == 64:  # the first stage, whose input is the stem's output
            self.inplanes *= self.width
        layer: nn.Sequential = super()._make_layer(block, planes * self.width, blocks, **options)
        return layer
