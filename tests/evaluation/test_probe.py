"""Linear classifiers on features against numpy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_ssl.evaluation.probe import LinearProbe, logistic_regression, sgd_probe

Array = NDArray[np.float64]


def blobs(classes: int, count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes with columns of very different scale, one of them constant."""
    rng = np.random.default_rng(0)
    target = np.arange(count) % classes
    features = rng.normal(size=(count, 5)) + rng.normal(size=(classes, 5))[target]
    features = np.hstack([features * [1, 100, 0.01, 3, 1] + [0, 7, 0, -50, 0], np.ones((count, 1))])
    return torch.from_numpy(features).float(), torch.from_numpy(target)


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("c", [0.1, 3.0])
@pytest.mark.parametrize("count", [90, 5])  # the latter fewer than columns
@pytest.mark.parametrize("standardize", [True, False])
def test_logistic_regression_is_at_the_optimum(
    classes: int, c: float, count: int, standardize: bool
) -> None:
    features, target = blobs(classes, count)
    if not standardize:
        features = features / features.std(dim=0).clamp(min=1)
    probe = logistic_regression(features, target, c, standardize=standardize)
    x, truth = features.double().numpy(), np.eye(classes)[target.numpy()]
    scale = np.where((x.std(axis=0) > 0) & standardize, x.std(axis=0), 1)
    z = (x - x.mean(axis=0)) / scale
    # The probe takes columns as they are; in standardised ones its weights are these.
    weight = probe.weight.numpy() * scale
    logits = x @ probe.weight.numpy().T + probe.bias.numpy()
    error = softmax(logits) - truth
    penalty = weight if classes > 2 else 2 * weight
    assert np.abs(c * error.T @ z + penalty).max() < 0.01
    assert np.abs(c * error.sum(axis=0)).max() < 0.01
    assert np.abs(penalty).max() > 0.1
    expected = (logits.argmax(axis=1) == target.numpy()).mean()
    assert probe.accuracy(features, target) == pytest.approx(expected)
    np.testing.assert_allclose(probe.probabilities(features).numpy(), softmax(logits), atol=1e-12)
    assert expected > 1.5 / classes or count < 10


@pytest.mark.parametrize("batch_size", [16, 512])
def test_sgd_by_loops(batch_size: int) -> None:
    features, target = blobs(3)
    features = features / features.std(dim=0).clamp(min=1)
    generator = torch.Generator().manual_seed(5)
    options = {"epochs": 7, "batch_size": batch_size, "lr": 0.1, "generator": generator}
    probe = sgd_probe(features.double(), target, 3, **options)
    x, truth = features.double().numpy(), np.eye(3)[target.numpy()]
    generator = torch.Generator().manual_seed(5)
    size = min(batch_size, 90)
    parameters = np.zeros((3, 7))
    velocity = np.zeros((3, 7))
    inputs = np.hstack([x, np.ones((90, 1))])
    for epoch in range(7):
        lr = 0.1 * size / 256 * 0.1 ** ((epoch >= 3) + (epoch >= 5))
        order = torch.randperm(90, generator=generator).numpy()
        for start in range(0, 90 - size + 1, size):
            rows = order[start : start + size]
            error = softmax(inputs[rows] @ parameters.T) - truth[rows]
            velocity = 0.9 * velocity + error.T @ inputs[rows] / size
            parameters = parameters - lr * velocity
    np.testing.assert_allclose(probe.weight.numpy(), parameters[:, :6], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probe.bias.numpy(), parameters[:, 6], rtol=1e-9, atol=1e-12)


def test_accuracy_by_hand() -> None:
    probe = LinearProbe(torch.eye(2), torch.tensor([0.0, 0.5]))
    features = torch.tensor([[1.0, 0.0], [1.0, 0.6], [0.0, 1.0], [0.0, 0.0]])
    assert probe.accuracy(features, torch.tensor([0, 0, 1, 1])) == 0.75
