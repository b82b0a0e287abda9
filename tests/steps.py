"""Training steps by hand: a network whose images are the logits, and losses row by row."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def on_logits(module: Any) -> Any:
    """Let the images be the logits, in float64."""
    module.double()
    module.backbone, module.classifier = nn.Flatten(), nn.Identity()
    return module


def view(generator: torch.Generator, count: int, classes: int, scale: float) -> Tensor:
    """A view of images that are logits."""
    shape = (1, count, classes, 1, 1)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return drawn.requires_grad_()


def rows(images: Tensor) -> Tensor:
    """Logits of a view, ``(B, C)``."""
    return images.flatten(2)[0]


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of one row."""
    exponentials = [math.exp(z) for z in logits]
    return [e / sum(exponentials) for e in exponentials]


def teach(images: Tensor) -> list[list[float]]:
    """Probabilities of every row, as plain numbers."""
    return [softmax(row) for row in rows(images).tolist()]


def best(probs: Sequence[float]) -> int:
    """Most probable class."""
    return max(range(len(probs)), key=lambda c: probs[c])


def cross_entropy(row: Tensor, label: int) -> Tensor:
    """Of one row, in nats."""
    return torch.log(torch.exp(row).sum()) - row[label]


def labeled_loss(images: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy."""
    losses = [cross_entropy(z, y) for z, y in zip(rows(images), target.tolist(), strict=True)]
    return sum(losses) / len(losses)


def compare(loss: Tensor, expected: Tensor, learn: Sequence[Tensor], teachers: Tensor) -> None:
    """Same value, same gradient of what learns, none of what teaches."""
    torch.testing.assert_close(loss, expected, **EXACT)
    found, wanted = (
        torch.autograd.grad(value, (*learn, teachers), allow_unused=True, materialize_grads=True)
        for value in (loss, expected)
    )
    torch.testing.assert_close(found, wanted, **EXACT)
    assert not found[-1].any()
