"""Wide ResNets of the MixMatch family, as google-research/mixmatch defines them."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from lightning_ssl.models.norms import Norm, activate, norm_2d

_leaky = partial(leaky_relu, negative_slope=0.1)


class _Block(nn.Module):
    """Pre-activation block: norm, LeakyReLU, 3x3 convolution, twice, plus a shortcut.

    ``shared`` feeds the shortcut with the activated tensor, too; ``raw`` feeds ``conv1`` with the
    input as it came.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        make_norm: Callable[[int], nn.Module],
        *,
        stride: int,
        bias: bool,
        shared: bool,
        raw: bool,
    ) -> None:
        super().__init__()
        inner, outer = channels
        self.bn1, self.bn2 = make_norm(inner), make_norm(outer)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=bias)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=bias)
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer or stride != 1:
            self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=bias)
        self.shared, self.raw = shared, raw
        if raw:
            self.bn1.requires_grad_(False)  # out of the graph: plain DDP would wait for it

    def forward(self, x: Tensor) -> Tensor:
        activated = x if self.raw else activate(self.bn1, x, _leaky)
        out: Tensor = self.conv2(activate(self.bn2, self.conv1(activated), _leaky))
        residual: Tensor = self.shortcut(activated if self.shared else x)
        return out + residual


class WideResNet(nn.Module):
    """Wide ResNet with pre-activation blocks and LeakyReLU(0.1), without dropout.

    A 3x3 stem of 16 channels; groups of ``n`` blocks with 16, 32, 64 (and 128) times ``width``
    channels, each group but the first halving the side; norm, LeakyReLU and global average.
    Three groups of ``n`` blocks have depth ``6n + 4`` (10, 16, 22, 28, 34, 40), four groups
    ``8n + 5`` (13, 21, 29, 37). Only the first block of the first group shares the activated
    tensor between branch and shortcut.

    Convolutions start normal with standard deviation ``sqrt(2 / (k * k * out_channels))`` and
    zero bias, as in TensorFlow's code. With a linear classifier WRN-28-2 has 1,467,626 parameters
    for 10 classes, WRN-28-8 23,401,028 for 100, WRN-37-2 5,929,450 for 10.

    Reference: https://arxiv.org/abs/1605.07146, https://arxiv.org/abs/1905.02249.

    Args:
        depth: ``6n + 4`` or ``8n + 5``.
        width: Factor of the channels.
        in_channels: Channels of the images.
        conv_bias: Which convolutions have a bias; USB: `stem`; Google and TorchSSL: `all`;
            kekmodel and YU1ut: `none`.
        raw_shortcut_input: In the first block of every group but the first, feed ``conv1`` with
            the raw input, as TorchSSL, USB, kekmodel and YU1ut do, instead of the normalised and
            activated one. ``bn1`` of these blocks is then kept, frozen and unused, so that the
            keys stay the same: two tensors per such block have no gradient.
        bn_eps: Added to the variance.
        bn_momentum: Share of the newest batch in the running statistics; the papers have 0.001,
            which needs thousands of updates.
        norm: `none` drops every normalisation.

    Attributes:
        num_features: Channels of the last group.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        in_channels: int = 3,
        conv_bias: Literal["stem", "all", "none"] = "stem",
        raw_shortcut_input: bool = False,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
        norm: Norm = "batch",
    ) -> None:
        """Build the layers."""
        super().__init__()
        groups, blocks = _groups_and_blocks(depth)
        _check_options(width, conv_bias)
        make_norm = partial(norm_2d, norm=norm, eps=bn_eps, momentum=bn_momentum)
        channels = [16] + [16 * width * 2**g for g in range(groups)]
        self.num_features = channels[-1]
        self.stem = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=conv_bias != "none")
        self.groups = nn.Sequential()
        for g, (inner, outer) in enumerate(pairwise(channels)):
            group = nn.Sequential()
            for b in range(blocks):
                shrinks = b == 0 and g > 0
                block = _Block(
                    (inner if b == 0 else outer, outer),
                    make_norm,
                    stride=2 if shrinks else 1,
                    bias=conv_bias == "all",
                    shared=b == 0 and g == 0,
                    raw=shrinks and raw_shortcut_input,
                )
                group.append(block)
            self.groups.append(group)
        self.bn = make_norm(channels[-1])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.apply(_init_conv)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features.

        Args:
            x: Images ``(B, in_channels, H, W)``, any side of 4 (8 with four groups) pixels up.

        Returns:
            Features ``(B, num_features)``.
        """
        out: Tensor = self.avgpool(activate(self.bn, self.groups(self.stem(x)), _leaky))
        return out.flatten(1)


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _groups_and_blocks(depth: int) -> tuple[int, int]:
    # Depth counts the stem, two convolutions per block and one shortcut per group.
    for groups in (3, 4):
        blocks, rest = divmod(depth - 1 - groups, 2 * groups)
        if rest == 0 and blocks > 0:
            return groups, blocks
    raise ValueError(
        "The depth of a `backbone` 'wrn_<depth>_<width>' must be 6n + 4 (three groups: 10, 16, 22, "
        f"28, 34, 40, ...) or 8n + 5 (four groups: 13, 21, 29, 37, ...), got {depth}."
    )


def _check_options(width: int, conv_bias: str) -> None:
    if width < 1:
        raise ValueError(f"`width` of a `backbone` 'wrn_<depth>_<width>' must be > 0, got {width}.")
    if conv_bias not in ("stem", "all", "none"):
        raise ValueError(f"`conv_bias` must be one of ('stem', 'all', 'none'), got {conv_bias!r}.")
