"""Each baseline against loops in float64, what all of them keep, and what they reach on digits."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lightning_ssl.evaluation import neighbors
from lightning_ssl.evaluation.baselines import (
    Pool,
    Transduced,
    class_means,
    logistic,
    propagation,
    run_baselines,
    self_training,
    soft_neighbors,
    transclip,
)
from lightning_ssl.evaluation.baselines.logistic import choose_strength
from lightning_ssl.evaluation.baselines.self_training import most_confident
from lightning_ssl.evaluation.baselines.soft_neighbors import choose_temperature

Array = NDArray[np.float64]
CLASSES = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_QUERIES", 7)
    monkeypatch.setattr(neighbors, "_SUPPORT", 9)


def draw(seed: int = 0, size: int = 40, labels: int = 10) -> Pool:
    """Overlapping classes; row i has class i mod C, and so has the i-th label."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 6)) + 1

    def rows(count: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=(count, 6)) + centres[np.arange(count) % CLASSES])

    order = torch.from_numpy(rng.permutation(size // CLASSES))[: (labels + CLASSES - 1) // CLASSES]
    chosen = (order[:, None] * CLASSES + torch.arange(CLASSES)).flatten()[:labels]
    return Pool(rows(size), chosen, chosen % CLASSES, CLASSES, rows(9))


def arrays(pool: Pool) -> tuple[Array, Array, list[int], list[int]]:
    """Unit rows of training and test images, labelled rows and their classes."""
    train, test = pool.features.numpy(), pool.test.numpy()
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    return train, test, pool.rows.tolist(), pool.target.tolist()


def softmax(logits: Any) -> Array:
    powers = np.exp(np.asarray(logits) - np.max(logits))
    result: Array = powers / powers.sum()
    return result


def nearest(row: Array, others: Array, count: int, own: int | None = None) -> list[int]:
    found = sorted((j for j in range(len(others)) if j != own), key=lambda j: -(row @ others[j]))
    return found[:count]


def same(found: Transduced, train: Any, test: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found.train.numpy(), train, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.test.numpy(), test, rtol=0, atol=tolerance)


def test_class_means_by_loops() -> None:
    pool = draw()
    train, test, rows, target = arrays(pool)
    means = [sum(train[i] for i, y in zip(rows, target, strict=True) if y == c) for c in range(4)]
    means = [mean / np.linalg.norm(mean) for mean in means]
    wanted = [[softmax([x @ mean / 0.3 for mean in means]) for x in part] for part in (train, test)]
    same(class_means(pool, temperature=0.3), *wanted)


def neighbor_probs(x: Array, support: Array, target: list[int], temperature: float) -> Array:
    probs = np.zeros(CLASSES)
    for weight, y in zip(softmax(support @ x / temperature), target, strict=True):
        probs[y] += weight
    return probs


def test_soft_neighbors_by_loops() -> None:
    pool = draw()
    train, test, rows, target = arrays(pool)
    found = soft_neighbors(pool, temperature=0.2)
    wanted = [[neighbor_probs(x, train[rows], target, 0.2) for x in part] for part in (train, test)]
    same(found, *wanted)


@pytest.mark.parametrize("seed", range(8))
def test_the_temperature_is_the_likeliest_of_left_out_labels(seed: int) -> None:
    pool = draw(seed, labels=9)  # class 0 has three rows, the others two
    pool = replace(pool, rows=pool.rows[:-3], target=pool.target[:-3])  # classes 2 and 3 have one
    train, _, rows, target = arrays(pool)
    losses = {}
    for temperature in (0.02, 0.05, 0.1, 0.2):
        losses[temperature] = 0.0
        for place, y in enumerate(target):
            others = [j for j in range(len(rows)) if j != place]
            classes = [target[j] for j in others]
            if y in classes:
                support = train[[rows[j] for j in others]]
                probs = neighbor_probs(train[rows[place]], support, classes, temperature)
                losses[temperature] -= math.log(probs[y])
    wanted = min(losses, key=lambda temperature: losses[temperature])
    assert choose_temperature(pool.support, pool.target, CLASSES) == wanted
    train_probs = soft_neighbors(pool, temperature=wanted).train
    assert torch.equal(soft_neighbors(pool).train, train_probs)


def test_the_temperatures_differ_and_need_two_rows_of_a_class() -> None:
    pools = [draw(seed) for seed in range(8)]
    assert len({choose_temperature(p.support, p.target, CLASSES) for p in pools}) > 1
    assert choose_temperature(torch.eye(3), torch.tensor([2, 0, 1]), 3) == 0.1


def fit(features: Array, target: list[int], c: float) -> Callable[[Array], Array]:
    """Standardised logistic regression whose missing classes have probability 0."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10000).fit((features - mean) / scale, target)

    def classify(rows: Array) -> Array:
        probs = np.zeros((len(rows), CLASSES))
        probs[:, model.classes_] = model.predict_proba((rows - mean) / scale)
        return probs

    return classify


@pytest.mark.parametrize("missing", [None, 1])
def test_logistic_regression_is_scikit_learns(missing: int | None) -> None:
    pool = draw(labels=12)
    kept = pool.target != (-1 if missing is None else missing)
    pool = replace(pool, rows=pool.rows[kept], target=pool.target[kept])
    classify = fit(pool.support.numpy(), pool.target.tolist(), 0.1)
    found = logistic(pool, c=0.1)
    same(found, classify(pool.features.numpy()), classify(pool.test.numpy()), 1e-3)
    if missing is not None:
        assert not found.train[:, missing].any()


@pytest.mark.parametrize("labels", [20, 26])
def test_the_strength_is_the_best_of_left_out_labels(labels: int) -> None:
    chosen = set()
    for seed in range(3):
        pool = draw(seed, labels=labels)
        features, target = pool.support.numpy(), pool.target.numpy()
        part = np.array([int((target[:i] == y).sum()) % 5 for i, y in enumerate(target)])
        right = {}
        for c in (0.001, 0.01, 0.1, 1.0):
            right[c] = 0
            for fold in range(5):
                classify = fit(features[part != fold], target[part != fold].tolist(), c)
                guesses = classify(features[part == fold]).argmax(axis=1)
                right[c] += int((guesses == target[part == fold]).sum())
        wanted = min(right, key=lambda c: (-right[c], c))
        assert choose_strength(pool.support, pool.target) == wanted
        assert torch.equal(logistic(pool).test, logistic(pool, c=wanted).test)
        chosen.add(wanted)
    assert len(chosen) > 1


def test_the_strength_where_a_class_has_one_row() -> None:
    assert choose_strength(torch.eye(5), torch.tensor([0, 0, 0, 2, 2])) != 0.01
    assert choose_strength(torch.eye(5), torch.tensor([0, 0, 0, 0, 2])) == 0.01


def test_the_most_confident_by_hand() -> None:
    probs = torch.tensor(
        [[0.6, 0.4, 0], [0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.3, 0, 0.7], [0.7, 0.3, 0]]
    )
    rows, guesses = most_confident(probs, torch.tensor([0, 1]), 3)
    assert rows.tolist() == [1, 5, 0, 2]
    assert guesses.tolist() == [0, 0, 0, 1]


def test_self_training_by_loops() -> None:
    pool = draw(3, size=80)
    features, labeled = pool.features.numpy(), pool.rows.tolist()
    target = pool.target.tolist()
    unlabeled = [i for i in range(80) if i not in labeled]
    classify = fit(features[labeled], target, 0.1)
    rounds = list(self_training(pool, shares=(0.3, 0.9), copies=3, c=0.1))
    for share, found in zip((0.3, 0.9), rounds, strict=True):
        rows, classes = labeled * 3, target * 3
        probs = classify(features)
        for c in range(CLASSES):
            own = [i for i in unlabeled if probs[i].argmax() == c]
            own = sorted(own, key=lambda i: -probs[i, c])[: round(share * 70 / CLASSES)]
            rows, classes = rows + own, classes + [c] * len(own)
        classify = fit(features[rows], classes, 0.1)
        same(found, classify(features), classify(pool.test.numpy()), 2e-3)
    assert len(list(self_training(pool, c=0.1))) == 4


@pytest.mark.parametrize("prior", [None, [0.1, 0.2, 0.3, 0.4]])
@pytest.mark.parametrize("count", [6, 50])
def test_propagation_by_loops(count: int, prior: list[float] | None) -> None:
    pool = draw()
    train, test, rows, target = arrays(pool)
    size = len(train)
    graph = np.zeros((size, size))
    for i in range(size):
        for j in nearest(train[i], train, count, own=i):
            graph[i, j] = max(0.0, train[i] @ train[j]) ** 3
    graph = graph + graph.T
    degree = graph.sum(axis=1)
    system = np.eye(size) - 0.99 * graph / np.sqrt(degree[:, None] * degree)
    z = np.zeros((size, CLASSES))
    for c in range(CLASSES):
        own = [i for i, y in zip(rows, target, strict=True) if y == c]
        start = np.zeros(size)
        start[own] = 1 / len(own)
        column = np.linalg.solve(system, start).clip(min=0)
        z[:, c] = column / column.sum() * (0.25 if prior is None else prior[c])
    z /= z.sum(axis=1, keepdims=True)
    z[rows] = np.eye(CLASSES)[target]
    new = []
    for x in test:
        near = nearest(x, train, min(count, size - 1))
        weights = softmax([x @ train[j] / 0.1 for j in near])
        new.append(sum(weight * z[j] for weight, j in zip(weights, near, strict=True)))
    given = None if prior is None else torch.tensor(prior)
    same(propagation(pool, neighbors=count, prior=given), z, new, 1e-4)


def test_propagation_gives_the_prior_where_no_label_comes() -> None:
    """Two rows that point away from all others."""
    features = torch.tensor(
        [[1.0, 0, 0], [0.9, 0.1, 0], [0.5, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 2]]
    )
    pool = Pool(features, torch.tensor([0, 3]), torch.tensor([0, 1]), 3, features[4:])
    found = propagation(pool, prior=torch.tensor([0.4, 1.2, 7]))
    wanted = torch.tensor([[0.25, 0.75, 0]] * 2).double()
    torch.testing.assert_close(found.train[4:], wanted)
    assert found.train[1, 0] > found.train[2, 0]


def cosines_to_nearest(rows: Array, others: Array, count: int, skip: bool = False) -> Array:
    """Matrix of the cosines to the nearest rows, 0 elsewhere."""
    found = np.zeros((len(rows), len(others)))
    for i, row in enumerate(rows):
        for j in nearest(row, others, count, own=i if skip else None):
            found[i, j] = row @ others[j]
    return found


def fit_gaussians(rows: Array, weight: Array) -> tuple[Array, Array]:
    """Unit means ``(C, F)``, and the variance around them ``(F,)``."""
    means = []
    for c in range(CLASSES):
        total = sum(weight[i, c] * rows[i] for i in range(len(rows)))
        means.append(total / np.linalg.norm(total))
    spread = [
        weight[i, c] * (rows[i] - means[c]) ** 2 for i in range(len(rows)) for c in range(CLASSES)
    ]
    return np.stack(means), np.sum(spread, axis=0) / weight.sum()


def test_transclip_by_loops() -> None:
    pool = draw()
    train, test, rows, target = arrays(pool)
    gamma, power, temperature = 0.02, 0.5, 0.3
    queries = [i for i in range(len(train)) if i not in rows]
    x, s, labels = train[queries], train[rows], np.eye(CLASSES)[target]
    w = cosines_to_nearest(x, x, 3, skip=True)
    v = cosines_to_nearest(s, x, 3)
    mean, variance = fit_gaussians(s, labels)[0], np.full(6, 1 / 6)

    def step(row: Array, agreement: Array) -> Array:
        powers = neighbor_probs(row, s, target, temperature) ** power
        for c in range(CLASSES):
            distance = sum((row[d] - mean[c, d]) ** 2 / variance[d] for d in range(6))
            powers[c] *= math.exp(-distance / 2 / 50 + agreement[c])
        return powers / powers.sum()

    prior = np.stack([neighbor_probs(row, s, target, temperature) for row in x])
    z = prior
    for number in range(11):
        for _ in range(5):
            found = (w @ z + w.T @ z + v.T @ labels) / 6
            z = np.stack([step(row, found[i]) for i, row in enumerate(x)])
        if number < 10:
            weight = np.concatenate([z / len(x), 50 * gamma / len(s) * labels])
            mean, variance = fit_gaussians(np.concatenate([x, s]), weight)
    every = np.zeros((len(train), CLASSES))
    every[queries], every[rows] = z, labels
    found = cosines_to_nearest(test, train, 3) @ every / 3
    new = [step(row, found[i]) for i, row in enumerate(test)]
    same(transclip(pool, gamma=gamma, prior_weight=power, temperature=temperature), every, new)
    assert np.abs(z - prior).max() > 0.1


# What all of them keep

ALL: dict[str, Callable[[Pool], Transduced]] = {
    "class means": class_means,
    "soft nearest neighbours": soft_neighbors,
    "logistic regression": logistic,
    "label propagation": propagation,
    # With all neighbours, as of twins at the edge of the nearest one alone would count.
    "TransCLIP": lambda pool: transclip(pool, neighbors=50),
    "self-training": lambda pool: list(self_training(pool))[-1],
}
CLOSE = {"rtol": 0, "atol": 1e-3}


@pytest.mark.parametrize("baseline", ALL.values(), ids=ALL)
def test_the_order_of_rows_and_of_classes_does_not_matter(
    baseline: Callable[[Pool], Transduced],
) -> None:
    pool = draw(1)
    found = baseline(pool)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    names = torch.tensor([2, 0, 3, 1])
    moved = Pool(
        pool.features[order], order.argsort()[pool.rows], names[pool.target], CLASSES, pool.test
    )
    again = baseline(moved)
    torch.testing.assert_close(again.train[:, names], found.train[order], **CLOSE)
    torch.testing.assert_close(again.test[:, names], found.test, **CLOSE)


@pytest.mark.parametrize("baseline", ALL.values(), ids=ALL)
def test_a_class_without_a_label_has_no_part(baseline: Callable[[Pool], Transduced]) -> None:
    pool = draw(2)
    found = baseline(pool)
    spread = torch.tensor([0, 1, 3, 5])  # classes 2 and 4 are there and have no row
    wider = baseline(replace(pool, target=spread[pool.target], num_classes=6))
    for narrow, wide in zip(found, wider, strict=True):
        torch.testing.assert_close(wide[:, spread], narrow, **CLOSE)
        assert not wide[:, [2, 4]].any()


@pytest.mark.parametrize("baseline", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_twins_are_equal_and_probabilities_are_some(
    baseline: Callable[[Pool], Transduced], dtype: torch.dtype
) -> None:
    """An unlabelled row twice, an all-zero column, and any precision."""
    pool = draw(3)
    rows = pool.unlabeled[:3].tolist()
    features = torch.cat([pool.features, pool.features[rows]])
    features = torch.cat([features, torch.zeros(43, 1)], dim=1).to(dtype)
    pool = Pool(features, pool.rows, pool.target, CLASSES, features[:40])
    found = baseline(pool)
    torch.testing.assert_close(found.train[40:], found.train[rows], rtol=0, atol=1e-4)
    for probs in found:
        assert probs.dtype in (torch.float32, torch.float64)
        assert (probs >= 0).all()
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(len(probs)).to(probs))
    right = found.test.argmax(dim=1) == torch.arange(40) % CLASSES
    assert right.float().mean() > 0.6
    assert torch.equal(baseline(pool).train, found.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": torch.zeros(3, 5)}, r"`test` must have the shape .* got \(3, 5\)"),
        ({"features": torch.zeros(40)}, r"`features` must have the shape .* got \(40,\)"),
        ({"test": torch.full((2, 6), torch.nan)}, "`test` must be finite"),
        ({"rows": torch.arange(31, 41)}, r"`rows` must be in \[0, 40\), got values from 31 to 40"),
        (
            {"target": torch.arange(10) - 1},
            r"`target` must be in \[0, 4\), got values from -1 to 8",
        ),
        ({"rows": torch.tensor([0, 1] * 5)}, "`rows` must name each labelled row once"),
        ({"rows": torch.arange(39)}, "`rows` must leave two rows .* got 39 of 40"),
        ({"target": torch.tensor([0, 1])}, "for each of the 10 labelled rows, got 2"),
        ({"target": torch.ones(10).long()}, r"`target` must hold two classes at least, got \[1\]"),
    ],
)
def test_a_pool_that_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(draw(), **change)


# Real images


def test_on_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels as features, four labels a class: what unlabelled images add."""
    monkeypatch.undo()  # chunks of the usual size
    images, classes = load_digits(return_X_y=True)
    features, target = torch.from_numpy(images).float(), torch.from_numpy(classes).long()
    scores: dict[str, list[float]] = {}
    for seed in range(3):
        order = torch.randperm(1437, generator=torch.Generator().manual_seed(seed))
        rows = torch.cat([order[target[order] == c][:4] for c in range(10)])
        pool = Pool(features[:1437], rows, target[rows], 10, features[1437:])
        for name, found in run_baselines(pool):
            own = found.train[pool.unlabeled].argmax(dim=1) == target[pool.unlabeled]
            new = found.test.argmax(dim=1) == target[1437:]
            scores.setdefault(name, []).append(float(own.float().mean()))
            scores.setdefault(f"{name}, test", []).append(float(new.float().mean()))
    mean = {name: sum(values) / 3 for name, values in scores.items()}
    for part in ("", ", test"):
        assert mean[f"class means{part}"] > 0.75
        assert mean[f"soft nearest neighbours{part}"] > mean[f"class means{part}"]
        assert mean[f"label propagation{part}"] > mean[f"class means{part}"] + 0.04
        assert mean[f"TransCLIP without text{part}"] > mean[f"class means{part}"] + 0.03
        rounds = [mean[f"self-training, round {number}{part}"] for number in (1, 2, 3, 4)]
        assert rounds == sorted(rounds)
        assert rounds[-1] > mean[f"logistic regression{part}"] + 0.04
