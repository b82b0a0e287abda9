"""The five crops of an image whose predictions are averaged: the centre and the four corners."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lightning_ssl.data.sources.decoding import SMALL, center_box, to_tensor
from lightning_ssl.data.sources.images import BrokenImageError, FileImages, Images, ResidentImages

NUM_CROPS = 5


@dataclass(frozen=True)
class FiveCropFetch:
    """Make the batch of some indices: five uint8 crops of each image, and the indices.

    The first crop is what evaluation sees. Where that is the centre of a larger photo, the others
    are its corners. Where it is the whole image, they are the image shifted by an eighth of its
    side in both directions, with its reflection at the borders: the corners of what the weak view
    of small images cuts from.

    Reference: Zhai et al., 2019, https://arxiv.org/abs/1905.03670, for photos.

    Attributes:
        images: The images.
        size: Image side in pixels.
    """

    images: Images
    size: int

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Batch of some images.

        Args:
            indices: Which images ``(B,)``, int64.

        Returns:
            Crops ``(B, 5, C, H, W)`` uint8 in the order centre, top left, top right, bottom left,
            bottom right, and indices ``(B,)``. Unreadable images are left out.
        """
        if isinstance(self.images, ResidentImages):
            return shifted(self.images.pixels[indices]), indices
        assert isinstance(self.images, FileImages)
        crops, readable = [], []
        for row, index in enumerate(indices.tolist()):
            try:
                crops.append(self._cut(self.images.decode(index)))
                readable.append(row)
            except BrokenImageError:
                continue
        shape = (0, NUM_CROPS, self.images.channels, self.size, self.size)
        stacked = torch.stack(crops) if crops else torch.empty(shape, dtype=torch.uint8)
        return stacked, indices[readable]

    def _cut(self, photo: Image.Image) -> Tensor:
        assert isinstance(self.images, FileImages)
        center = to_tensor(self.images.center(photo, self.size))
        if self.size <= SMALL:
            return shifted(center[None])[0]
        left, top, right, bottom = center_box(*photo.size, self.size, self.images.crop_pct)
        width, height = right - left, bottom - top
        crops = [center]
        for y in (0.0, photo.height - height):
            for x in (0.0, photo.width - width):
                box = (x, y, x + width, y + height)
                crop = photo.resize(
                    (self.size, self.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
                )
                crops.append(to_tensor(crop))
        return torch.stack(crops)


def shifted(images: Tensor) -> Tensor:
    """Images and their shifts to the four corners by an eighth of the side.

    Args:
        images: ``(B, C, H, W)``, square.

    Returns:
        ``(B, 5, C, H, W)`` of the same type.

    Example:
        >>> shifted(torch.arange(64).view(1, 1, 8, 8))[0, :, 0, 0, 0].tolist()
        [0, 9, 9, 9, 9]
        >>> shifted(torch.arange(64).view(1, 1, 8, 8))[0, :, 0, 1, 1].tolist()
        [9, 0, 2, 16, 18]
    """
    size = images.shape[-1]
    pad = size // 8
    position = torch.arange(-pad, size + pad).abs()
    padded = torch.where(position < size, position, 2 * (size - 1) - position)
    start, middle, end = padded[:size], torch.arange(size), padded[2 * pad :]
    corners = [(middle, middle), (start, start), (start, end), (end, start), (end, end)]
    return torch.stack([images[..., rows[:, None], columns] for rows, columns in corners], dim=1)
