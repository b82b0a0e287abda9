"""Scikit-learn's digits: real images that need no download."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from lightning_ssl.data.sources.arrays import from_arrays
from lightning_ssl.data.sources.base import Source


def open_digits(in_channels: int, image_size: int | None) -> Source:
    """Open the 1,797 digits of 8x8 pixels; those of other writers are the test set.

    Args:
        in_channels: 3 (gray is repeated) or 1.
        image_size: Side of the images; None for 8.
    """
    digits = load_digits()
    # 0..16 to 0..255. The last 360 images are by other writers than the first 1,437.
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    targets = torch.from_numpy(digits.target)
    return from_arrays(
        pixels[:1437],
        targets[:1437],
        test=(pixels[1437:], targets[1437:]),
        in_channels=in_channels,
        image_size=image_size,
        mean=(0.3054,),
        std=(0.3753,),
        hflip=False,
        name="digits",
    )
