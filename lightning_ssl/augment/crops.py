"""Random crops and flips."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_ssl.augment.base import Transform, check_range, move
from lightning_ssl.augment.geometry import horizontal_flip_
from lightning_ssl.augment.resize import resized_crop
from lightning_ssl.checks import check_count, check_fraction

_CANDIDATES = 10  # torchvision tries ten boxes before it falls back to the centre
_ATTEMPTS = 100  # TensorFlow a hundred, before it falls back to the whole image


class RandomResizedCrop(Transform):
    """Crop a box of random area and aspect ratio and resize it, by torchvision's rule.

    Of ten candidate boxes the first that fits is taken, else the largest central one whose ratio is
    allowed. Bilinear with antialias, torchvision's default and what PIL always does. The draws are
    uniforms, so the same draw cuts a photo of any size: :meth:`box`.

    Args:
        size: Side of the result in pixels.
        scale: Range of the box's area as a fraction of the image's area, in [0, 1].
        ratio: Range of the box's width / height, drawn uniformly in its logarithm.

    Raises:
        ValueError: If ``size`` is below 1 or a range is not increasing and positive.
    """

    takes_uint8 = True
    DRAWS = 2 * _CANDIDATES + 2
    """Uniforms per image: ten areas, ten ratios, vertical and horizontal position."""

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        check_count("size", size)
        check_range("scale", scale, 0, 1)
        check_range("ratio", ratio, 1e-6, 1e6)
        self.size, self.scale, self.ratio = size, scale, ratio

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``crop``, uniforms in [0, 1), float32 ``(n, 22)``."""
        return {"crop": torch.rand(n, self.DRAWS, generator=generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Cut and resize. See :meth:`Transform.forward`; uint8 in, float32 in [0, 1] out."""
        boxes = self.boxes(drawn["crop"], images.shape[2], images.shape[3])
        return resized_crop(images, boxes, (self.size, self.size))

    def boxes(self, crop: Tensor, height: int, width: int) -> Tensor:
        """Turn uniforms into boxes.

        Args:
            crop: Drawn uniforms ``(N, 22)``.
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Returns:
            Top, left, height, width, int64 ``(N, 4)``.
        """
        u = crop.double()
        low, high = self.scale
        area = height * width * (low + (high - low) * u[:, :_CANDIDATES])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = (low + (high - low) * u[:, _CANDIDATES:-2]).exp()
        w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(1, keepdim=True)  # the first maximum, so the first that fits
        w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
        top, left = (u[:, -2] * (height - h + 1)).floor(), (u[:, -1] * (width - w + 1)).floor()
        box = torch.stack([top, left, h, w], 1).long()
        return torch.where(fits.any(1, keepdim=True), box, self._central(height, width))

    def box(self, drawn_row: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
        """Find one photo's box; for workers that cut before decoding the rest.

        Args:
            drawn_row: The photo's uniforms ``(22,)``.
            height: Height of the photo in pixels.
            width: Width of the photo in pixels.

        Returns:
            Top, left, height and width in pixels.
        """
        top, left, h, w = self.boxes(drawn_row[None], height, width)[0].tolist()
        return top, left, h, w

    def _central(self, height: int, width: int) -> Tensor:
        narrow, wide = self.ratio
        h, w = height, width
        if width < narrow * height:
            h = round(width / narrow)
        elif width > wide * height:
            w = round(height * wide)
        return torch.tensor([(height - h) // 2, (width - w) // 2, h, w])


class InceptionCrop(RandomResizedCrop):
    """Crop a box by TensorFlow's rule for Inception, the one of S4L, and resize it.

    ``sample_distorted_bounding_box`` with its defaults: width / height uniform in [0.75, 1.33]; of
    the heights at which the area is 5 to 100 % of the image's, each equally likely; boxes of less
    than 10 % are drawn again. Boxes are smaller than torchvision's: their median area is 0.39 of a
    square image where `RandomResizedCrop` has 0.48. Bilinear with antialias, as everywhere here;
    S4L's resizing has none.

    Args:
        size: Side of the result in pixels.

    Raises:
        ValueError: If ``size`` is below 1.
    """

    DRAWS = 2 * _ATTEMPTS + 2
    """Uniforms per image: a hundred ratios, a hundred heights, the two positions."""
    _COVERED = 0.1

    def __init__(self, size: int) -> None:
        super().__init__(size, scale=(0.05, 1.0), ratio=(0.75, 1.33))

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``crop``, uniforms in [0, 1), float32 ``(n, 202)``."""
        return super().draw(n, generator)

    def boxes(self, crop: Tensor, height: int, width: int) -> Tensor:
        """Turn uniforms ``(N, 202)`` into boxes. See :meth:`RandomResizedCrop.boxes`."""
        u = crop.double()
        low, high = self.ratio
        ratio = low + (high - low) * u[:, :_ATTEMPTS]
        low, high = (share * height * width for share in self.scale)
        shortest = (low / ratio).sqrt().round()
        # No taller than the image, nor so tall that the box would be wider than it.
        tallest = torch.minimum((high / ratio).sqrt().round(), ((width + 0.499) / ratio).floor())
        tallest = tallest.clamp(max=height)
        shortest = shortest.minimum(tallest)
        h = shortest + (u[:, _ATTEMPTS:-2] * (tallest - shortest + 1)).floor()
        w = (h * ratio).round()
        fits = (h > 0) & (w > 0) & (h * w >= self._COVERED * height * width)
        first = fits.int().argmax(1, keepdim=True)  # the first maximum, so the first that fits
        h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
        top, left = (u[:, -2] * (height - h + 1)).floor(), (u[:, -1] * (width - w + 1)).floor()
        box = torch.stack([top, left, h, w], 1).long()
        whole = torch.tensor([0, 0, height, width])
        return torch.where(fits.any(1, keepdim=True), box, whole)


class PadCrop(Transform):
    """Pad by reflection and cut back to the size at a random offset, each of them equally likely.

    Args:
        pad: Pixels on every side; None for an eighth of the image's height (4 at 32, 12 at 96).

    Raises:
        ValueError: If ``pad`` is negative.
    """

    takes_uint8 = True

    def __init__(self, pad: int | None = None) -> None:
        super().__init__()
        if pad is not None and pad < 0:
            raise ValueError(f"`pad` must be at least 0, got {pad}.")
        self.pad = pad

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``offset``, uniforms in [0, 1), float32 ``(n, 2)``, vertical and horizontal."""
        return {"offset": torch.rand(n, 2, generator=generator)}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Shift by -pad…pad pixels. See :meth:`Transform.forward`; keeps uint8."""
        n, channels, height, width = images.shape
        pad = height // 8 if self.pad is None else self.pad
        if pad == 0:
            return images
        if pad >= min(height, width):
            raise ValueError(
                f"`pad` must be below the image's side {min(height, width)}, got {pad}."
            )
        offset = (drawn["offset"].double() * (2 * pad + 1)).long() - pad
        rows = _reflected(torch.arange(height) + offset[:, :1], height)
        columns = _reflected(torch.arange(width) + offset[:, 1:], width)
        index = move(rows * width, images)[:, :, None] + move(columns, images)[:, None]
        index = index.view(n, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, index).view(images.shape)


class HorizontalFlip(Transform):
    """Mirror left and right.

    Args:
        p: Probability in [0, 1].
    """

    takes_uint8 = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_fraction("p", p)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        """Draw ``flip``, bool ``(n,)``."""
        return {"flip": torch.rand(n, generator=generator) < self.p}

    def forward(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Mirror the images that drew it. See :meth:`Transform.forward`; keeps uint8."""
        return self.overwrite(images.clone(), drawn)

    def overwrite(self, images: Tensor, drawn: dict[str, Any]) -> Tensor:
        """Mirror in place."""
        return horizontal_flip_(images, drawn["flip"])


def _reflected(position: Tensor, side: int) -> Tensor:
    """Fold positions back into ``[0, side)``, without repeating the border."""
    return (side - 1) - ((side - 1) - position.abs()).abs()
