"""Compute what is missing: every photo is decoded once for all views and slots of its chunk."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_info
from rich.progress import Progress
from torch import Tensor, nn

from lightning_ssl.augment import Normalize, Transform, Views
from lightning_ssl.augment.base import to_float
from lightning_ssl.data.features.store import CHUNK, Store, Wanted
from lightning_ssl.data.loading.fetch import EvaluationFetch, cut_views
from lightning_ssl.data.sources.images import BrokenImageError, FileImages, Images, ResidentImages

_PIECE = 64  # images that go through the network together; a chunk is drawn as if by ranks of these
_STREAM = "cache"
_TRIED = 8  # images that are embedded again when stored features are taken
_ALIKE = 0.999  # smallest cosine of the two
_SEED = 0  # of the draws; the same for all runs, so that they share the features


@dataclass(frozen=True)
class View:
    """What makes a view of stored features.

    Attributes:
        name: The view's name.
        views: Makes it, as the only view of the only stream.
    """

    name: str
    views: Views

    @classmethod
    def make(
        cls,
        name: str,
        transform: Transform,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "View":
        """Make one by its transform.

        Args:
            name: The view's name.
            transform: What makes it of an image, before the normalisation.
            size: Side of the images in pixels.
            mean: Mean of each channel, in units of [0, 1].
            std: Standard deviation of each channel.
        """
        declared, own = {_STREAM: {name: 1}}, {name: transform}
        return cls(name, Views(declared, size, mean=mean, std=std, overrides=own, seed=_SEED))


class Embed:
    """The frozen network alone, without gradient, in the precision of the run.

    Args:
        module: The method, where it computes.
        trainer: Its trainer, if any.
    """

    def __init__(self, module: Any, trainer: pl.Trainer | None) -> None:
        self._module, self._trainer, self.device = module, trainer, module.device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: Normalised images ``(B, C, H, W)``.

        Returns:
            ``(B, F)``.
        """
        backbone: nn.Module = self._module.backbone
        training = backbone.training
        backbone.eval()
        with ExitStack() as held:
            if self._trainer is not None:
                held.enter_context(self._trainer.precision_plugin.forward_context())
            images = images.to(self._module.dtype, memory_format=torch.channels_last)
            features: Tensor = backbone(images)
        backbone.train(training)
        return features


@dataclass(frozen=True)
class Filler:
    """Compute the features of one list of images.

    A slot is a function of (view, slot, row) alone: chunk c of slot k is drawn as step
    ``k * 2**32 + c`` of a training run, the last one for whole 256 images, too.

    Attributes:
        store: Where they go.
        images: The images.
        size: Side of the images in pixels.
        views: Label to what makes the view.
        embed: The network.
    """

    store: Store
    images: Images
    size: int
    views: Mapping[str, View]
    embed: Embed

    def __call__(
        self, wanted: Wanted, rank: int, world_size: int, workers: int, show: bool
    ) -> None:
        """Compute this rank's share of what is missing.

        Args:
            wanted: What has to be there in the end.
            rank: This process; it takes the chunks congruent to it.
            world_size: Number of processes.
            workers: Threads that decode files.
            show: Whether to show a bar.
        """
        todo = [(chunk, self.store.missing(chunk, wanted)) for chunk in range(self.store.chunks)]
        todo = [(chunk, missing) for chunk, missing in todo[rank::world_size] if missing]
        if not todo:
            return
        start = monotonic()
        with Progress(disable=not show or rank > 0, transient=True) as bar:
            task = bar.add_task("Features", total=len(todo))
            for count, (chunk, missing, pieces) in enumerate(self._fetched(todo, workers), 1):
                broken = [row for piece in pieces for row in self._embed(chunk, missing, *piece)]
                self.store.finish(chunk, missing, np.array(broken, dtype=np.int64))
                bar.advance(task)
                if count == 1 and len(todo) > 1:
                    self._estimate(monotonic() - start, len(todo), len(missing))

    def _estimate(self, seconds: float, chunks: int, slots: int) -> None:
        left = seconds * (chunks - 1)
        took = f"{left / 60:.0f} minutes" if left > 100 else f"{left:.0f} seconds"
        rank_zero_info(
            f"Computing features of {self.store.count} images, {slots} of each, into "
            f"{self.store.folder}: about {took} to go."
        )

    def _fetched(
        self, todo: list[tuple[int, list[tuple[str, int]]]], workers: int
    ) -> Iterator[tuple[int, list[tuple[str, int]], Iterator["_Piece"]]]:
        """Each chunk, and its pieces as they arrive; the next ones are decoded meanwhile."""
        jobs = iter((c, p, m) for c, m in todo for p in range(-(-self._length(c) // _PIECE)))
        waiting: deque[Future[_Piece]] = deque()
        pool = ThreadPoolExecutor(max(1, workers))

        def submit() -> None:
            job = next(jobs, None)
            if job is not None:
                waiting.append(pool.submit(self._fetch, *job))

        def pieces(count: int) -> Iterator[_Piece]:
            for _ in range(count):
                piece = waiting.popleft().result()
                submit()
                yield piece

        try:
            for _ in range(workers + 1):
                submit()
            for chunk, missing in todo:
                yield chunk, missing, pieces(-(-self._length(chunk) // _PIECE))
        finally:
            pool.shutdown(cancel_futures=True)

    def _length(self, chunk: int) -> int:
        return min(CHUNK, self.store.count - chunk * CHUNK)

    def _fetch(self, chunk: int, piece: int, missing: list[tuple[str, int]]) -> "_Piece":
        first = chunk * CHUNK + piece * _PIECE
        rows = range(first, min(first + _PIECE, self.store.count))
        if isinstance(self.images, ResidentImages):
            return piece, rows, {"image": self.images.pixels[rows.start : rows.stop]}, []
        assert isinstance(self.images, FileImages)
        drawn, crops = {}, {}
        for label, slot in missing:
            name, views = self.views[label].name, self.views[label].views
            place = {"rank": piece, "world_size": CHUNK // _PIECE, "batch_size": _PIECE}
            numbers = views.worker_crops(_STREAM, _step(chunk, slot), **place)
            if name in numbers:
                drawn[f"{label} {slot}"] = numbers[name]
                crops[f"{label} {slot}"] = views.crop(_STREAM, name)
        broken: list[int] = []
        center = len(drawn) < len(missing)
        photos = self._photos(self.images, rows, broken)
        return piece, rows, cut_views(self.images, photos, self.size, drawn, crops, center), broken

    def _photos(self, images: FileImages, rows: range, broken: list[int]) -> Iterator[Image.Image]:
        for row in rows:
            try:
                yield images.decode(row)
            except BrokenImageError:
                broken.append(row)
                yield Image.new("RGB" if images.channels == 3 else "L", (8, 8))

    def _embed(
        self,
        chunk: int,
        missing: list[tuple[str, int]],
        piece: int,
        rows: range,
        pixels: dict[str, Tensor],
        broken: list[int],
    ) -> list[int]:
        place = {"rank": piece, "world_size": CHUNK // _PIECE}
        for label, slot in missing:
            name, views = self.views[label].name, self.views[label].views
            crops = pixels.get(f"{label} {slot}")
            images = pixels["image"] if crops is None else crops[0]
            images = torch.cat([images, images[:1].expand(_PIECE - len(images), *images.shape[1:])])
            images = images.to(self.embed.device)
            source = {"image": images} if crops is None else {name: images[None]}
            made, _ = views(_STREAM, source, _step(chunk, slot), **place)
            values = self.embed(made[name][0, : len(rows)]).half().cpu()
            if not values.isfinite().all():
                raise ValueError(
                    "`data.cached_features` must be false where features do not fit into float16, "
                    f"got some above {torch.finfo(torch.float16).max:.0f} or not a number."
                )
            self.store.write(label, slot, rows.start, values.numpy())
        return broken


_Piece = tuple[int, range, dict[str, Tensor], list[int]]


def _step(chunk: int, slot: int) -> int:
    return slot * 2**32 + chunk


def check_true(
    store: Store,
    part: str,
    label: str,
    images: Images,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    embed: Embed,
) -> None:
    """Embed a few images again, and see that what is stored of them is the same.

    Args:
        store: The features.
        part: Which images they are of, for the message.
        label: Of the view that evaluation sees.
        images: The images.
        size: Side of the images in pixels.
        mean: Mean of each channel, in units of [0, 1].
        std: Standard deviation of each channel.
        embed: The network.

    Raises:
        ValueError: If it is not.
    """
    rows = torch.from_numpy(np.flatnonzero(~store.broken))
    rows = rows[:: max(1, len(rows) // _TRIED)][:_TRIED]
    if not len(rows):
        return
    pixels = EvaluationFetch(images, size)(rows)[0].to(embed.device)
    found = embed(Normalize(mean, std)(to_float(pixels), {})).float()
    stored = torch.from_numpy(store.view(label)[0, rows.numpy()]).to(found)
    cosine = torch.cosine_similarity(found, stored)
    both = (found != 0).any(1) | (stored != 0).any(1)
    if (cosine[both] < _ALIKE).any():
        raise ValueError(
            f"`data.features_dir` holds features of the {part} images in '{store.folder}' that "
            "this network does not compute any more, although paths and weights seem the "
            "same: delete that folder."
        )
