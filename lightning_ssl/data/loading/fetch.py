"""From positions to images, in this process or in workers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.augment import Views
from lightning_ssl.data.plan import Plan
from lightning_ssl.data.sources.images import (
    BrokenImageError,
    FileImages,
    Images,
    ResidentImages,
    to_tensor,
)
from lightning_ssl.data.splits.files import LabeledImages
from lightning_ssl.data.splits.make import Split
from lightning_ssl.types import Batch, Samples

_CHECKED = 10_000  # labelled files decoded before training; beyond, an error comes when one is met


class TrainFetch:
    """Make the batch of a step.

    Resident pixels do not travel: the batch holds positions, and the pixels are gathered on the
    device. Files are decoded here; views that begin with a random-resized crop are cropped out of
    the whole photo, so only uint8 crops travel.

    Args:
        plan: Positions of each step.
        split: The labelled and unlabelled lists.
        images: The training images.
        views: The views of each stream.
        size: Image side in pixels.
        labeled: The labelled list, where it is not the split's alone.
    """

    def __init__(
        self,
        plan: Plan,
        split: Split,
        images: Images,
        views: Views,
        size: int,
        labeled: LabeledImages | None = None,
    ) -> None:
        if labeled is None:
            labeled = LabeledImages(split.labeled, images.targets[split.labeled])
        self.plan = plan
        self.rows = {"labeled": labeled.rows, "unlabeled": split.unlabeled}
        self.targets = {"labeled": labeled.target, "unlabeled": images.targets[split.unlabeled]}
        self.images = images
        self.views = views
        self.size = size
        # Of the whole list, so that all ranks and steps agree.
        self.any_known = bool((self.targets["unlabeled"] >= 0).any())
        # Shared by the workers, so that an image met in every epoch is counted once.
        self.broken = torch.zeros(len(images), dtype=torch.bool).share_memory_()

    def __call__(self, step: int) -> Batch:
        """Batch of a step, with uint8 crops or no pixels at all.

        Args:
            step: Step of the run.
        """
        batch, planned = Batch(step), self.plan(step)
        if planned.labeled is not None:
            batch = batch._replace(labeled=self._samples("labeled", planned.labeled, step))
        if planned.unlabeled is not None:
            known = self._samples("unlabeled", planned.unlabeled, step)
            batch = batch._replace(unlabeled=self._hide(known))
        return batch

    def _hide(self, known: Samples) -> Samples:
        # A replaced image shows its neighbour, so its own class says nothing.
        hidden = known.target.masked_fill(self.broken[self.rows["unlabeled"][known.index]], -1)
        return Samples(
            known.views, hidden_target=hidden if self.any_known else None, index=known.index
        )

    def _samples(self, stream: str, index: Tensor, step: int) -> Samples:
        rows = self.rows[stream][index]
        crops = self._crops(stream, rows, step) if isinstance(self.images, FileImages) else {}
        return Samples(crops, target=self.targets[stream][index], index=index)

    def _crops(self, stream: str, rows: Tensor, step: int) -> dict[str, Tensor]:
        photos = [self._decode(stream, row) for row in rows.tolist()]
        drawn = self.views.worker_crops(
            stream, step, self.plan.rank, self.plan.world_size, len(photos)
        )
        crops = {name: self._crop(stream, name, photos, d) for name, d in drawn.items()}
        if len(drawn) < self.views.count(stream):
            crops["image"] = torch.stack([self._center(p) for p in photos])
        return crops

    def _center(self, photo: Image.Image) -> Tensor:
        assert isinstance(self.images, FileImages)
        return to_tensor(self.images.center(photo, self.size))

    def _crop(self, stream: str, name: str, photos: list[Image.Image], drawn: Tensor) -> Tensor:
        crop = self.views.crop(stream, name)
        assert crop is not None
        size = (crop.size, crop.size)
        copies = []
        for copy in drawn:
            crops = []
            for photo, numbers in zip(photos, copy, strict=True):
                top, left, height, width = crop.box(numbers, photo.height, photo.width)
                # Cut first: `resize(box=...)` would blend pixels beside the box into the border.
                cut = photo.crop((left, top, left + width, top + height))
                crops.append(to_tensor(cut.resize(size, Image.Resampling.BILINEAR)))
            copies.append(torch.stack(crops))
        return torch.stack(copies)

    def _decode(self, stream: str, row: int) -> Image.Image:
        assert isinstance(self.images, FileImages)
        if stream == "labeled":
            return self.images.decode(row)
        rows = self.rows["unlabeled"]
        position = int(torch.searchsorted(rows, row))
        for shift in range(len(rows)):
            candidate = int(rows[(position + shift) % len(rows)])
            if not self.broken[candidate]:
                try:
                    return self.images.decode(candidate)
                except BrokenImageError:
                    self.broken[candidate] = True
        raise BrokenImageError(self.images.name(row), "so are all images of the unlabelled list")

    def report_broken(self) -> None:
        """Warn about the unreadable unlabelled images met so far."""
        rows = torch.nonzero(self.broken).flatten().tolist()
        if rows:
            rank_zero_warn(
                f"{len(rows)} unlabelled images could not be read and were replaced by their "
                f"neighbours in the list. The first: "
                f"{', '.join(self.images.name(row) for row in rows[:5])}."
            )


def check_readable(images: FileImages, rows: Tensor) -> None:
    """Decode labelled images once before training starts, where that takes seconds.

    Args:
        images: The images.
        rows: Which of them to try; of long lists none.

    Raises:
        BrokenImageError: If one cannot be read.
    """
    if len(rows) <= _CHECKED:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda row: images.decode(row).size, rows.tolist()):
                pass


@dataclass(frozen=True)
class EvaluationFetch:
    """Make the batch of some indices: uint8 images, targets unless predicting, and the indices.

    Attributes:
        images: The images.
        size: Image side in pixels.
        with_target: Whether the batch carries targets.
    """

    images: Images
    size: int
    with_target: bool = True

    def __call__(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Batch of some images.

        Args:
            indices: Which images ``(B,)``, int64.

        Returns:
            Images ``(B, C, H, W)`` uint8, targets ``(B,)`` int64 (unless predicting), indices.
            When predicting, unreadable images are left out.
        """
        if isinstance(self.images, FileImages):
            pixels, indices = self._decode(self.images, indices)
        else:
            assert isinstance(self.images, ResidentImages)
            pixels = self.images.pixels[indices]
        if self.with_target:
            return pixels, self.images.targets[indices], indices
        return pixels, indices

    def _decode(self, images: FileImages, indices: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(indices), images.channels, self.size, self.size)
        pixels, readable = torch.empty(shape, dtype=torch.uint8), []
        for row, index in enumerate(indices.tolist()):
            try:
                pixels[row] = to_tensor(images.center(images.decode(index), self.size))
                readable.append(row)
            except BrokenImageError:
                if self.with_target:  # a metric over fewer images would be another metric
                    raise
        return pixels[readable], indices[readable]
