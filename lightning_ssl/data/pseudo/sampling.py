"""Which pseudo-labels of a class count, by how rare the class is among the given labels."""

import torch
from torch import Tensor


def sampling_rates(counts: Tensor, alpha: float) -> Tensor:
    r"""Rates at which CReST takes the pseudo-labels of each class (arXiv 2102.09559, eq. 1).

    With the classes sorted by their labels, :math:`N_1 \ge \dots \ge N_C`, the rate of class
    :math:`l` is :math:`\mu_l = (N_{C+1-l} / N_1)^\alpha`: 1 for the rarest class, which is
    predicted with the highest precision, and least for the most frequent one. Classes with equally
    many labels are sorted by their numbers.

    Args:
        counts: Labels of each class ``(C,)``, int64, at least one each.
        alpha: Exponent, at least 0; 0 takes all, the paper's experiments have 1/3.

    Returns:
        Rates ``(C,)`` in (0, 1], float64.

    Example:
        >>> sampling_rates(torch.tensor([8, 1, 64]), 1 / 3).tolist()
        [0.5, 1.0, 0.25]
    """
    order = counts.argsort(descending=True, stable=True)
    sizes = counts[order].double()
    rates = torch.empty_like(sizes)
    rates[order] = (sizes.flip(0) / sizes[0]) ** alpha
    return rates


def choose_confident(target: Tensor, probability: Tensor, rates: Tensor) -> Tensor:
    """Choose a share of the pseudo-labels of each class, the most probable ones.

    Args:
        target: Pseudo-labels ``(N,)``, int64.
        probability: Of the pseudo-labels ``(N,)``, in [0, 1]; of equal ones the first is chosen.
        rates: Share of each class ``(C,)``, in [0, 1]; numbers are rounded down.

    Returns:
        Whether each is chosen ``(N,)``, bool.

    Example:
        >>> target, probability = torch.tensor([0, 1, 0]), torch.tensor([0.6, 0.5, 0.9])
        >>> choose_confident(target, probability, torch.tensor([0.5, 1.0])).tolist()
        [False, True, True]
    """
    chosen = torch.zeros(len(target), dtype=torch.bool)
    for label, rate in enumerate(rates.tolist()):
        members = (target == label).nonzero().flatten()
        order = probability[members].argsort(descending=True, stable=True)
        # What is an integer shall not fall below it by a rounding error.
        chosen[members[order[: int(len(members) * rate + 1e-6)]]] = True
    return chosen
