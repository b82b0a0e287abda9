"""Triplet loss between the copies of images."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.losses.basic import full_precision, promote

_CLAMP = 1e-12  # below a squared distance the root's slope has no bound


def batch_hard_triplet_loss(embeddings: Tensor, image: Tensor | None = None) -> Tensor:
    r"""Copies of an image shall be nearer to each other than to any other image.

    .. math::
        \frac{1}{N} \sum_i \log\big(1 + e^{\max_{j \ne i, \, y_j = y_i} d_{ij} -
        \min_{j: \, y_j \ne y_i} d_{ij}}\big), \quad
        d_{ij} = \lVert \hat e_i - \hat e_j \rVert_2

    over all N = copies · B rows, with :math:`\hat e` of length 1 and the image as class
    :math:`y`. For every copy the hardest positive and the hardest negative of the batch; soft
    margin; no gathering over ranks. The choice of the two carries no gradient, both distances do.

    Reference: Hermans et al., 2017, https://arxiv.org/abs/1703.07737, sec. 2; for copies of images
    Zhai et al., 2019, https://arxiv.org/abs/1905.03670, sec. 3.

    Args:
        embeddings: ``(copies, B, E)``, any real, at least 2 copies of at least 2 images.
        image: Which image each column shows, int64 ``(B,)``: in a batch that is longer than its
            list an image comes twice, and is no negative of itself. Or one for each row,
            ``(copies, B)``. None if all are different.

    Returns:
        Scalar, float32 at least. log 2 = 0.6931 where all embeddings have collapsed into one.

    Raises:
        ValueError: If there are fewer than 2 copies or images.

    Example:
        >>> apart = torch.eye(2).expand(3, 2, 2)  # three equal copies of two orthogonal images
        >>> round(batch_hard_triplet_loss(apart).item(), 4)
        0.2176
        >>> round(batch_hard_triplet_loss(torch.ones(3, 2, 2)).item(), 4)
        0.6931
    """
    copies, images, _ = embeddings.shape
    if image is None:
        image = torch.arange(images, device=embeddings.device)
    if min(copies, images) < 2:
        raise ValueError(
            "`embeddings` must hold at least 2 copies of at least 2 images on every rank, "
            f"got {copies} of {images}."
        )
    unit = functional.normalize(promote(embeddings).flatten(0, 1), dim=1, eps=_CLAMP**0.5)
    positive, negative = _hardest(unit.detach(), image.expand(copies, images).flatten())
    return functional.softplus(_distance(unit, positive) - _distance(unit, negative)).mean()


def swapped_identities(copies: int, images: int, device: torch.device) -> Tensor:
    """Identities as google-research/s4l numbers them, with copies and images in each other's place.

    Rows that lie image by image are cut into as many identities as there are copies: with 8 copies
    of 16 images an identity is made of all copies of two images.

    Args:
        copies: Copies M of each image.
        images: Images B.
        device: Where.

    Returns:
        Int64 ``(M, B)`` in [0, M), for :func:`batch_hard_triplet_loss`.

    Example:
        >>> swapped_identities(2, 4, torch.device("cpu")).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    rows = torch.arange(images * copies, device=device)
    return rows.div(images, rounding_mode="floor").view(images, copies).T


def _hardest(unit: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the farthest other copy of its image, and the nearest copy of another one."""
    with full_precision(unit):
        similarity = unit @ unit.T
    same = image[:, None] == image
    positive = similarity.masked_fill(~same, torch.inf).fill_diagonal_(torch.inf).argmin(dim=1)
    return positive, similarity.masked_fill(same, -torch.inf).argmax(dim=1)


def _distance(unit: Tensor, partner: Tensor) -> Tensor:
    # From the difference, as 2 - 2 cos rounds small distances away.
    squared = (unit - unit[partner]).square().sum(dim=1)
    return squared.clamp(min=_CLAMP).sqrt()
