"""State that a network in half precision must not round."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Self


class WideBuffers(nn.Module):
    """Module whose floating-point buffers are float32 at least, whatever it is cast to.

    A running mean or a rate moves by a hundredth or a thousandth of its value in a step, which
    half precision rounds to none or to several times as much.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow to another device, but not to half precision."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self.get_buffer(name)
            wide = torch.promote_types(new.dtype, torch.float32)
            if new.is_floating_point() and wide != new.dtype:
                setattr(self, name, old.to(new.device, wide))
        return self
