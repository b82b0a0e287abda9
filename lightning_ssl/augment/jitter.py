"""Random changes of colour: torchvision's jitter and the noise of s4l."""

from typing import Any

import torch
from torch import Tensor

from lightning_ssl.augment.base import (
    SlotFunction,
    Transform,
    apply_slots,
    check_range,
    in_chunks,
)
from lightning_ssl.augment.color import brightness, color, contrast, hsv_noise, hue

_OPERATIONS = (brightness, contrast, color, hue)


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in an order drawn for each image.

    torchvision's ``ColorJitter``: factors uniform in [max(0, 1 - x), 1 + x], hue in [-x, x], every
    operation clamped to [0, 1]. On images of one channel saturation and hue do nothing.

    Args:
        brightness: Half-width of the factor's range, >= 0.
        contrast: Half-width of the factor's range, >= 0.
        saturation: Half-width of the factor's range, >= 0.
        hue: Half-width of the rotation's range as a fraction of the circle, in [0, 0.5].

    Raises:
        ValueError: If a half-width is negative or ``hue`` is above 0.5.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        super().__init__()
        widths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, width in widths.items():
            if width < 0:
                raise ValueError(f"`{name}` must be at least 0, got {width}.")
        check_range("hue", (0.0, hue), 0, 0.5)
        self.ranges = [(max(0.0, 1 - x), 1 + x) for x in widths.values()] + [(-hue, hue)]
        self.active = [x > 0 for x in (*widths.values(), hue)]

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw the order and the parameters of ``n`` images.

        Returns:
            ``order``: int64 ``(n, 4)``, a permutation of brightness 0, contrast 1, saturation 2 and
            hue 3, first to last; ``factor``: float32 ``(n, 4)``, the parameters in the order of
            their numbers.
        """
        order = torch.rand(n, 4, generator=generator).argsort(1)
        low, high = torch.tensor(self.ranges).unbind(1)
        factor = low + (high - low) * torch.rand(n, 4, generator=generator)
        return {"order": order, "factor": factor}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations. See :meth:`Transform.forward`."""
        return self._apply_all(images, drawn, overwrite=False)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the operations and reuse the memory of ``images``."""
        return self._apply_all(images, drawn, overwrite=True)

    def _apply_all(self, images: Tensor, drawn: dict[str, Any], overwrite: bool) -> Tensor:
        def bound(number: int) -> SlotFunction | None:
            function, factor = _OPERATIONS[number], drawn["factor"][:, number]
            if not self.active[number]:
                return None
            return lambda part, rows, slot: function(part, factor[rows])

        return apply_slots(images, drawn["order"], [bound(i) for i in range(4)], overwrite)


def color_jitter(strength: float) -> ColorJitter:
    """Make the jitter of SimCLR and PAWS.

    Args:
        strength: 1.0 for ImageNet, 0.5 for CIFAR-10; brightness, contrast and saturation get 0.8
            times this, hue 0.2 times.
    """
    return ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)


class HSVNoise(Transform):
    """The colour noise of S4L (arXiv 1905.03670): hue, saturation and value, each independently.

    The hue turns by up to a tenth of the circle; saturation and value c become
    ``c ** p * a + b``, clamped, with p in [1/4, 4] and a in [0.71, 1.41], both uniform in their
    logarithm, and b in [-0.1, 0.1].
    """

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``shift``, float32 ``(n,)``, and ``exponent``, ``scale``, ``offset``, ``(n, 2)``."""
        u = 2 * torch.rand(n, 7, generator=generator) - 1  # in [-1, 1)
        return {
            "shift": 0.1 * u[:, 0],
            "exponent": 2 ** (2 * u[:, 1:3]),
            "scale": 2 ** (0.5 * u[:, 3:5]),
            "offset": 0.1 * u[:, 5:7],
        }

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the noise. See :meth:`Transform.forward`."""
        values = (drawn[name] for name in ("shift", "exponent", "scale", "offset"))
        return in_chunks(hsv_noise, images, *values)
