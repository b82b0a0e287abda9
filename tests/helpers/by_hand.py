"""A linear network trained by a trainer and by hand: values, gradients and state in one go."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_ssl import methods
from lightning_ssl.optim import Optimizer, Schedule
from lightning_ssl.types import Batch, Samples

CLASSES, FEATURES, RATE = 4, 6, 0.5
Predict = Callable[[Tensor], Tensor]
"""A view ``(B, FEATURES, 1, 1)`` to logits ``(B, CLASSES)``."""


def linear(name: str, *args: Any, **options: Any) -> Any:
    """A method whose network is one linear layer, trained by plain gradient descent."""
    torch.manual_seed(0)
    plain = Optimizer("sgd", RATE, weight_decay=0, momentum=0, nesterov=False)
    module = getattr(methods, name)(
        *(CLASSES, *args), backbone="wrn_10_1", optimizer=plain, schedule=Schedule("constant"),
        **options,
    )  # fmt: skip
    module.backbone, module.classifier = nn.Flatten(), nn.Linear(FEATURES, CLASSES)
    return module.double()


def draw_batches(count: int, length: int = 12, seed: int = 0, **copies: int) -> list[Batch]:
    """Batches of 3 labelled and 5 unlabelled images, the latter of a list of some length.

    Images of a class lie around one point, so that predictions become confident.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64)

    def view(copies: int, target: Tensor) -> Tensor:
        shape = (copies, len(target), FEATURES)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (centers[target] + 0.7 * noise)[..., None, None]

    found = []
    for step in range(count):
        y, hidden = (torch.randint(CLASSES, (n,), generator=generator) for n in (3, 5))
        index = torch.randperm(length, generator=generator)[:5]
        views = {name: view(number, hidden) for name, number in copies.items()}
        labeled = Samples({"weak": view(1, y)}, y)
        found.append(Batch(step, labeled, Samples(views, hidden_target=hidden, index=index)))
    return found


class Seen(Callback):
    """Keep the loss and the logged values of each step, and the trained weights.

    The average would replace the latter.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.logged: list[dict[str, float]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"])
        self.logged.append({n: v.item() for n, v in trainer.callback_metrics.items()})
        self.weights = [value.detach().clone() for value in module.parameters()]


def train(module: Any, batches: list[Batch], *callbacks: Callback, **options: Any) -> Trainer:
    """One pass over the batches."""
    steps = len(batches) // options.get("accumulate_grad_batches", 1)
    trainer = Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, accelerator="cpu", callbacks=list(callbacks),
        **{"precision": "64-true", "log_every_n_steps": 1} | options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


def train_both(
    module: Any,
    batches: list[Batch],
    loss_by_hand: Callable[[int, Predict, Batch], Tensor],
    after_update: Callable[[Predict], None] = lambda predict: None,
) -> list[dict[str, float]]:
    """Train for real and by hand; every loss and the last weights must be equal.

    Returns what was logged in each step.
    """
    parameters = [value.detach().clone() for value in module.classifier.parameters()]
    seen = Seen()
    train(module, batches, seen)
    assert len(seen.losses) == len(batches)

    def predictor(weight: Tensor, bias: Tensor) -> Predict:
        return lambda view: view.flatten(1) @ weight.T + bias

    for step, (found, batch) in enumerate(zip(seen.losses, batches, strict=True)):
        parameters = [value.detach().requires_grad_() for value in parameters]
        loss = loss_by_hand(step, predictor(*parameters), batch)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-9, atol=1e-11, msg=str(step))
        slopes = torch.autograd.grad(loss, parameters)
        parameters = [v.detach() - RATE * g for v, g in zip(parameters, slopes, strict=True)]
        after_update(predictor(*parameters))
    for found, wanted in zip(seen.weights, parameters, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    return seen.logged


def of_steps(logged: list[dict[str, float]], name: str) -> list[float]:
    """What was logged by a name, one value per step."""
    return [values[f"train/{name}"] for values in logged]


def softmax(logits: Sequence[float] | Tensor) -> list[float]:
    """Probabilities of one row."""
    row = logits.tolist() if isinstance(logits, Tensor) else logits
    exponentials = [math.exp(z) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def best(probs: Sequence[float]) -> int:
    """Most probable class."""
    return max(range(len(probs)), key=lambda c: probs[c])


def pseudo_label(probs: Sequence[float], temperature: float | None) -> int | list[float]:
    """The most probable class, or sharpened probabilities."""
    if temperature is None:
        return best(probs)
    powers = [p ** (1 / temperature) for p in probs]
    return [p / sum(powers) for p in powers]


def cross_entropy(logits: Tensor, target: int | Sequence[float]) -> Tensor:
    """Of one image, in nats; the target is a class or a probability of each."""
    total = torch.log(torch.exp(logits).sum())
    if isinstance(target, int):
        return total - logits[target]
    return sum(t * (total - z) for t, z in zip(target, logits, strict=True))  # type: ignore


def labeled_loss(rows: Tensor, target: Tensor) -> Tensor:
    """Mean over the images, one by one."""
    losses = [cross_entropy(z, y) for z, y in zip(rows, target.tolist(), strict=True)]
    return sum(losses) / len(losses)  # type: ignore[return-value]


MAPPINGS: dict[str, Callable[[float], float]] = {
    "convex": lambda x: x / (2 - x),
    "linear": lambda x: x,
    "concave": lambda x: math.log(1 + x) / math.log(2),
}


class Memory:
    """FlexMatch's memory as a list: equations 5 to 11 of https://arxiv.org/abs/2110.08263."""

    def __init__(
        self,
        length: int,
        threshold: float,
        classes: int = CLASSES,
        mapping: str = "convex",
        warmup: bool = True,
    ) -> None:
        self.classes, self.threshold, self.warmup = [-1] * length, threshold, warmup
        self.count, self.mapping = classes, MAPPINGS[mapping]

    def thresholds(self) -> list[float]:
        """One per class."""
        counts = [self.classes.count(c) for c in range(self.count)]
        most = max([*counts, self.classes.count(-1)] if self.warmup else counts)
        return [self.threshold * self.mapping(n / most) if most else 0.0 for n in counts]

    def update(self, probs: Sequence[Sequence[float]], index: list[int]) -> None:
        """Remember what reaches the fixed threshold."""
        for p, i in zip(probs, index, strict=True):
            if max(p) >= self.threshold:
                self.classes[i] = best(p)

    def unseen(self) -> float:
        """Share of the entries without a class."""
        return self.classes.count(-1) / len(self.classes)


class SelfAdaptive:
    """FreeMatch's averages in floats: equations 5 to 11 of https://arxiv.org/abs/2205.07246."""

    def __init__(
        self, classes: int, decay: float, clip: tuple[float, float] = (0.0, 1.0), each: bool = True
    ) -> None:
        self.decay, self.clip, self.each, self.confidence = decay, clip, each, 1 / classes
        self.probs, self.histogram = [1 / classes] * classes, [1 / classes] * classes

    def update(self, rows: list[list[float]]) -> None:
        """Take in the predictions of a batch."""
        m, n = self.decay, len(rows)
        labels = [best(row) for row in rows]
        self.confidence = m * self.confidence + (1 - m) * sum(max(row) for row in rows) / n
        for c in range(len(self.probs)):
            self.probs[c] = m * self.probs[c] + (1 - m) * sum(row[c] for row in rows) / n
            self.histogram[c] = m * self.histogram[c] + (1 - m) * labels.count(c) / n

    def thresholds(self) -> list[float]:
        """One per class."""
        low, high = self.clip
        overall = self.confidence if self.each else min(max(self.confidence, low), high)
        found = [overall * p / max(self.probs) for p in self.probs]
        return [min(max(t, low), high) for t in found] if self.each else found

    def fairness(self, kept: list[Tensor]) -> Tensor:
        """Loss of the strong predictions that passed the thresholds, as logits."""
        loss = torch.zeros((), dtype=torch.float64)
        if not kept:
            return loss
        probs = [torch.exp(z) / torch.exp(z).sum() for z in kept]
        labels = [best(p.tolist()) for p in probs]
        past = [p / h if h else 0.0 for p, h in zip(self.probs, self.histogram, strict=True)]
        now = [
            sum(p[c] for p in probs) / labels.count(c) if c in labels else torch.zeros(())
            for c in range(len(past))
        ]
        for c, share in enumerate(past):
            loss = loss + share / sum(past) * torch.log(now[c] / sum(now) + 1e-12)
        return loss
