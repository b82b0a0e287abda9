"""From positions to images, in this process or in workers."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.augment import RandomResizedCrop, Views
from lightning_ssl.data.plan import Plan
from lightning_ssl.data.sources.depth import warn_of_few_levels
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

_RESIDENT_SIDE = 64  # pixels; larger photos are decoded in workers
_RESIDENT_BYTES = 2**31
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
        self.probs = labeled.probs
        self.targets = {"labeled": labeled.target, "unlabeled": images.targets[split.unlabeled]}
        self.images = images
        self.views = views
        self.size = size
        self.kept: Tensor | None = None  # whether an image of the unlabelled list counts; None: all
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
            known = self._samples("labeled", planned.labeled, step)
            probs = None if self.probs is None else self.probs[planned.labeled]
            batch = batch._replace(labeled=known._replace(probs=probs))
        if planned.unlabeled is not None:
            known = self._samples("unlabeled", planned.unlabeled, step)
            batch = batch._replace(unlabeled=self._hide(known))
        return batch

    def _hide(self, known: Samples) -> Samples:
        # A replaced image shows its neighbour, so its own class says nothing.
        hidden = known.target.masked_fill(self.broken[self.rows["unlabeled"][known.index]], -1)
        return Samples(
            known.views,
            hidden_target=hidden if self.any_known else None,
            index=known.index,
            kept=None if self.kept is None else self.kept[known.index],
        )

    def _samples(self, stream: str, index: Tensor, step: int) -> Samples:
        views = self._views(stream, self.rows[stream][index], step)
        return Samples(views, target=self.targets[stream][index], index=index)

    def _views(self, stream: str, rows: Tensor, step: int) -> dict[str, Tensor]:
        if not isinstance(self.images, FileImages):
            return {}
        photos = (self._decode(stream, row) for row in rows.tolist())
        place = {"rank": self.plan.rank, "world_size": self.plan.world_size}
        drawn = self.views.worker_crops(stream, step, **place, batch_size=len(rows))
        crops = {name: self.views.crop(stream, name) for name in drawn}
        center = len(drawn) < self.views.count(stream)
        return cut_views(self.images, photos, self.size, drawn, crops, center)

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


def cut_views(
    images: FileImages,
    photos: Iterable[Image.Image],
    size: int,
    drawn: Mapping[str, Tensor],
    crops: Mapping[str, RandomResizedCrop | None],
    center: bool,
) -> dict[str, Tensor]:
    """Cut the crops of views out of photos, one photo at a time.

    Args:
        images: Where the photos are from.
        photos: The photos, B of them.
        size: Side of the whole image, as evaluation sees it.
        drawn: Name of a view to what was drawn for its crops, ``(copies, B, k)``.
        crops: Name of a view to its crop.
        center: Whether the whole image is wanted, as ``"image"``.

    Returns:
        Name of a view to uint8 ``(copies, B, C, h, w)``; and ``(B, C, size, size)``.
    """
    cut: dict[str, list[Tensor]] = {name: [] for name in drawn}
    whole: list[Tensor] = []
    for place, photo in enumerate(photos):
        for name, numbers in drawn.items():
            crop = crops[name]
            assert crop is not None
            cut[name].append(torch.stack([_cut(photo, crop, n[place]) for n in numbers]))
        if center:
            whole.append(to_tensor(images.center(photo, size)))
    out = {name: torch.stack(parts, 1) for name, parts in cut.items()}
    return {**out, "image": torch.stack(whole)} if center else out


def _cut(photo: Image.Image, crop: RandomResizedCrop, numbers: Tensor) -> Tensor:
    top, left, height, width = crop.box(numbers, photo.height, photo.width)
    # Cut first: `resize(box=...)` would blend pixels beside the box into the border.
    part = photo.crop((left, top, left + width, top + height))
    return to_tensor(part.resize((crop.size, crop.size), Image.Resampling.BILINEAR))


def read_images(
    images: Images, size: int, channels: int, needed: Tensor, replaceable: Tensor | None = None
) -> Images:
    """Decode small images once, into RAM; of others try those on which a label or metric depends.

    Args:
        images: The images; such as are in RAM stay as they are.
        size: Their side as networks see them.
        channels: 3 or 1.
        needed: Which must be readable ``(M,)``, int64.
        replaceable: Whether an image may be replaced by the next one ``(N,)``, bool; None for none.

    Raises:
        BrokenImageError: If one is broken that may not be replaced.
    """
    if not isinstance(images, FileImages):
        return images
    warn_of_few_levels(images)
    if size <= _RESIDENT_SIDE and len(images) * channels * size**2 <= _RESIDENT_BYTES:
        return images.load(size, replace_ok=replaceable)
    check_readable(images, needed)
    return images


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
