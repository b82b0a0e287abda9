"""Operations with a drawn parameter, as transforms."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.augment import filters, geometry
from lightning_ssl.augment.base import Transform, move


class Op(Transform):
    """One operation with a uniformly drawn parameter.

    Args:
        function: ``function(images)``, or ``function(images, magnitude)`` with one parameter per
            image, float ``(N,)`` on the CPU. It returns a new tensor or its input.
        low: Smallest parameter; None if the function takes none.
        high: Largest parameter.
        name: What to call it; the function's name if None.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        low: float | None = None,
        high: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.function, self.low, self.high = function, low, high
        self.name = name or function.__name__

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``magnitude``, float32 ``(n,)`` in [low, high)."""
        if self.low is None:
            return {}
        return {"magnitude": self.magnitude(torch.rand(n, generator=generator))}

    def magnitude(self, uniform: Tensor) -> Tensor:
        """Map uniforms in [0, 1) to the parameter's range."""
        low = 0.0 if self.low is None else self.low
        return low + (self.high - low) * uniform

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Apply the function. See :meth:`Transform.forward`."""
        return self.function(images, drawn["magnitude"]) if drawn else self.function(images)

    def extra_repr(self) -> str:
        """Show name and range."""
        return self.name if self.low is None else f"{self.name}, {self.low:g}, {self.high:g}"


class GaussianBlur(Transform):
    """Blur with torchvision's Gaussian kernel; see :func:`filters.gaussian_blur`.

    Args:
        sigma: Range of the standard deviation in pixels; SimCLR and PAWS use (0.1, 2.0).

    Raises:
        ValueError: If the range is not increasing and positive.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        super().__init__()
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"`sigma` must be an increasing pair above 0, got {tuple(sigma)}.")
        self.sigma = sigma
        self.radius = max(1, round(3 * sigma[1]))

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``sigma``, float32 ``(n,)``, in pixels."""
        low, high = self.sigma
        return {"sigma": low + (high - low) * torch.rand(n, generator=generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Blur. See :meth:`Transform.forward`."""
        return filters.gaussian_blur(images, drawn["sigma"], self.radius)


class GaussianNoise(Transform):
    """Add normal noise, clamped to [0, 1].

    Args:
        shape: Channels, height and width of the images; the noise is drawn on the CPU.
        std: Standard deviation in units of the image; 0.15 is the usual choice.

    Raises:
        ValueError: If ``std`` is negative.
    """

    def __init__(self, shape: tuple[int, int, int], std: float = 0.15) -> None:
        super().__init__()
        if std < 0:
            raise ValueError(f"`std` must be at least 0, got {std}.")
        self.shape, self.std = shape, std

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``noise``, standard normal float32 ``(n, C, H, W)``."""
        return {"noise": torch.randn(n, *self.shape, generator=generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Add the noise. See :meth:`Transform.forward`."""
        return filters.gaussian_noise(images, torch.full((len(images),), self.std), drawn["noise"])


class Cutout(Transform):
    """Paint a square whose centre is uniform over the pixels, clipped at the border.

    Args:
        side: Side in pixels; None for half the image's height, FixMatch's choice.
        fill: Its value, or one for each channel, of which images with another number of channels
            get the mean; the toolboxes have (125, 123, 114) / 255.
        random_side: Whether each image's side is uniform between 0 and ``side``, and the square
            drawn by the rule of TorchSSL and USB: with one more pixel, and moved into the image at
            the top and the left, where others are clipped.

    Raises:
        ValueError: If ``side`` is negative.
    """

    def __init__(
        self,
        side: int | None = None,
        fill: float | Sequence[float] = 0.5,
        random_side: bool = False,
    ) -> None:
        super().__init__()
        if side is not None and side < 0:
            raise ValueError(f"`side` must be at least 0, got {side}.")
        self.side, self.random_side = side, random_side
        self.fill = (fill,) if isinstance(fill, int | float) else tuple(fill)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``centre``, uniforms in [0, 1), float32 ``(n, 2)``, and ``side`` where random."""
        drawn = {"centre": torch.rand(n, 2, generator=generator)}
        return drawn | {"side": torch.rand(n, generator=generator)} if self.random_side else drawn

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Paint. See :meth:`Transform.forward`."""
        return self.overwrite(images.clone(), drawn)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Paint in place."""
        height, width = images.shape[-2:]
        fill, side = self.fill, height // 2 if self.side is None else self.side
        if len(fill) != images.shape[1]:
            fill = (sum(fill) / len(fill),)
        centre = drawn["centre"].double() * torch.tensor([height, width])
        if not self.random_side:
            sides = torch.tensor(side).expand(len(images))
            return geometry.cutout_(images, sides, centre.long(), fill)
        drawn_side = (side * drawn["side"].double())[:, None]
        first = (centre - drawn_side / 2).clamp(min=0).long()
        # PIL's rectangle holds its last pixel.
        length = (first + drawn_side).long() + 1 - first
        return geometry.paint_(images, first, length * (drawn_side > 0), fill)


class QuarterTurns(Transform):
    """Turn by 0, 90, 180 or 270 degrees counter-clockwise, equally likely."""

    takes_uint8 = True

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``turns``, int64 ``(n,)`` in {0, 1, 2, 3}."""
        return {"turns": torch.randint(4, (n,), generator=generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Turn. See :meth:`Transform.forward`; keeps uint8."""
        return geometry.quarter_turns(images, drawn["turns"])


class Normalize(Transform):
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        mean: Of each channel, in units of the image.
        std: Of each channel, above 0.

    Raises:
        ValueError: If lengths differ or a deviation is not above 0.
    """

    takes_uint8 = True

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                "`std` must have one value above 0 for each of "
                f"`mean`, got mean {tuple(mean)} and std {tuple(std)}."
            )
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Normalise. See :meth:`Transform.forward`; bytes count as [0, 1] and become float32.

        Raises:
            ValueError: If the images have another number of channels.
        """
        if images.shape[1] != len(self.mean):
            raise ValueError(
                f"`mean` and `std` must have one value per channel ({images.shape[1]}), "
                f"got {len(self.mean)}."
            )
        if images.dtype == torch.uint8:
            return self._scale(images.to(torch.float32), 255)
        return self._scale(images.clone(memory_format=torch.contiguous_format), 1)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Normalise in place."""
        if images.dtype == torch.uint8 or images.shape[1] != len(self.mean):
            return self.forward(images, drawn)
        return self._scale(images, 1)

    def _scale(self, floats: Tensor, unit: float) -> Tensor:
        mean, std = torch.tensor((self.mean, self.std), dtype=torch.float64).view(2, -1, 1, 1)
        return floats.mul_(move(1 / (std * unit), floats)).add_(move(-mean / std, floats))
