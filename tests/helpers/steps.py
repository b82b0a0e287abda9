"""Training steps by hand: a network that hands on its images, and losses row by row."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from by_hand import softmax

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Columns(nn.Module):
    """Some of the columns of a matrix."""

    def __init__(self, start: int, width: int) -> None:
        super().__init__()
        self.start, self.width = start, width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.start + self.width]


def read_images(module: Any, *head_widths: int) -> Any:
    """A module in float64, alone, whose images are its logits, then the outputs of its heads.

    What it logs last by each name is in ``logged``.
    """
    module.double()
    module.backbone, module.classifier = nn.Flatten(), Columns(0, module.num_classes)
    starts = [module.num_classes + sum(head_widths[:i]) for i in range(len(head_widths))]
    if head_widths:
        module.projections = nn.ModuleList(
            Columns(start, width) for start, width in zip(starts, head_widths, strict=True)
        )
    at_update(module, 0)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, value)
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module


def logged(module: Any, name: str) -> list[float]:
    """What was logged last of each class."""
    return [module.logged[f"train/{name}_{c}"].item() for c in range(module.num_classes)]


def at_update(module: Any, update: int) -> None:
    """Let a module believe that so many updates are done, and that each step is written."""
    loop = SimpleNamespace(total_batch_idx=update)
    module._trainer = SimpleNamespace(
        global_step=update, global_rank=0, log_every_n_steps=1, fit_loop=loop
    )


def images(count: int, width: int, generator: torch.Generator, scale: float = 2.0) -> Tensor:
    """A view of random images ``(1, count, width, 1, 1)`` that records gradients."""
    drawn = torch.randn(1, count, width, 1, 1, generator=generator, dtype=torch.float64)
    return (drawn * scale).requires_grad_()


def rows(images: Tensor) -> Tensor:
    """Logits of a view, ``(B, C)``."""
    return images.flatten(2)[0]


def teach(images: Tensor) -> list[list[float]]:
    """Probabilities of every row, as plain numbers."""
    return [softmax(row) for row in rows(images).tolist()]


def same(found: Tensor, wanted: Tensor, *views: Tensor) -> None:
    """Equal values, and equal gradients with respect to views; where there are none, zeros."""
    exact = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(found, wanted, **exact)
    gradients = [
        torch.autograd.grad(value, views, retain_graph=True, materialize_grads=True)
        for value in (found, wanted)
    ]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, **exact)


def compare(loss: Tensor, expected: Tensor, learn: Sequence[Tensor], teachers: Tensor) -> None:
    """Same value, same gradient of what learns, none of what teaches."""
    same(loss, expected, *learn, teachers)
    (taught,) = torch.autograd.grad(loss, teachers, materialize_grads=True)
    assert not taught.any()
