"""A linear network trained by a trainer and by hand: values, gradients and state in one go."""

from collections.abc import Callable
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


def cross_entropy(logits: Tensor, target: int) -> Tensor:
    """Of one image."""
    return torch.log(torch.exp(logits).sum()) - logits[target]


def labeled_loss(predict: Predict, batch: Batch) -> Tensor:
    """Mean over the labelled images, one by one."""
    rows = predict(batch.labeled.views["weak"][0])
    losses = [cross_entropy(z, y) for z, y in zip(rows, batch.labeled.target.tolist(), strict=True)]
    return sum(losses) / len(losses)  # type: ignore[return-value]


class Memory:
    """FlexMatch's memory as a list, with thresholds as the paper's equations have them."""

    def __init__(self, length: int, threshold: float) -> None:
        self.classes, self.threshold = [-1] * length, threshold

    def thresholds(self) -> list[float]:
        """One per class."""
        counts = [self.classes.count(c) for c in range(CLASSES)]
        most = max(*counts, self.classes.count(-1))
        return [self.threshold * (n / most) / (2 - n / most) for n in counts]

    def update(self, probs: list[list[float]], index: list[int]) -> None:
        """Remember what reaches the fixed threshold."""
        for p, i in zip(probs, index, strict=True):
            if max(p) >= self.threshold:
                self.classes[i] = p.index(max(p))

    def unseen(self) -> float:
        """Share of the entries without a class."""
        return self.classes.count(-1) / len(self.classes)
