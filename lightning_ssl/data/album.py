"""What people look at in a report: how many images there are of what, some of them, their views."""

from copy import copy
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from lightning_ssl.data.described import DescribedData
from lightning_ssl.data.features.draw import DrawFeatures
from lightning_ssl.data.loading.views import DrawViews
from lightning_ssl.data.plan import PlannedStep
from lightning_ssl.data.sources.images import (
    BrokenImageError,
    FileImages,
    Images,
    ResidentImages,
    to_tensor,
)
from lightning_ssl.data.sources.named import base_folder

SIDE = 96
"""Longest side of a picture in pixels."""


class Shown(NamedTuple):
    """An image to look at.

    Attributes:
        name: Its path below the folder of the data, or its index.
        target: Its class; None where it is shown without.
        pixels: What evaluation sees of it ``(C, H, W)``, uint8, of at most 96 pixels a side; None
            where it cannot be read.
        views: Name of a view to what training saw ``(copies, C, h, w)``, uint8.
    """

    name: str
    target: int | None
    pixels: Tensor | None
    views: dict[str, Tensor]


class Album:
    """Numbers and pictures of the data of a run.

    Args:
        data: The data.
        draw: What makes its views; None where nothing was trained.
    """

    def __init__(self, data: DescribedData, draw: DrawViews | DrawFeatures | None) -> None:
        self.data, self._draw = data, draw

    @property
    def has_stored_features(self) -> bool:
        """Whether training saw stored features in the place of views."""
        return isinstance(self._draw, DrawFeatures)

    def facts(self) -> dict[str, Any]:
        """What the data is: name, folder, classes and the form of its images."""
        data = self.data
        return {
            "dataset": data.dataset,
            "root": data.root,
            "classes": list(data.classes),
            "image_size": data.image_size,
            "channels": data.in_channels,
            "labels": len(data.split.labeled),
        }

    def counts(self) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Images of each class and of no known class, by what they are for.

        Returns:
            ``labeled``, ``pseudo`` (with a pseudo-label), ``unlabeled``, ``val`` and ``test``,
            where there are such.
        """
        data, source = self.data, self.data.source
        train = source.train.targets
        parts = {"labeled": train[data.split.labeled]}
        if data.pseudo is not None:
            parts["pseudo"] = data.pseudo.target
        if len(data.split.unlabeled):
            parts["unlabeled"] = train[data.split.unlabeled]
        for stage in ("val", "test"):
            found = self._held_out(stage)
            if found is not None:
                images, rows = found
                parts[stage] = images.targets if rows is None else images.targets[rows]
        known = {
            part: torch.bincount(target[target >= 0], minlength=data.num_classes).tolist()
            for part, target in parts.items()
        }
        unknown = {part: int((target < 0).sum()) for part, target in parts.items()}
        return known, unknown

    def _held_out(self, stage: str) -> tuple[Images, Tensor | None] | None:
        """Images of a stage, and which of them it has; None for all."""
        source, split = self.data.source, self.data.split
        if stage == "test":
            return None if source.test is None else (source.test, None)
        if source.val is not None:
            return source.val, None
        return (source.train, split.val) if len(split.val) else None

    def labeled_classes(self, count: int) -> Tensor:
        """Classes of labelled images, evenly spread over their list.

        Args:
            count: How many.

        Returns:
            ``(count,)``, int64; of those that ``sample_dataloader`` gives, in the same order.
        """
        rows = self.data.split.labeled
        kept = torch.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=torch.float64)
        return self.data.source.train.targets[rows[kept.long()]]

    def evaluated(self, stage: str, index: int) -> Shown:
        """An image of an evaluation.

        Args:
            stage: ``val`` or ``test``.
            index: Its index in the batch of the evaluation.
        """
        found = self._held_out(stage)
        images = self.data.source.train if found is None else found[0]
        return self._shown(images, index, None)

    def examples(self, each: int, classes: int, unlabeled: int) -> list[Shown]:
        """Some labelled images of each class, then some unlabelled ones.

        Args:
            each: Images of a class.
            classes: Classes of which some are shown.
            unlabeled: Unlabelled images.
        """
        images, split = self.data.source.train, self.data.split
        target = images.targets[split.labeled]
        out = []
        for number in range(min(classes, self.data.num_classes)):
            rows = split.labeled[target == number][:each]
            out += [self._shown(images, row, number) for row in rows.tolist()]
        return out + [self._shown(images, row, None) for row in self._spread(unlabeled)]

    def _spread(self, count: int) -> list[int]:
        rows = self.data.split.unlabeled
        kept = torch.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=torch.float64)
        found: list[int] = rows[kept.long()].tolist()
        return found

    def views(self, count: int, device: torch.device) -> dict[str, list[Shown]]:
        """Views of some images, as a step would draw them.

        Args:
            count: Images of each stream.
            device: Where training drew them.

        Returns:
            Stream to images; nothing where nothing was trained.
        """
        if self._draw is None:
            return {}
        fetch = copy(self._draw.fetch)
        chosen = {
            stream: torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()
            for stream, rows in fetch.rows.items()
            if getattr(fetch.plan, stream) is not None and len(rows)
        }
        drawn: dict[str, dict[str, Tensor]] = {}
        if isinstance(self._draw, DrawViews):
            few: Any = _Few(chosen.get("labeled"), chosen.get("unlabeled"))
            fetch.plan = few
            draw = copy(self._draw)  # which has the pixels of small images on the device
            draw.fetch = fetch
            with torch.random.fork_rng(devices=[]):
                batch = draw(move_data_to_device(fetch(0), device), torch.float32)
            drawn = {stream: getattr(batch, stream).views for stream in chosen}
        return {
            stream: [
                self._shown(
                    self.data.source.train,
                    int(fetch.rows[stream][position]),
                    None,
                    {name: self._bytes(v[:, place]) for name, v in drawn.get(stream, {}).items()},
                )
                for place, position in enumerate(positions)
            ]
            for stream, positions in chosen.items()
        }

    def _bytes(self, views: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.data.mean, self.data.std))
        return ((views.cpu() * std + mean).clamp(0, 1) * 255).round().byte()

    def _shown(
        self,
        images: Images,
        index: int,
        target: int | None,
        views: dict[str, Tensor] | None = None,
    ) -> Shown:
        name = images.name_below(base_folder(self.data.dataset, self.data.root), index)
        return Shown(name, target, self._pixels(images, index), views or {})

    def _pixels(self, images: Images, index: int) -> Tensor | None:
        if isinstance(images, ResidentImages):
            return images.pixels[index]
        assert isinstance(images, FileImages)
        try:
            photo = images.decode(index, least_side=2 * SIDE)
            return to_tensor(images.center(photo, min(self.data.image_size, SIDE)))
        except BrokenImageError:
            return None


class _Few(NamedTuple):
    """A plan of one step with some images."""

    labeled: Tensor | None = None
    unlabeled: Tensor | None = None
    rank: int = 0
    world_size: int = 1

    def __call__(self, step: int) -> PlannedStep:
        return PlannedStep(self.labeled, self.unlabeled)
