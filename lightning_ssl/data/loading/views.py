"""From a batch that travelled to views on the device."""

import torch
from torch import Tensor

from lightning_ssl.augment import Views
from lightning_ssl.data.loading.fetch import TrainFetch
from lightning_ssl.data.sources.images import ResidentImages
from lightning_ssl.seeding import derive_seed
from lightning_ssl.types import Batch, Samples


class DrawViews:
    """Gather resident pixels and draw the views, both on the batch's device.

    Args:
        fetch: What made the batches.
        views: The views of each stream.
        custom: Whether a view is a function of the user's own. Such a one draws from the global
            generator, which is then seeded by seed, stream, step and rank, so that it resumes too.
    """

    def __init__(self, fetch: TrainFetch, views: Views, custom: bool = False) -> None:
        self.fetch = fetch
        self.views = views
        self.custom = custom
        self._on_device: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """Fill in the views.

        Args:
            batch: A batch of the plan with uint8 crops, or without pixels.
            dtype: Type of the views.
        """
        assert batch.step is not None
        for name in ("labeled", "unlabeled"):
            samples = getattr(batch, name)
            if samples is not None:
                drawn = {name: self._draw(name, samples, batch.step, dtype)}
                batch = batch._replace(**drawn)  # type: ignore[arg-type]  # step is no stream
        return batch

    def _draw(self, stream: str, samples: Samples, step: int, dtype: torch.dtype) -> Samples:
        plan = self.fetch.plan
        if self.custom:
            keys = (self.views.seed, "custom views", stream, step, plan.rank)
            torch.manual_seed(derive_seed(*keys))
        views, drawn = self.views(
            stream,
            self._pixels(stream, samples),
            step,
            rank=plan.rank,
            world_size=plan.world_size,
            dtype=dtype,
        )
        return samples._replace(views=views, drawn=drawn)

    def _pixels(self, stream: str, samples: Samples) -> Tensor | dict[str, Tensor]:
        if not isinstance(self.fetch.images, ResidentImages):
            return samples.views
        assert samples.index is not None
        device = samples.index.device
        pixels = self._at("pixels", self.fetch.images.pixels, device)
        return pixels[self._at(stream, self.fetch.rows[stream], device)[samples.index]]

    def _at(self, name: str, values: Tensor, device: torch.device) -> Tensor:
        """A tensor of the whole training set, moved to the device once."""
        if name not in self._on_device:
            self._on_device[name] = values.to(device)
        return self._on_device[name]
