"""Which images to label: those that stand for many, then those that a classifier is unsure of."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lightning_ssl.losses import cosine, promote


def prototypes(features: Tensor, count: int, *, seed: int = 0, restarts: int = 10) -> Tensor:
    """Choose the images nearest to the centres of k-means, with as many centres as images.

    The centres are of the features as they are; the image of a centre is the one of largest cosine,
    whatever its cluster. The largest cluster chooses first and no image is chosen twice, so that
    the first images of the list are a choice of their own.

    Reference: simple k-means prototype selection of https://arxiv.org/abs/2311.17093, which may
    choose an image twice and has no order.

    Args:
        features: ``(N, F)``, any finite real.
        count: How many images, at most N.
        seed: Seed of the first centres.
        restarts: How often k-means starts; the one of smallest distances counts.

    Returns:
        Rows ``(count,)``, int64, each once.

    Raises:
        ValueError: If there are fewer images, or a value is not finite.
    """
    if not 1 <= count <= len(features):
        raise ValueError(
            f"`count` must be in [1, {len(features)}], the number of images, got {count}."
        )
    if not features.isfinite().all():
        raise ValueError("`features` must be finite, got infinite values or NaN.")
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    values = promote(features).cpu()
    model = KMeans(count, n_init=restarts, random_state=seed % 2**32)
    # Several threads would add up the rows of a cluster in any order.
    with threadpool_limits(limits=1, user_api="openmp"):
        model.fit(values.numpy())
    sizes = torch.bincount(torch.from_numpy(model.labels_).long(), minlength=count)
    centres = torch.from_numpy(model.cluster_centers_).to(values)
    values = functional.normalize(values)
    free = torch.ones(len(values), dtype=torch.bool)
    chosen = []
    for cluster in sizes.argsort(descending=True, stable=True).tolist():
        cosines = cosine(centres[cluster : cluster + 1], values)[0]
        chosen.append(int(cosines.masked_fill(~free, -torch.inf).argmax()))
        free[chosen[-1]] = False
    return torch.tensor(chosen)


def most_uncertain(
    probs: Tensor,
    count: int,
    *,
    by: Literal["margin", "entropy"] = "margin",
    skip: Tensor | None = None,
) -> Tensor:
    """Choose the images that a classifier is least sure of.

    Args:
        probs: Probabilities ``(N, C)``, rows sum to 1, C at least 2.
        count: How many images, at most N less those to skip.
        by: ``margin``, the smallest difference of the two largest probabilities, or ``entropy``,
            the largest entropy.
        skip: Rows that are not chosen, as they have a label ``(L,)``, int64; None for none.

    Returns:
        Rows ``(count,)``, int64, the least sure first; of equally sure ones the first.

    Raises:
        ValueError: If there are fewer images, or ``by`` is something else.

    Example:
        >>> most_uncertain(torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]]), 2).tolist()
        [1, 2]
    """
    probs = promote(probs)
    if by == "margin":
        best = probs.topk(2, dim=1).values
        sureness = best[:, 0] - best[:, 1]
    elif by == "entropy":
        sureness = torch.special.xlogy(probs, probs).sum(dim=1)
    else:
        raise ValueError(f"`by` must be 'margin' or 'entropy', got '{by}'.")
    free = torch.ones(len(probs), dtype=torch.bool, device=probs.device)
    if skip is not None:
        free[skip] = False
    rows = free.nonzero().flatten()
    if not 1 <= count <= len(rows):
        raise ValueError(
            f"`count` must be in [1, {len(rows)}], the images to choose from, got {count}."
        )
    return rows[sureness[rows].argsort(stable=True)[:count]]
