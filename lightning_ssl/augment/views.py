"""From uint8 images to the named views a method asks for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_ssl.augment.base import Compose, Custom, Transform, take
from lightning_ssl.augment.crops import RandomResizedCrop
from lightning_ssl.augment.presets import PRESETS, preset
from lightning_ssl.augment.transforms import Normalize
from lightning_ssl.checks import check_count
from lightning_ssl.seeding import make_generator

Override = Transform | Callable[[Tensor], Tensor]


class View(NamedTuple):
    """A view that a method makes with a transform of its own; what that drew is returned.

    Attributes:
        transform: The transform.
        copies: Views of each image, at least 1.
        after: The preset or override that comes first, such as ``weak``; None for the image itself.
    """

    transform: Transform
    copies: int = 1
    after: str | None = None


Declared = int | Transform | View
"""What a method says of a view."""


class Views(nn.Module):
    """Turn uint8 images into normalised float views, for the whole batch, on its device.

    Draws are a function of seed, stream, view and step, made on the CPU for the batch of all
    ranks and cut: W ranks see what one would. No method waits for the device.

    Args:
        views: What a method declares: stream to view to the number of copies, such as
            ``{"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 1}}``. Instead of a number
            a :class:`View` may stand, or for one copy its :class:`Transform` alone.
        size: Side of the images in pixels.
        mean: Mean of each channel, in units of [0, 1].
        std: Standard deviation of each channel.
        hflip: Whether a horizontal flip keeps the label.
        overrides: Pipelines that replace presets, by view, in all streams. A function that is not a
            :class:`Transform` takes float images in [0, 1], ``(N, C, H, W)``, and returns the same.
        seed: Seed of everything drawn.
        multiple: What the side of a small crop is a multiple of, see :func:`preset`.

    Raises:
        ValueError: If a number of copies is below 1, a view is no preset and not overridden, or an
            override is of a view that no stream declares or that the method owns.
    """

    def __init__(
        self,
        views: Mapping[str, Mapping[str, Declared]],
        size: int,
        *,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        hflip: bool = True,
        overrides: Mapping[str, Override] | None = None,
        seed: int = 0,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.seed = seed
        normalize = Normalize(mean, std)
        overrides = overrides or {}
        _check(views, overrides)
        multicrop = any("local" in declared for declared in views.values())

        def named(name: str) -> Transform:
            if name not in overrides:
                return preset(name, size, hflip=hflip, multicrop=multicrop, multiple=multiple)
            override = overrides[name]
            return override if isinstance(override, Transform) else Custom(override)

        def pipeline(name: str, value: Declared) -> _Pipeline:
            own, copies, first = _parts(name, value)
            return _pipeline(copies, [] if first is None else [named(first)], normalize, own)

        # Not a ModuleDict: a method's own transform stays registered with the method alone.
        self._pipelines = {
            stream: {name: pipeline(name, value) for name, value in declared.items()}
            for stream, declared in views.items()
        }

    def forward(
        self,
        stream: str,
        images: Tensor | Mapping[str, Tensor],
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Make the views of one stream.

        Args:
            stream: A stream of ``views``.
            images: Bytes ``(B, C, size, size)`` on any device; or, where workers cut the crops, a
                mapping from each view with a leading random-resized crop to its crops, uint8
                ``(copies, B, C, h, w)``, and from ``"image"`` to ``(B, C, size, size)`` for the
                other views.
            step: The plan's step.
            rank: This rank; its images are ``[rank * B, (rank + 1) * B)`` of the global batch.
            world_size: Number of ranks.
            dtype: Of the views.

        Returns:
            View to images ``(copies, B, C, h, w)``, normalised; and view to what was drawn, for the
            transforms that the method owns, on the CPU.

        Raises:
            ValueError: If the stream is not declared or the images of a view are missing.
        """
        out: dict[str, Tensor] = {}
        kept: dict[str, Any] = {}
        for name, view in self._stream(stream).items():
            source, first = _source(images, name, view)
            copies, batch = source.shape[:2]
            generator = make_generator(self.seed, "views", stream, name, step)
            drawn = view.transform.draw(copies * batch * world_size, generator)
            drawn = take(drawn, _rank_rows(copies, batch, rank, world_size))
            if view.own is not None:
                kept[name] = view.own_draws(drawn)
            drawn = {**drawn, str(len(view.pipeline.transforms) - 1): {}}  # of the normalisation
            result = view.pipeline.apply_from(first, source.flatten(0, 1), drawn).to(dtype)
            out[name] = result.view(copies, batch, *result.shape[1:])
        return out, kept

    def worker_crops(
        self, stream: str, step: int, rank: int, world_size: int, batch_size: int
    ) -> dict[str, Tensor]:
        """Draw what :meth:`forward` will draw for the crops that workers can cut.

        Args:
            stream: A stream of ``views``.
            step: The plan's step.
            rank: This rank.
            world_size: Number of ranks.
            batch_size: Images of this rank, B.

        Returns:
            Each view with a leading random-resized crop to uniforms, float32 ``(copies, B, k)``, a
            row of which :meth:`RandomResizedCrop.box` of :meth:`crop` turns into a box.
        """
        out = {}
        for name, view in self._stream(stream).items():
            if view.crop is None:
                continue
            generator = make_generator(self.seed, "views", stream, name, step)
            # The leading transform draws first, so its draws do not depend on the others.
            drawn = view.crop.draw(view.copies * batch_size * world_size, generator)["crop"]
            rows = drawn[_rank_rows(view.copies, batch_size, rank, world_size)]
            out[name] = rows.view(view.copies, batch_size, -1)
        return out

    def count(self, stream: str) -> int:
        """Return the number of views of a stream.

        Raises:
            ValueError: If the stream is not declared.
        """
        return len(self._stream(stream))

    def crop(self, stream: str, name: str) -> RandomResizedCrop | None:
        """Return the random-resized crop that a view begins with; None if it does not.

        Raises:
            ValueError: If the stream or the view is not declared.
        """
        views = self._stream(stream)
        if name not in views:
            raise ValueError(
                f"`name` must be one of the views {tuple(views)} of {stream!r}, got {name!r}."
            )
        return views[name].crop

    def transform(self, stream: str, name: str) -> Compose:
        """Return what makes a view, but for the normalisation.

        Args:
            stream: A stream of ``views``.
            name: A view of it.
        """
        return self._stream(stream)[name].transform

    def _stream(self, stream: str) -> dict[str, "_Pipeline"]:
        if stream not in self._pipelines:
            raise ValueError(f"`stream` must be one of {tuple(self._pipelines)}, got {stream!r}.")
        return self._pipelines[stream]


class _Pipeline(NamedTuple):
    copies: int
    transform: Compose
    pipeline: Compose
    """The transform and the normalisation."""
    crop: RandomResizedCrop | None
    """The leading crop, which workers may cut."""
    start: int
    """Where the method's own transform starts."""
    own: Transform | None
    """The transform that the method owns; it wants to know what that drew."""

    def own_draws(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Find what the method's own transform drew, as it drew it."""
        if not isinstance(self.own, Compose):
            return cast(dict[str, Any], drawn[str(self.start)])
        return {str(i): drawn[str(self.start + i)] for i in range(len(self.own.transforms))}


def _pipeline(
    copies: int, before: list[Transform], normalize: Normalize, own: Transform | None = None
) -> _Pipeline:
    transform = Compose([*before, *([] if own is None else [own])])
    first = next(iter(transform), None)
    crop = first if isinstance(first, RandomResizedCrop) else None
    pipeline, start = Compose([transform, normalize]), len(Compose(before).transforms)
    return _Pipeline(copies, transform, pipeline, crop, start, own)


def _parts(name: str, value: Declared) -> tuple[Transform | None, int, str | None]:
    """The method's own transform, the number of copies, and the name of what comes first."""
    if isinstance(value, int):
        return None, value, name
    return value if isinstance(value, View) else View(value)


def _source(
    images: Tensor | Mapping[str, Tensor], name: str, view: _Pipeline
) -> tuple[Tensor, int]:
    """Find a view's images ``(copies, B, C, h, w)`` and the first transform they still need."""
    if not isinstance(images, Tensor):
        if name in images and view.crop is not None:
            return images[name], 1
        if "image" not in images:
            raise ValueError(
                f"`images` must hold crops for the view {name!r} or 'image', got {tuple(images)}."
            )
        images = images["image"]
    return images.expand(view.copies, *images.shape), 0


def _rank_rows(copies: int, batch: int, rank: int, world_size: int) -> Tensor:
    """Rows of the global ``(copies, world_size * batch)`` draws that belong to a rank."""
    rows = torch.arange(copies * world_size * batch).view(copies, world_size, batch)
    return rows[:, rank].flatten()


def _check(views: Mapping[str, Mapping[str, Declared]], overrides: Mapping[str, Override]) -> None:
    parts = [(name, *_parts(name, value)) for v in views.values() for name, value in v.items()]
    owned = {name for name, own, _, _ in parts if own is not None}
    declared = {name for name, _, _, _ in parts} | {first for *_, first in parts if first}
    unknown, taken = set(overrides) - declared, set(overrides) & owned
    if unknown:
        raise ValueError(
            "`overrides` (`data.views`) must name views that the method declares, "
            f"{tuple(sorted(declared))}, got {tuple(sorted(unknown))}."
        )
    if taken:
        raise ValueError(
            f"`overrides` must not name views whose transform is the method's own, "
            f"{tuple(sorted(owned))}, got {tuple(sorted(taken))}."
        )
    for stream, names in views.items():
        for name, value in names.items():
            _, copies, made = _parts(name, value)
            check_count(f"views[{stream!r}][{name!r}]", copies)
            if made not in (None, *PRESETS, *overrides):
                raise ValueError(
                    f"`views[{stream!r}]` must name presets {PRESETS} or `overrides` "
                    f"{tuple(sorted(overrides))}, got {made!r}."
                )
