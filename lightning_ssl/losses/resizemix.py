"""ResizeMix: a whole image, made smaller, pasted into another one."""

from torch import Tensor
from torch.nn import functional

Box = tuple[int, int, int, int]
"""First row, first column, and the row and the column after the last, in pixels."""


def resize_mix(images: Tensor, pasted: Tensor, box: Box, *, crop: float = 0.9) -> Tensor:
    """Paste the middle of an image, resized to a box, into another image.

    Reference: Qin et al., 2020, https://arxiv.org/abs/2012.11101; the crop of the middle and the
    nearest pixels are of hhrd9/regmixmatch.

    Args:
        images: Images that get the box, ``(N, C, H, W)``.
        pasted: Images that go in, ``(N, C, H, W)``.
        box: Where, the same for all N; may be empty.
        crop: Side of what is taken from the middle of ``pasted``, as a fraction, in (0, 1].

    Returns:
        ``(N, C, H, W)``, a new tensor.

    Example:
        >>> import torch
        >>> resize_mix(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), (0, 1, 2, 2), crop=1)
        tensor([[[[0., 1.],
                  [0., 1.]]]])
    """
    top, left, bottom, right = box
    images = images.clone()
    if kept_share(box, images) < 1:
        height, width = pasted.shape[-2:]
        inner = int(height * crop), int(width * crop)
        y, x = (height - inner[0]) // 2, (width - inner[1]) // 2
        middle = pasted[..., y : y + inner[0], x : x + inner[1]]
        images[..., top:bottom, left:right] = functional.interpolate(
            middle, (bottom - top, right - left), mode="nearest"
        )
    return images


def kept_share(box: Box, images: Tensor) -> float:
    """Share of an image that is outside of a box, in [0, 1].

    Args:
        box: The box.
        images: Images ``(..., H, W)``.
    """
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
