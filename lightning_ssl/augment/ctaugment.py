"""CTAugment: random operations at the magnitudes that have been seen to keep the label."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_ssl.augment import color, filters, geometry, resize, tone
from lightning_ssl.augment.base import (
    SlotFunction,
    Transform,
    apply_slots,
    move,
)
from lightning_ssl.checks import check_fraction
from lightning_ssl.state.wide_buffers import WideBuffers

Translation = Literal["fraction", "pixels"]
_NUM_OPS = 2
"""Operations per image."""
_LEVELS = 2
"""Levels that an operation has at most."""
_BINS = 17
"""Bins that a level has at most."""
_NO_BIN = -1.0
"""Stands in the table of rates where an operation has no such bin."""


class Operation(NamedTuple):
    """An operation of CTAugment.

    Attributes:
        name: What it is called in arXiv 1911.09785.
        function: ``function(images, *levels)``, with each level in [0, 1], ``(N,)``, on the images'
            device or the CPU.
        bins: Number of bins of each level; 0 for a level that is uniform and has no rates.
    """

    name: str
    function: Callable[..., Tensor]
    bins: tuple[int, ...] = (_BINS,)


def _blended(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda images, level: color.blend(function(images), images, level)


def _enhanced(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda images, level: function(images, 0.1 + 1.9 * level)


def _signed(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda images, level: function(images, 0.3 * (2 * level - 1))


def _cutout(images: Tensor, level: Tensor, place: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    side = (level * (0.499 * min(height, width))).long() + 1
    pixel = (place * (height * width)).long().clamp(max=height * width - 1)
    row = pixel.div(width, rounding_mode="floor")
    return geometry.cutout(images, side, torch.stack([row, pixel - row * width], 1), 127 / 255)


def _posterize(images: Tensor, level: Tensor) -> Tensor:
    return tone.posterize(images, 1 + (7.999 * level).floor())


def _rescale(images: Tensor, level: Tensor, method: Tensor) -> Tensor:
    count = len(resize.METHODS)
    return resize.rescale(images, level, (count * method).long().clamp(max=count - 1))


def _rotate(images: Tensor, level: Tensor) -> Tensor:
    return geometry.rotate(images, (45 * (2 * level - 1)).round())


def _solarize(images: Tensor, level: Tensor) -> Tensor:
    return tone.solarize(images, (255.999 * level).floor() / 255)


OPERATIONS = (
    Operation("autocontrast", _blended(tone.autocontrast)),
    Operation("blur", _blended(filters.pil_blur)),
    Operation("brightness", _enhanced(color.brightness)),
    Operation("color", _enhanced(color.color)),
    Operation("contrast", _enhanced(color.contrast)),
    Operation("cutout", _cutout, (_BINS, 0)),
    Operation("equalize", _blended(tone.equalize)),
    Operation("identity", lambda images: images, ()),
    Operation("invert", _blended(tone.invert)),
    Operation("posterize", _posterize, (8,)),
    Operation("rescale", _rescale, (_BINS, len(resize.METHODS))),
    Operation("rotate", _rotate),
    Operation("sharpness", _enhanced(filters.sharpness)),
    Operation("shear_x", _signed(geometry.shear_x)),
    Operation("shear_y", _signed(geometry.shear_y)),
    Operation("smooth", _blended(filters.smooth)),
    Operation("solarize", _solarize),
    Operation("translate_x", _signed(geometry.translate_x)),
    Operation("translate_y", _signed(geometry.translate_y)),
)
"""The operations with the ranges of the paper; a shift is a fraction of the side, as there."""

_PIXELS = tuple(
    op._replace(function=lambda images, level: images) if op.name.startswith("translate") else op
    for op in OPERATIONS
)
"""As in the authors' code, whose shift of at most 0.3 pixels finds the same nearest pixels."""

_COUNTS = torch.tensor([[*op.bins, *[0] * (_LEVELS - len(op.bins))] for op in OPERATIONS])


class CTAugmentProbe(Transform):
    """Two operations at uniform levels, to find out which levels keep the label.

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, sec. 3.2.2.

    Args:
        translation: What shifts by up to 0.3 are counted in: ``fraction`` of the side as in the
            paper, or ``pixels`` as in the code of ReMixMatch and FixMatch, which moves nothing.

    Raises:
        ValueError: If ``translation`` is neither.
    """

    def __init__(self, translation: Translation = "fraction") -> None:
        super().__init__()
        if translation not in get_args(Translation):
            raise ValueError(
                f"`translation` must be one of {get_args(Translation)}, got {translation!r}."
            )
        self.translation = translation

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw the operations of ``n`` images; which levels the uniforms mean is not decided here.

        Returns:
            ``op``: int64 ``(n, 2)``, positions in :data:`OPERATIONS`;
            ``uniform``: float32 ``(n, 2, 2)``, in [0, 1), for the levels of each operation.
        """
        op = torch.randint(len(OPERATIONS), (n, _NUM_OPS), generator=generator)
        return {"op": op, "uniform": torch.rand(n, _NUM_OPS, _LEVELS, generator=generator)}

    def levels(self, drawn: dict[str, Any]) -> Tensor:
        """Levels in [0, 1], ``(N, 2, 2)``, that were drawn: the uniforms themselves."""
        uniform: Tensor = drawn["uniform"]
        return uniform

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations, one after the other. See :meth:`Transform.forward`."""
        return self._apply_all(images, drawn, overwrite=False)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations and reuse the memory of ``images``."""
        return self._apply_all(images, drawn, overwrite=True)

    def _apply_all(self, images: Tensor, drawn: dict[str, Any], overwrite: bool) -> Tensor:
        levels = self.levels(drawn)
        operations = OPERATIONS if self.translation == "fraction" else _PIXELS
        functions = [_bound(operation, levels) for operation in operations]
        return apply_slots(images, drawn["op"], functions, overwrite)


def _bound(operation: Operation, levels: Tensor) -> SlotFunction | None:
    if not operation.bins:
        return None

    def run(part: Tensor, rows: Tensor, slot: int) -> Tensor:
        values = levels[:, slot].index_select(0, move(rows, levels))
        return operation.function(part, *values[:, : len(operation.bins)].unbind(1))

    return run


class CTAugment(WideBuffers, CTAugmentProbe):
    r"""Two operations at levels from bins whose rate is high.

    A bin of rate :math:`r` is drawn with probability in proportion to
    :math:`w = (r + 1 - d) / \max(r + 1 - d)`, or to 0 where :math:`w` is below the threshold, and
    the level is uniform inside the bin. Rates start at 1 and follow the agreement
    :math:`\omega` of predictions on probes (:class:`CTAugmentProbe`) with their labels:
    :math:`r \leftarrow d\, r + (1 - d)\, \omega` for each bin that a probe drew. They are a buffer
    of whoever owns the transform; the bin is found on their device, so that the host never waits.

    Reference: Berthelot et al., 2020, https://arxiv.org/abs/1911.09785, sec. 3.2.2; bins are drawn
    as in the code of FixMatch, https://arxiv.org/abs/2001.07685.

    Args:
        threshold: Share of the largest weight in [0, 1] below which a bin is not drawn.
        decay: Weight of the old rate, :math:`d`, in (0, 1).
        translation: See :class:`CTAugmentProbe`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    rates: Tensor

    def __init__(
        self, threshold: float = 0.8, decay: float = 0.99, translation: Translation = "fraction"
    ) -> None:
        super().__init__(translation)
        self.threshold = check_fraction("threshold", threshold)
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must be in (0, 1), got {decay}.")
        self.decay = decay
        exists = torch.arange(_BINS, device=_COUNTS.device) < _COUNTS[..., None]
        self.register_buffer("rates", torch.where(exists, 1.0, _NO_BIN))

    def weights(self) -> Tensor:
        """What bins are drawn in proportion to, in [0, 1], ``(19, 2, 17)``.

        A level that has no bins counts as one of 17 equal ones; the bins that others have less
        than 17 have weight 0.
        """
        raised = self.rates + (1 - self.decay)
        weights = raised / raised.amax(2, keepdim=True)
        return weights * (weights >= self.threshold)

    def usable(self) -> Tensor:
        """Share of bins that can be drawn; a scalar."""
        exists = self.rates > _NO_BIN
        return ((self.weights() > 0) & exists).sum() / exists.sum()

    def levels(self, drawn: dict[str, Any]) -> Tensor:
        """Levels in [0, 1], ``(N, 2, 2)``, that the uniforms mean at the current rates."""
        weights = self.weights()[move(drawn["op"], self.rates)]
        total = weights.cumsum(3)
        target = move(drawn["uniform"], total)[..., None] * total[..., -1:]
        # The first bin up to which the weights exceed the target; it has a weight itself.
        found = (total <= target).sum(3, keepdim=True)
        inside = (target - total.gather(3, found)).div_(weights.gather(3, found)).add_(1)
        count = torch.where(_COUNTS == 0, _BINS, _COUNTS)[drawn["op"]]
        level: Tensor = (found + inside.clamp_(0, 1))[..., 0] / move(count, total)
        return level

    def learned(self, drawn: dict[str, Any], agreement: Tensor) -> Tensor:
        r"""What probes, one after the other, do to the rates: :math:`r \leftarrow a\,r + b`.

        Args:
            drawn: What :class:`CTAugmentProbe` drew for N images.
            agreement: :math:`\omega` of each image in [0, 1], ``(N,)``, on the rates' device,
                without gradient.

        Returns:
            Factor and addend of each rate, ``(2, 19, 2, 17)``, for :meth:`update`.
        """
        # Everything about which probe hits which bin is known on the host.
        op, count = drawn["op"][..., None], _COUNTS[drawn["op"]]
        cell = (op * _LEVELS + torch.arange(_LEVELS)) * _BINS
        cell += (drawn["uniform"].double() * count).long()
        image = torch.arange(len(cell))[:, None, None].expand_as(cell)[count > 0]
        cells, hit, hits = cell[count > 0].unique(return_inverse=True, return_counts=True)
        order = hit.argsort(stable=True)
        image, hit = image[order], hit[order]
        # Hits of the same bin that are still to come; the last one has age 0.
        age = hits.cumsum(0)[hit] - 1 - torch.arange(len(hit))
        shape = len(cells), int(hits.max()) if len(hits) else 0
        who, weight = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64)
        who[hit, age] = image
        weight[hit, age] = (1 - self.decay) * self.decay ** age.double()

        # No scatter-add, whose order on a GPU, and so whose last bits, would differ over processes.
        addend = (agreement[move(who, agreement)] * move(weight, agreement)).sum(1)
        step = torch.stack([torch.ones_like(self.rates), torch.zeros_like(self.rates)])
        factor, where = self.decay ** hits.double(), move(cells, self.rates)
        step[0].view(-1).index_copy_(0, where, move(factor, self.rates))
        step[1].view(-1).index_copy_(0, where, move(addend, self.rates))
        return step

    def update(self, steps: Tensor) -> None:
        """Move the rates.

        Args:
            steps: Results of :meth:`learned`, ``(S, 2, 19, 2, 17)``, in the order of their images:
                one, or those of all processes, which then have the same rates.
        """
        for factor, addend in steps:
            self.rates.copy_(torch.addcmul(addend, factor, self.rates))
