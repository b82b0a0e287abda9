"""What every batched random transform is, and how they combine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_ssl.checks import check_fraction

_CHUNK = 3 * 64 * 32 * 32
"""Values of the images worked on at once on a CPU: 0.8 MB of floats, about one core's L2 cache."""


class Transform(nn.Module):
    """A transform of a batch of images whose parameters differ from image to image.

    Drawing is separate from applying: :meth:`draw` needs no image and runs on the CPU, so the same
    seed gives the same views on every device, and group sizes are known to the host, so that
    :meth:`forward` never waits for the device.
    """

    takes_uint8 = False
    """Whether :meth:`forward` accepts uint8 images; others are given floats by `Compose`."""

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw the parameters of ``n`` images.

        Args:
            n: Number of images.
            generator: The CPU generator to draw from; no other source of randomness is used.

        Returns:
            Nested dicts of CPU tensors with ``n`` rows each; empty if nothing is random.
        """
        return {}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply what was drawn; pure: ``images`` is left as it is.

        Args:
            images: Floats in [0, 1], ``(N, C, H, W)``, C 1 or 3, on any device; or uint8 where
                :attr:`takes_uint8`.
            drawn: What :meth:`draw` returned for these images, on the CPU.

        Returns:
            ``images`` itself or a new tensor, never a view of ``images``.
        """
        raise NotImplementedError

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Like :meth:`forward`, but may destroy ``images``, which saves a copy."""
        return cast(Tensor, self(images, drawn))


class Compose(Transform):
    """Transforms one after the other.

    The conversion of uint8 to float32 in [0, 1] happens before the first transform that needs it,
    because flips and crops are four times cheaper on bytes. A nested `Compose` is flattened.

    Args:
        transforms: What to apply, first to last.
    """

    takes_uint8 = True

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        flat: list[Transform] = []
        for transform in transforms:
            flat += list(transform) if isinstance(transform, Compose) else [transform]
        self.transforms = nn.ModuleList(flat)

    def __iter__(self) -> Any:
        """Go through the transforms, first to last."""
        return iter(self.transforms)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw for each transform in order; the keys are ``"0"``, ``"1"`` and so on."""
        return {str(i): t.draw(n, generator) for i, t in enumerate(self)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply every transform. See :meth:`Transform.forward`."""
        return self.apply_from(0, images, drawn)

    def apply_from(self, first: int, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the transforms from position ``first`` on."""
        owned = False
        for i, transform in enumerate(self):
            if i < first:
                continue
            if images.dtype == torch.uint8 and not transform.takes_uint8:
                images, owned = to_float(images), True
            step = transform.overwrite if owned else transform
            out = step(images, drawn[str(i)])
            # A user's function may return what it keeps.
            owned = (owned or out is not images) and not isinstance(transform, Custom)
            images = out
        return images


class RandomApply(Transform):
    """Apply a transform to each image with a probability, and only to the images that drew it.

    Args:
        transform: The transform; it must keep the images' shape and dtype.
        p: Probability in [0, 1].

    Raises:
        ValueError: If ``p`` is outside [0, 1].
    """

    def __init__(self, transform: Transform, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_fraction("p", p)
        self.transform = transform
        self.takes_uint8 = transform.takes_uint8

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``apply``, bool ``(n,)``, and the transform's own parameters for all images."""
        apply = torch.rand(n, generator=generator) < self.p
        return {"apply": apply, "transform": self.transform.draw(n, generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply to the rows that drew it. See :meth:`Transform.forward`."""
        return self.overwrite(images.clone(), drawn)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Write the transformed rows into ``images``."""
        rows = drawn["apply"].nonzero().flatten()  # on the host, so nothing waits for a device
        if len(rows) == 0:
            return images
        where = move(rows, images)
        part = self.transform.overwrite(
            images.index_select(0, where), take(drawn["transform"], rows)
        )
        return images.index_copy_(0, where, part)


class Custom(Transform):
    """A user's own function as a transform; it brings its own randomness, if any.

    Args:
        function: Maps float images in [0, 1], ``(N, C, H, W)``, to the same. What it draws from
            the global generator is not a function of the seed and the step.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Call the function. See :meth:`Transform.forward`."""
        return self.function(images)


SlotFunction = Callable[[Tensor, Tensor, int], Tensor]


def apply_slots(
    images: Tensor,
    choice: Tensor,
    functions: Sequence[SlotFunction | None],
    overwrite: bool = False,
) -> Tensor:
    """Run a sequence of operations that differs from image to image.

    In each slot, images are sorted by the operation they drew, so that every operation runs once,
    on a contiguous part of the batch; one gather per slot brings the images into the next order.

    Args:
        images: Images ``(N, C, H, W)``.
        choice: The operation of each image in each slot, int64 ``(N, S)`` in
            ``[0, len(functions))``, on the CPU.
        functions: Operations, called as ``function(images, rows, slot)`` with their images
            ``(M, C, H, W)`` and the rows of the batch these came from, int64 ``(M,)`` on the CPU,
            to look parameters up. They must keep shape and dtype and return a new tensor or their
            input. None keeps its images as they are.
        overwrite: Whether ``images`` may be destroyed, which saves memory.

    Returns:
        Images ``(N, C, H, W)``, in the order of the input.
    """
    n, slots = choice.shape
    if n == 0 or slots == 0:
        return images
    size = chunk_size(images)
    place = torch.arange(n)  # where each image of the batch lies in `images` now
    # Two buffers in turn: fresh memory for every slot costs more than most operations.
    spare = images if overwrite and images.is_contiguous() else None
    buffers = [torch.empty_like(images, memory_format=torch.contiguous_format)]
    buffers.append(torch.empty_like(buffers[0]) if spare is None else spare)
    for slot in range(slots):
        order = choice[:, slot].argsort(stable=True)
        counts = choice[:, slot].bincount(minlength=len(functions)).tolist()
        target = buffers[slot % 2]
        groups = zip(
            functions, torch.split(order, counts), torch.split(target, counts), strict=True
        )
        for function, rows, out in groups:
            source = move(place[rows], images)
            if function is None:
                torch.index_select(images, 0, source, out=out)
                continue
            pieces = (torch.split(x, size) for x in (rows, source, out) if len(rows) > 0)
            for where, part, piece in zip(*pieces, strict=True):
                piece.copy_(function(images.index_select(0, part), where, slot))
        images = target
        place = torch.empty_like(order).scatter_(0, order, torch.arange(n))
    return torch.index_select(images, 0, move(place, images), out=buffers[slots % 2])


def chunk_size(images: Tensor) -> int:
    """How many images to work on at once: on a CPU, what fits into a core's cache."""
    if images.device.type != "cpu":
        return len(images)
    return max(1, _CHUNK // max(1, images[0].numel()))


def in_chunks(function: Callable[..., Tensor], images: Tensor, *values: Tensor) -> Tensor:
    """Call ``function(images, *values)`` on parts of :func:`chunk_size` images.

    Args:
        function: Treats each image by itself.
        images: Images ``(N, C, H, W)``.
        *values: Tensors with N rows each.
    """
    size = chunk_size(images) if len(images) > 0 else 1
    if len(images) <= size:
        return function(images, *values)
    out, start = None, 0
    for parts in zip(*(torch.split(x, size) for x in (images, *values)), strict=True):
        result = function(*parts)
        if out is None:
            out = result.new_empty(len(images), *result.shape[1:])
        out[start : start + len(result)] = result
        start += len(result)
    return cast(Tensor, out)


def move(values: Tensor, like: Tensor) -> Tensor:
    """Move host values to the device of ``like`` without waiting; floats also to its dtype."""
    dtype = like.dtype if values.is_floating_point() and like.is_floating_point() else values.dtype
    return values.to(device=like.device, dtype=dtype, non_blocking=True)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Shape host values ``(N,)`` so that they broadcast over images: ``(N, 1, 1, 1)``."""
    return move(values, images).view(-1, 1, 1, 1)


def take(drawn: Mapping[str, Any], rows: Tensor | slice) -> dict[str, Any]:
    """Select rows of every tensor in nested dicts."""
    return {
        name: take(value, rows) if isinstance(value, Mapping) else value[rows]
        for name, value in drawn.items()
    }


def to_float(images: Tensor, scale: bool = True) -> Tensor:
    """Convert uint8 images to float32, in [0, 1] if ``scale``; floats stay as they are."""
    if images.dtype != torch.uint8:
        return images
    floats = images.to(torch.float32)
    return floats.div_(255) if scale else floats


def check_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    """Raise a `ValueError` unless ``low <= value[0] <= value[1] <= high``."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ValueError(
            f"`{name}` must be an increasing pair in [{low}, {high}], got {tuple(value)}."
        )
