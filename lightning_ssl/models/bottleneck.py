"""Pre-activation bottleneck of the ResNets that come from Keras and TensorFlow."""

from torch import Tensor, nn

from lightning_ssl.models.norms import Norm, activate, norm_2d

BN_EPS = 1e-3  # the default there


class PreActBottleneck(nn.Module):
    """Norm, ReLU, convolution, three times (1x1, 3x3 with the stride, 1x1), plus a shortcut.

    A shortcut that changes the width or the side is a 1x1 convolution. No convolution has a bias.

    Reference: https://arxiv.org/abs/1603.05027.

    Args:
        inner: Channels that come in.
        middle: Channels of the 3x3 convolution.
        outer: Channels that go out.
        stride: Of the 3x3 convolution.
        activated_shortcut: Whether the convolution of the shortcut sees the normalised and
            activated input, instead of the raw one.
        norm: `none` drops every normalisation.
        bn_momentum: Share of the newest batch in the running statistics.
    """

    def __init__(
        self,
        inner: int,
        middle: int,
        outer: int,
        *,
        stride: int,
        activated_shortcut: bool,
        norm: Norm,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self.bn1 = norm_2d(inner, norm, eps=BN_EPS, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(inner, middle, 1, bias=False)
        self.bn2 = norm_2d(middle, norm, eps=BN_EPS, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn3 = norm_2d(middle, norm, eps=BN_EPS, momentum=bn_momentum)
        self.conv3 = nn.Conv2d(middle, outer, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if inner != outer or stride != 1:
            self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)
        self.activated_shortcut = activated_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, outer, H / stride, W / stride)`` of maps ``(B, inner, H, W)``."""
        activated = activate(self.bn1, x)
        out = self.conv2(activate(self.bn2, self.conv1(activated)))
        out = self.conv3(activate(self.bn3, out))
        residual = x
        if self.shortcut is not None:
            residual = self.shortcut(activated if self.activated_shortcut else x)
        total: Tensor = out + residual
        return total


def init_glorot(module: nn.Module) -> None:
    """Draw the kernel of a convolution Glorot-uniform, as Keras and TensorFlow do.

    Args:
        module: Any module; what is no convolution stays as it is.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
