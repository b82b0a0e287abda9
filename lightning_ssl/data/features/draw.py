"""Batches of stored features, in the place of batches of views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ssl.data.loading.fetch import TrainFetch
from lightning_ssl.data.sources.images import BrokenImageError
from lightning_ssl.evaluation.outliers import nearest_label_scores, outlier_threshold
from lightning_ssl.seeding import make_generator
from lightning_ssl.types import Batch

Features = npt.NDArray[np.float16]


def draw_slots(
    seed: int, stream: str, view: str, step: int, *, copies: int, slots: int, count: int
) -> Tensor:
    """Choose a slot for each copy of each image; the copies of an image differ.

    Args:
        seed: Seed of the run's views.
        stream: ``labeled`` or ``unlabeled``.
        view: Name of the view.
        step: The plan's step.
        copies: Views of each image, at most ``slots``.
        slots: Slots of the view.
        count: Images of all processes.

    Returns:
        Slots ``(copies, count)``, int64 in [0, slots).
    """
    generator = make_generator(seed, "cached views", stream, view, step)
    first = torch.randint(slots, (1, count), generator=generator)
    if copies == 1:
        return first
    others = torch.rand((slots - 1, count), generator=generator).argsort(0)[: copies - 1] + 1
    return torch.cat([first, (first + others) % slots])


class FetchFeatures(TrainFetch):
    """Make the batch of a step, with stored features in the place of crops.

    Args:
        *args: Those of :class:`~lightning_ssl.data.loading.fetch.TrainFetch`.
        copies: Stream to view to the number of copies.
        seed: Seed of the draws.
    """

    def __init__(self, *args: Any, copies: Mapping[str, Mapping[str, int]], seed: int) -> None:
        super().__init__(*args)
        self.copies, self.seed = copies, seed
        self._stored: dict[str, Features] = {}
        self._shown = torch.arange(len(self.images))

    def take(self, stored: Mapping[str, Features], broken: npt.NDArray[np.bool_]) -> None:
        """Read from stored features.

        Args:
            stored: Name of a view to its features ``(K, N, F)``.
            broken: Images that could not be read ``(N,)``; the next one of the unlabelled list
                stands in.

        Raises:
            BrokenImageError: If a labelled image is among them, or all unlabelled ones are.
        """
        self._stored = dict(stored)
        self.broken = torch.from_numpy(broken)
        refuse_broken(self.images, self.rows["labeled"], self.broken)
        rows = self.rows["unlabeled"]
        bad, good = rows[self.broken[rows]], rows[~self.broken[rows]]
        if len(bad):
            if not len(good):
                refuse_broken(self.images, rows, self.broken)
            self._shown[bad] = good[torch.searchsorted(good, bad) % len(good)]

    def _views(self, stream: str, rows: Tensor, step: int) -> dict[str, Tensor]:
        shown = (self._shown[rows] if stream == "unlabeled" else rows).numpy()
        rank, world_size, count = self.plan.rank, self.plan.world_size, len(rows)
        views = {}
        for name, copies in self.copies[stream].items():
            stored = self._stored[name]
            keys = (self.seed, stream, name, step)
            slots = draw_slots(*keys, copies=copies, slots=len(stored), count=world_size * count)
            own = slots[:, rank * count : (rank + 1) * count].numpy()
            views[name] = torch.from_numpy(stored[own, shown])
        return views


class DrawFeatures:
    """Bring stored features into the module's dtype, where views would be drawn.

    Args:
        fetch: What made the batches.
    """

    def __init__(self, fetch: FetchFeatures) -> None:
        self.fetch = fetch

    def __call__(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """Convert the views.

        Args:
            batch: A batch of the plan with features ``(copies, B, F)``, float16.
            dtype: Type of the views.
        """
        for stream in ("labeled", "unlabeled"):
            samples = getattr(batch, stream)
            if samples is not None:
                views = {name: values.to(dtype) for name, values in samples.views.items()}
                batch = batch._replace(**{stream: samples._replace(views=views)})
        return batch


@dataclass(frozen=True)
class EvaluationFeatures:
    """Make an evaluation batch of stored features.

    Attributes:
        features: ``(N, F)``.
        targets: Classes ``(N,)``.
    """

    features: Features
    targets: Tensor

    def __call__(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Batch of some images.

        Args:
            indices: Which images ``(B,)``, int64.

        Returns:
            Features ``(B, F)`` float16, targets ``(B,)`` int64, and the indices.
        """
        features = torch.from_numpy(self.features[indices.numpy()])
        return features, self.targets[indices], indices


def refuse_broken(images: Any, rows: Tensor, broken: Tensor) -> None:
    """See that images on which a label or a metric depends could be read.

    Args:
        images: All images.
        rows: Those.
        broken: Which of all could not be read ``(N,)``.

    Raises:
        BrokenImageError: If one could not.
    """
    found = rows[broken[rows]]
    if len(found):
        raise BrokenImageError(images.name(int(found[0])), "it could not be read for its features")


def near_labels(features: Tensor, labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """Find the unlabelled images that are no outliers, and say how many are.

    Args:
        features: Of all images as evaluation sees them ``(N, F)``.
        labeled: Which of them have a label ``(L,)``, two at least.
        unlabeled: Which are looked at ``(U,)``.

    Returns:
        Whether an image is as near to a labelled one as 95 % of these are to each other, ``(U,)``.
    """
    support = features[labeled]
    threshold = outlier_threshold(support)
    near = nearest_label_scores(features[unlabeled], support) >= threshold
    rank_zero_info(
        f"{int((~near).sum())} of {len(near)} unlabelled images count in no loss that predictions "
        f"teach: their outlier score is below {threshold:.3f}."
    )
    return near
