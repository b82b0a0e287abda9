"""Small pictures that lie in the page itself."""

import base64
import io

from PIL import Image
from torch import Tensor

SIDE = 96
"""Longest side of a picture in pixels."""

_TINY = 48  # up to this pictures are kept to the last bit, and shown with hard pixels


def as_uri(pixels: Tensor) -> str:
    """Encode an image for ``src``: PNG where it is tiny, else JPEG.

    Args:
        pixels: ``(C, H, W)``, uint8, with 1 or 3 channels; of others the first one is shown.
    """
    array = pixels.cpu().permute(1, 2, 0).numpy()
    image = Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    if max(image.size) <= _TINY:
        return _encoded(image, "PNG", optimize=True)
    return _encoded(image, "JPEG", quality=82)


def as_mask(shades: Tensor, color: tuple[int, int, int]) -> str:
    """Encode a matrix as one colour of varying opacity, which suits a light page and a dark one.

    Args:
        shades: ``(H, W)``, in [0, 1].
        color: Red, green and blue.
    """
    image = Image.new("RGBA", (shades.shape[1], shades.shape[0]), (*color, 0))
    image.putalpha(Image.fromarray((shades * 255).byte().numpy()))
    return _encoded(image, "PNG", optimize=True)


def is_tiny(uri: str) -> bool:
    """Whether a picture is to be shown with hard pixels.

    Args:
        uri: What :func:`as_uri` returned.
    """
    return uri.startswith("data:image/png")


def _encoded(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
