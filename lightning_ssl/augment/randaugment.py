"""RandAugment with the pool of FixMatch."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lightning_ssl.augment import color, filters, geometry, tone
from lightning_ssl.augment.base import SlotFunction, Transform, apply_slots
from lightning_ssl.augment.transforms import Op
from lightning_ssl.checks import check_fraction


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


class RandAugment(Transform):
    """Apply operations drawn from a pool, with magnitudes uniform in each operation's range.

    This is FixMatch's RandAugment (arXiv 2001.07685) as TorchSSL and USB run it: no global
    magnitude, operations drawn with replacement. It is *not* torchvision's class of that name,
    whose pool and magnitudes differ.

    Args:
        num_ops: Operations per image.
        probability: Probability in [0, 1] that a drawn operation is applied; FixMatch's authors
            state 1 (google-research/fixmatch#65), their code has 0.5.
        pool: The operations; :func:`fixmatch_pool` if None.

    Raises:
        ValueError: If ``num_ops`` is negative, ``probability`` is outside [0, 1] or the pool empty.
    """

    def __init__(
        self, num_ops: int = 2, probability: float = 1.0, pool: Sequence[Op] | None = None
    ) -> None:
        super().__init__()
        if num_ops < 0:
            raise ValueError(f"`num_ops` must be at least 0, got {num_ops}.")
        self.num_ops = num_ops
        self.probability = check_fraction("probability", probability)
        self.pool = torch.nn.ModuleList(fixmatch_pool() if pool is None else pool)
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
