"""Wide ResNet of PAWS, as facebookresearch/suncet defines it and its checkpoints hold it."""

from itertools import pairwise

from torch import Tensor, nn

from lightning_ssl.models.norms import Norm, activate, norm_2d

_BN_EPS = 1e-5


class _Block(nn.Module):
    """Pre-activation block: norm, ReLU, 3x3 convolution, twice, plus a shortcut of the raw input.

    The second convolution carries the stride.
    """

    def __init__(
        self, inner: int, outer: int, *, stride: int, norm: Norm, bn_momentum: float
    ) -> None:
        super().__init__()
        self.bn1 = norm_2d(inner, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(inner, outer, 3, 1, 1)
        self.bn2 = norm_2d(outer, norm, eps=_BN_EPS, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(outer, outer, 3, stride, 1)
        self.shortcut = nn.Sequential()  # empty: the identity, without keys
        if inner != outer or stride != 1:
            self.shortcut.append(nn.Conv2d(inner, outer, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(activate(self.bn2, self.conv1(activate(self.bn1, x))))
        residual: Tensor = self.shortcut(x)
        return out + residual


class PAWSWideResNet(nn.Module):
    """Wide ResNet of PAWS: ReLU, biased convolutions, the stride on the second of a block.

    A 3x3 stem of 16 channels; three groups of ``(depth - 4) / 6`` blocks with 32, 64, 128 (for
    ``width`` 2) channels, the second and third halving the side; BatchNorm, ReLU and global
    average. All weights start as torch draws them. Names of the tensors are those of suncet's
    checkpoints, in which dropout is zero. WRN-28-2 has 1,468,352 parameters.

    Reference: https://arxiv.org/abs/2104.13963, https://arxiv.org/abs/1605.07146.

    Args:
        depth: ``6n + 4``: 10, 16, 22, 28, 34, 40, ...
        width: Factor of the channels.
        in_channels: Channels of the images.
        bn_momentum: Share of the newest batch in the running statistics.
        final_bn_momentum: The same for the last BatchNorm; that of the others if None. The
            original has 0.99: the statistics of all but the newest batch are forgotten.
        norm: `none` drops every normalisation.

    Attributes:
        num_features: Channels of the last group.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        in_channels: int = 3,
        bn_momentum: float = 0.1,
        final_bn_momentum: float | None = None,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                "The depth of a `backbone` 'paws_wrn_<depth>_<width>' must be 6n + 4 (10, 16, 22, "
                f"28, 34, 40, ...), got {depth}."
            )
        if width < 1:
            raise ValueError(
                f"`width` of a `backbone` 'paws_wrn_<depth>_<width>' must be > 0, got {width}."
            )
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.num_features = channels[-1]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1)
        groups = []
        for (inner, outer), stride in zip(pairwise(channels), (1, 2, 2), strict=True):
            group = nn.Sequential()
            for b in range(blocks):
                group.append(
                    _Block(
                        outer if b else inner,
                        outer,
                        stride=1 if b else stride,
                        norm=norm,
                        bn_momentum=bn_momentum,
                    )
                )
            groups.append(group)
        self.layer1, self.layer2, self.layer3 = groups
        final = bn_momentum if final_bn_momentum is None else final_bn_momentum
        self.bn1 = norm_2d(channels[-1], norm, eps=_BN_EPS, momentum=final)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: Images ``(B, in_channels, H, W)``, any side.

        Returns:
            Features ``(B, num_features)``.
        """
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        out: Tensor = self.avgpool(activate(self.bn1, x))
        return out.flatten(1)
