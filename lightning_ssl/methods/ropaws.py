"""RoPAWS: PAWS whose targets doubt images far from every label."""

from typing import Any

import torch
from torch import Tensor

from lightning_ssl.checks import check_positive
from lightning_ssl.losses import ropaws_probs
from lightning_ssl.methods.paws import PAWS


class RoPAWS(PAWS):
    r"""RoPAWS: PAWS with targets that unlabelled neighbours and a prior over all images shape.

    Targets come from :func:`lightning_ssl.losses.ropaws_probs`, and an image counts as much as it
    is believed to be of a known class. Predictions and evaluation are those of PAWS.

    Reference: Mo et al., 2023, https://arxiv.org/abs/2302.14483.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        prior_temperature: Above 0; the smaller, the more is an image doubted that is far from all
            labels.
        prior_power: Exponent of the belief where it weighs an image, at least 0.
        label_ratio: Weight of all labelled images of a step together relative to all unlabelled
            ones, above 0; the sizes are those of all processes.
        **kwargs: Arguments of :class:`PAWS`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        prior_temperature: float = 3.0,
        prior_power: float = 1.0,
        label_ratio: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if prior_power < 0:
            raise ValueError(f"`prior_power` must be at least 0, got {prior_power}.")
        self.prior_temperature = check_positive("prior_temperature", prior_temperature)
        self.prior_power = prior_power
        self.label_ratio = check_positive("label_ratio", label_ratio)

    def teach(
        self, queries: Tensor, support: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`PAWS.teach`; the queries of all processes are each other's neighbours."""
        probs, beliefs = [], []
        for view in queries:
            everyone, offset = self.gather_with_offset(view)
            p, belief = ropaws_probs(
                everyone,
                support,
                labels,
                temperature=self.temperature,
                prior_temperature=self.prior_temperature,
                label_ratio=self.label_ratio,
            )
            own = slice(offset, offset + len(view))
            probs.append(p[own])
            beliefs.append(belief[own])
        weights = torch.stack(beliefs).mean(dim=0) ** self.prior_power
        return torch.stack(probs), weights.repeat(self.global_views + self.local_views)
