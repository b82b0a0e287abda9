"""Images of 16 bits that use few of them."""

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.data.sources.decoding import is_wide, open_image
from lightning_ssl.data.sources.images import FileImages

_LOOKED_AT = 16  # headers, spread over the list; of those with 16 bits the pixels, too
_FEW = 64  # grey levels of the 256 that are kept


def warn_of_few_levels(images: FileImages) -> None:
    """Warn where files of 16 bits hold numbers of 12 bits or fewer, as cameras and scanners write.

    They are scaled by what 16 bits can hold, as a file does not say what its white is, so that few
    grey levels are left.

    Args:
        images: The images.
    """
    count = min(len(images), _LOOKED_AT)
    highest, example = 0.0, ""
    for index in (torch.arange(count) * len(images) // max(1, count)).tolist():
        try:
            with open_image(images.paths[index]) as image:
                if not is_wide(image):
                    continue
                pixels = np.asarray(image)
        except Exception:  # it is named where the image is needed
            continue
        share = float(pixels.max()) / (255 if pixels.dtype == np.uint8 else 65535)
        highest, example = max(highest, share), example or images.name(index)
    if example and round(256 * highest) < _FEW:
        rank_zero_warn(
            f"Files of 16 bits such as '{example}' use {round(255 * highest) + 1} of 256 grey "
            f"levels at most, as their highest value is {round(65535 * highest)} of 65535: scale "
            "them to all 16 bits, or save them with 8."
        )
