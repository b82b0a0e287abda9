"""RandAugment with the pool of FixMatch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from lightning_ssl.augment import color, filters, geometry, tone
from lightning_ssl.augment.base import SlotFunction, Transform, apply_slots
from lightning_ssl.augment.transforms import Op
from lightning_ssl.checks import check_fraction

PoolName = Literal["paper", "google", "torchssl"]
_GREY = 0.5


def identity(images: Tensor) -> Tensor:
    """Return the images."""
    return images


def fixmatch_pool() -> tuple[Op, ...]:
    """List the 14 operations of FixMatch (appendix of arXiv 2001.07685) with the paper's ranges.

    Thresholds of 0…256 on bytes are 0…256/255 here; bits are the integers 4 to 8.
    """
    return (
        Op(tone.autocontrast),
        Op(color.brightness, 0.05, 0.95),
        Op(color.color, 0.05, 0.95),
        Op(color.contrast, 0.05, 0.95),
        Op(tone.equalize),
        Op(identity),
        Op(tone.posterize, 4, 9),  # the fraction is cut off
        Op(geometry.rotate, -30, 30),
        Op(filters.sharpness, 0.05, 0.95),
        Op(geometry.shear_x, -0.3, 0.3),
        Op(geometry.shear_y, -0.3, 0.3),
        Op(tone.solarize, 0, 256 / 255),
        Op(geometry.translate_x, -0.3, 0.3),
        Op(geometry.translate_y, -0.3, 0.3),
    )


def torchssl_pool() -> tuple[Op, ...]:
    """List the operations as TorchSSL and USB run them: 4 to 7 bits where the paper has 4 to 8."""
    bits = Op(tone.posterize, 4, 8)
    return tuple(bits if op.function is tone.posterize else op for op in fixmatch_pool())


class _Graded(Op):
    """An operation at one of the levels 1 to 9 of 10, as google-research/fixmatch draws it.

    Args:
        function: See :class:`Op`.
        most: What level 10 would add to ``start``.
        start: Magnitude of level 0.
        whole: Whether the share of ``most`` is cut to a whole number.
        signed: Whether ``most`` is taken off as often as it is added.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        most: float,
        start: float = 0.0,
        whole: bool = False,
        signed: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(function, start, start + most, name)
        self.most, self.start, self.whole, self.signed = most, start, whole, signed

    def magnitude(self, uniform: Tensor) -> Tensor:
        """Map uniforms in [0, 1) to the magnitudes of the levels, each equally likely."""
        step = (18 * uniform).floor().clamp(max=17)
        share = abs(self.most) * (1 + step % 9) / 10
        share = share.floor() if self.whole else share
        down = step >= 9 if self.signed else torch.full_like(step, self.most < 0).bool()
        return self.start + share.where(~down, -share)


def google_pool() -> tuple[Op, ...]:
    """List the operations as the code of google-research/fixmatch has them.

    Magnitudes on a grid of nine levels, of the four enhancements on either side of 1, shifts of 1
    to 9 pixels whatever the side, 1 to 4 bits, and grey where an image was moved away.
    """
    grey = {f.__name__: partial(f, fill=_GREY) for f in (geometry.rotate, *_SHEARS, *_SHIFTS)}
    return (
        Op(tone.autocontrast),
        *(_Graded(f, 1.8, 0.1) for f in (color.brightness, color.color, color.contrast)),
        Op(tone.equalize),
        Op(identity),
        _Graded(tone.posterize, -4, 4, whole=True),
        _Graded(grey["rotate"], 30, whole=True, signed=True, name="rotate"),
        _Graded(filters.sharpness, 1.8, 0.1),
        *(_Graded(grey[f.__name__], 0.3, signed=True, name=f.__name__) for f in _SHEARS),
        _Graded(_solarize_bytes, -256, 256, whole=True, name="solarize"),
        *(
            _Graded(grey[f.__name__], 10, whole=True, signed=True, name=f.__name__[1:])
            for f in _SHIFTS
        ),
    )


def _solarize_bytes(images: Tensor, threshold: Tensor) -> Tensor:
    return tone.solarize(images, threshold / 255)


def _translate_x(images: Tensor, pixels: Tensor, fill: float) -> Tensor:
    return geometry.translate_x(images, pixels / images.shape[3], fill)


def _translate_y(images: Tensor, pixels: Tensor, fill: float) -> Tensor:
    return geometry.translate_y(images, pixels / images.shape[2], fill)


_SHEARS, _SHIFTS = (geometry.shear_x, geometry.shear_y), (_translate_x, _translate_y)
_POOLS = {"paper": fixmatch_pool, "google": google_pool, "torchssl": torchssl_pool}


class RandAugment(Transform):
    """Apply operations drawn from a pool, with magnitudes uniform in each operation's range.

    This is FixMatch's RandAugment (arXiv 2001.07685): no global magnitude, operations drawn with
    replacement. It is *not* torchvision's class of that name, whose pool and magnitudes differ.

    Args:
        num_ops: Operations per image; TorchSSL and USB have 3.
        probability: Probability in [0, 1] that a drawn operation is applied; FixMatch's authors
            state 1 (google-research/fixmatch#65), their code has 0.5.
        pool: The operations: those of the ``paper`` with its ranges, as :func:`fixmatch_pool`
            lists them, those of ``google``, google-research/fixmatch, with magnitudes of their own
            and grey borders, those of ``torchssl``, TorchSSL and USB, or others.

    Raises:
        ValueError: If ``num_ops`` is negative, ``probability`` is outside [0, 1], or the pool is
            unknown or empty.
    """

    def __init__(
        self,
        num_ops: int = 2,
        probability: float = 1.0,
        pool: PoolName | Sequence[Op] = "paper",
    ) -> None:
        super().__init__()
        if num_ops < 0:
            raise ValueError(f"`num_ops` must be at least 0, got {num_ops}.")
        self.num_ops = num_ops
        self.probability = check_fraction("probability", probability)
        if isinstance(pool, str):
            if pool not in _POOLS:
                raise ValueError(f"`pool` must be one of {get_args(PoolName)}, got {pool!r}.")
            pool = _POOLS[pool]()
        self.pool = torch.nn.ModuleList(pool)
        if len(self.pool) == 0:
            raise ValueError("`pool` must hold at least one operation, got none.")

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw the operations of ``n`` images.

        Returns:
            ``op``: int64 ``(n, num_ops)``, positions in the pool, -1 where none is applied;
            ``level``: float32 ``(n, num_ops)``, uniform in [0, 1), mapped to the range of the op.
        """
        shape = (n, self.num_ops)
        op = torch.randint(len(self.pool), shape, generator=generator)
        level = torch.rand(shape, generator=generator)
        applied = torch.rand(shape, generator=generator) < self.probability
        return {"op": op.where(applied, -1), "level": level}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations, slot after slot. See :meth:`Transform.forward`."""
        return self._apply_all(images, drawn, overwrite=False)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations and reuse the memory of ``images``."""
        return self._apply_all(images, drawn, overwrite=True)

    def _apply_all(self, images: Tensor, drawn: dict[str, Any], overwrite: bool) -> Tensor:
        level = drawn["level"]
        functions = [None, *(_bound(cast(Op, op), level) for op in self.pool)]
        return apply_slots(images, drawn["op"] + 1, functions, overwrite)


def _bound(op: Op, level: Tensor) -> SlotFunction | None:
    if op.function is identity:
        return None
    if op.low is None:
        return lambda part, rows, slot: op.function(part)
    return lambda part, rows, slot: op.function(part, op.magnitude(level[rows, slot]))
