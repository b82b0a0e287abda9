"""A step of PAWS and of RoPAWS against loops over images, values and gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl.methods import PAWS, RoPAWS
from lightning_ssl.types import Batch, Samples

WIDTH, CLASSES = 3, 5
Rows = list[Tensor]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()


def smooth(target: list[int], smoothing: float) -> list[list[float]]:
    present = set(target)
    return [
        [
            (smoothing / len(present) if k in present else 0) + (1 - smoothing) * (k == y)
            for k in range(CLASSES)
        ]
        for y in target
    ]


def classify(query: Tensor, support: Rows, labels: list[list[float]], tau: float) -> Rows:
    weights = [torch.exp(cos(query, s) / tau) for s in support]
    return [
        sum(w * label[k] for w, label in zip(weights, labels, strict=True)) / sum(weights)
        for k in range(CLASSES)
    ]


def sharpen(row: Rows, temperature: float) -> Rows:
    total = sum(p ** (1 / temperature) for p in row)
    return [p ** (1 / temperature) / total for p in row]


def ropaws(
    queries: Rows, support: Rows, labels: list[list[float]], options: dict[str, float]
) -> tuple[list[Rows], Rows]:
    tau, count = options["temperature"], len(queries)
    ratio = options["label_ratio"] * count / len(support)
    matrix, known = torch.eye(count), torch.zeros(count, CLASSES)
    for i, query in enumerate(queries):
        near = [ratio * torch.exp(cos(query, s) / tau) for s in support]
        others = [torch.exp(cos(query, q) / tau) if i != j else 0 for j, q in enumerate(queries)]
        closest = max(cos(query, s) for s in support)
        share = torch.exp((closest - 1) / options["prior_temperature"]) / (sum(near) + sum(others))
        for j, weight in enumerate(others):
            matrix[i, j] -= share * weight
        for weight, label in zip(near, labels, strict=True):
            known[i] += share * weight * torch.tensor(label)
    known = torch.linalg.inv(matrix) @ known
    belief = known.sum(dim=1)
    present = [k for k in range(CLASSES) if any(label[k] > 0 for label in labels)]
    filled = [
        [p + (1 - b) / len(present) * (k in present) for k, p in enumerate(row)]
        for row, b in zip(known, belief, strict=True)
    ]
    return filled, list(belief)


def average(rows: list[Rows]) -> Rows:
    return [sum(row[k] for row in rows) / len(rows) for k in range(CLASSES)]


def goal(taught: list[list[Rows]], v: int, i: int, options: dict[str, Any]) -> Rows:
    """What view v of image i shall predict."""
    if options["target"] == "mean":
        return sharpen(average([view[i] for view in taught]), options["sharpening"])
    others = [view[i] for w, view in enumerate(taught) if w != v]
    return average([sharpen(row, options["sharpening"]) for row in others])


def step_by_loops(
    target_support: Rows,
    anchor_support: Rows,
    target_views: list[Rows],
    anchor_views: list[Rows],
    target: list[int],
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, consistency and negative entropy; supports are ordered by view and image."""
    labels = smooth(target, options["label_smoothing"])
    taught: list[list[Rows]] = []
    beliefs = []
    for view in target_views:
        if "label_ratio" in options:
            probs, belief = ropaws(view, target_support, labels, options)
            beliefs.append(belief)
        else:
            probs = [classify(q, target_support, labels, options["temperature"]) for q in view]
        taught.append(probs)
    images, large = len(target_views[0]), len(target_views)

    consistency, found = torch.zeros(()), [[] for _ in range(images)]  # type: ignore[var-annotated]
    for v, view in enumerate(anchor_views):
        for i, anchor in enumerate(view):
            wanted = goal(taught, v, i, options)
            prediction = classify(anchor, anchor_support, labels, options["temperature"])
            weight = 1.0
            if beliefs:
                weight = (sum(b[i] for b in beliefs) / large).item() ** options["prior_power"]
            for k, p in enumerate(prediction):
                t = wanted[k].item()
                if t >= 1e-4:
                    consistency = consistency - weight * t * torch.log(p)
            found[i].append(prediction)
    consistency = consistency / (images * len(anchor_views))
    averaged = options["target"] == "mean"
    predicted = [average(rows) for rows in found] if averaged else [p for r in found for p in r]
    mean = average([sharpen(row, options["sharpening"]) for row in predicted])
    entropy = sum(m * torch.log(m) for m in mean if m > 0)
    total = consistency + entropy if options["me_max"] else consistency
    return total, consistency, entropy


OPTIONS: dict[str, Any] = {"temperature": 0.1, "sharpening": 0.25, "label_smoothing": 0.1}
OPTIONS |= {"me_max": True, "target": "swapped"}
OTHERS: dict[str, Any] = {"temperature": 0.5, "sharpening": 0.5, "label_smoothing": 0.0}
OTHERS |= {"me_max": True, "target": "mean"}
ROBUST = {"prior_temperature": 0.1, "prior_power": 1.0, "label_ratio": 5.0}
OTHER_ROBUST = {"prior_temperature": 3.0, "prior_power": 0.5, "label_ratio": 0.7, "me_max": False}


def build(method: Any, *views: int, prediction: nn.Module | None, **options: Any) -> Any:
    names = ("support_views", "global_views", "local_views")
    module = method(
        CLASSES, backbone="wrn_10_1", **dict(zip(names, views, strict=True)), **options
    ).double()
    # The images are the projections: network and projection are the identity.
    module.backbone, module.projection = nn.Flatten(), nn.Identity()
    module.prediction = prediction
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, value)
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module


def check(
    seed: int, method: Any, views: tuple[int, int, int], two_heads: bool, **options: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = nn.Linear(WIDTH, WIDTH) if two_heads else None
    module = build(method, *views, prediction=prediction, **options)

    def images(copies: int, count: int) -> Tensor:
        drawn = torch.randn(copies, count, WIDTH, 1, 1, generator=generator)
        return drawn.requires_grad_()

    support, large, small = images(views[0], 6), images(views[1], 4), images(views[2], 4)
    target = torch.tensor([0, 1, 3, 3, 0, 1])  # two classes are not there
    unlabeled = {"global": large, "local": small} if views[2] else {"global": large}
    batch = Batch(0, Samples({"support": support}, target), Samples(unlabeled))
    loss = module.training_step(batch, 0)

    def rows(values: Tensor) -> Rows:
        return [row for view in values.flatten(2) for row in view]

    def predict(values: Rows) -> Rows:
        return values if prediction is None else [prediction(row) for row in values]

    def per_view(values: Tensor) -> list[Rows]:
        return [rows(view[None]) for view in values]

    total, consistency, entropy = step_by_loops(
        [row.detach() for row in rows(support)],
        predict(rows(support)),
        [[row.detach() for row in view] for view in per_view(large)],
        [predict(view) for view in per_view(large) + per_view(small)],
        target.tolist() * views[0],
        options,
    )
    torch.testing.assert_close(loss, total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module.logged["train/loss"], total, rtol=1e-12, atol=1e-12)
    parts = (module.logged["train/loss_u"], module.logged["train/loss_me_max"])
    torch.testing.assert_close(parts, (consistency, entropy), rtol=1e-12, atol=1e-12)
    learns = [support, large, *([small] if views[2] else []), *module.parameters()]
    assert len(learns) == 2 + bool(views[2]) + 2 * two_heads
    gradients = (torch.autograd.grad(value, learns) for value in (loss, total))
    for one, two in zip(*gradients, strict=True):
        assert two.any()
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("two_heads", [False, True])
@pytest.mark.parametrize("local_views", [0, 1, 6])
@pytest.mark.parametrize("global_views", [2, 3])
@pytest.mark.parametrize("support_views", [1, 2])
class TestStep:
    def test_paws(
        self, support_views: int, global_views: int, local_views: int, two_heads: bool
    ) -> None:
        views = (support_views, global_views, local_views)
        for seed, options in enumerate((OPTIONS, OTHERS)):
            check(10 * sum(views) + seed, PAWS, views, two_heads, **options)

    def test_ropaws(
        self, support_views: int, global_views: int, local_views: int, two_heads: bool
    ) -> None:
        views = (support_views, global_views, local_views)
        for seed, options in enumerate((OPTIONS | ROBUST, OTHERS | OTHER_ROBUST)):
            check(10 * sum(views) + seed, RoPAWS, views, two_heads, **options)


@pytest.mark.parametrize("method", [PAWS, RoPAWS])
def test_for_two_equal_views_both_targets_are_one(method: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    support = torch.randn(2, 6, WIDTH, 1, 1, generator=generator)
    large = torch.randn(1, 4, WIDTH, 1, 1, generator=generator).expand(2, -1, -1, -1, -1)
    labeled = Samples({"support": support}, torch.tensor([0, 1, 3, 3, 0, 1]))
    losses = [
        build(method, 2, 2, 0, prediction=None, **OPTIONS | {"target": target}).training_step(
            Batch(0, labeled, Samples({"global": large})), 0
        )
        for target in ("swapped", "mean")
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-13, atol=1e-13)


def test_the_defaults() -> None:
    module = RoPAWS(CLASSES, backbone="wrn_10_1")
    expected = OPTIONS | ROBUST | {"support_views": 2, "global_views": 2, "local_views": 0}
    expected["prior_temperature"] = 3.0  # ImageNet's
    assert {name: getattr(module, name) for name in expected} == expected
    assert module.views == {"labeled": {"support": 2}, "unlabeled": {"global": 2}}
    six = PAWS(CLASSES, local_views=6, backbone="wrn_10_1").views
    assert six["unlabeled"] == {"global": 2, "local": 6}


@pytest.mark.parametrize("method", [PAWS, RoPAWS])
@pytest.mark.parametrize("local_views", [0, 6])
def test_supports_and_large_views_share_a_batch_and_small_views_have_their_own(
    method: Any, local_views: int
) -> None:
    torch.set_default_dtype(torch.float32)
    module = method(4, local_views=local_views, prediction_head=True, backbone="wrn_10_1")
    seen: dict[str, list[Tensor]] = {"backbone": [], "projection": [], "prediction": []}
    for name, calls in seen.items():
        getattr(module, name).register_forward_hook(lambda _, args, __, c=calls: c.append(args[0]))

    def images(first: int, copies: int, count: int, side: int = 8) -> Tensor:
        levels = torch.arange(first, first + copies * count).float().view(copies, count, 1, 1, 1)
        return levels.expand(-1, -1, 3, side, side)

    unlabeled = {"global": images(100, 2, 5), "local": images(200, local_views, 5, 5)}
    labeled = Samples({"support": images(0, 2, 4)}, torch.arange(4))
    module.training_step(Batch(0, labeled, Samples(unlabeled)), 0)
    expected = [[*range(8), *range(100, 110)]]
    if local_views:
        expected.append([*range(200, 230)])
    assert [call[:, 0, 0, 0].int().tolist() for call in seen["backbone"]] == expected
    for name in ("projection", "prediction"):
        assert [len(call) for call in seen[name]] == [len(call) for call in expected]


def test_the_targets_alone_are_compared_with_hidden_classes() -> None:
    module = build(PAWS, 1, 2, 0, prediction=None, **OPTIONS)
    support = torch.eye(3)[None, :, :, None, None]
    large = torch.eye(3)[[0, 1, 2, 0]].expand(2, -1, -1)[..., None, None]
    labeled = Samples({"support": support}, torch.tensor([0, 1, 2]))
    # One is wrong, one is not known.
    hidden = torch.tensor([0, 2, 2, -1])
    module.training_step(Batch(0, labeled, Samples({"global": large}, hidden_target=hidden)), 0)
    assert module.logged["train/pseudo_acc"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(("method", "name", "value"), [
    (PAWS, "support_views", 0), (PAWS, "global_views", 1), (PAWS, "local_views", -1),
    (PAWS, "sharpening", 0.0), (PAWS, "sharpening", 1.5), (PAWS, "label_smoothing", 1.0),
    (PAWS, "label_smoothing", -0.1), (PAWS, "temperature", 0.0), (PAWS, "output_dim", 0),
    (PAWS, "target", "median"),
    (RoPAWS, "prior_temperature", 0.0), (RoPAWS, "prior_power", -1.0), (RoPAWS, "label_ratio", 0.0),
])  # fmt: skip
def test_arguments_out_of_range(method: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be .*, got '?{value}'?\."):
        method(CLASSES, backbone="wrn_10_1", **{name: value})
