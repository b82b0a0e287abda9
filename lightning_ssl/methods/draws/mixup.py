"""What is drawn for MixUp."""

import torch
from torch import Tensor
from torch.distributions import Beta


def draw_mixup(
    count: int, alpha: float, like: Tensor, shared: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Draw for each row a partner and the weight of the row itself.

    One permutation of all rows; :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` of each row,
    of which the larger of :math:`\lambda` and :math:`1 - \lambda` is taken, so that a row remains
    mostly itself.

    Reference: Berthelot et al., 2019, https://arxiv.org/abs/1905.02249, eq. 8 to 11; a draw for
    each row as in google-research/mixmatch.

    Args:
        count: Number of rows N.
        alpha: :math:`\alpha`, at least 0; 0 mixes nothing.
        like: Says on which device.
        shared: Whether all rows have one weight, as in TorchSSL and USB.

    Returns:
        Partners ``(N,)``, int64, and weights ``(N,)`` in [0.5, 1], float32.
    """
    # Few numbers, drawn on the host and sent without waiting: the same on any device.
    partner, weight = torch.randperm(count), torch.ones(count, dtype=torch.float32)
    if alpha > 0:
        drawn = draw_beta(alpha, 1 if shared else count).expand(count)
        weight = torch.maximum(drawn, 1 - drawn)
    return partner.to(like.device, non_blocking=True), weight.to(like.device, non_blocking=True)


def draw_beta(alpha: float, count: int) -> Tensor:
    r"""Draw from :math:`\mathrm{Beta}(\alpha, \alpha)` on the host.

    Args:
        alpha: :math:`\alpha`, above 0.
        count: How many.

    Returns:
        ``(count,)`` in [0, 1], float32.
    """
    # A run may have made half precision the default, in which torch cannot draw.
    both = torch.tensor(alpha, dtype=torch.float32)
    return Beta(both, both, validate_args=False).sample((count,))
