"""Corrections for imbalanced classes against loops over images, values, gradients and state."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl.methods import FixMatch
from lightning_ssl.methods.corrections import (
    ABCHead,
    Correction,
    LogitAdjustment,
    ProgressiveAlignment,
)
from lightning_ssl.types import Batch, Samples

from by_hand import cross_entropy, softmax

COUNTS = (40, 11, 3, 1)
THRESHOLD, LAMBDA_U, STEPS = 0.6, 0.7, 60


def method(features: int | None = None, **options: Any) -> FixMatch:
    """FixMatch whose images are the logits or, with heads, the features."""
    module = FixMatch(
        *(4, THRESHOLD), lambda_u=LAMBDA_U, class_counts=COUNTS, backbone="wrn_10_1", **options
    ).double()
    module.backbone = nn.Flatten()
    if features is None:
        module.classifier = nn.Identity()
    module.log = lambda *args, **kwargs: None
    return module


def at(module: FixMatch, step: int) -> None:
    """Put a method at an update of a run."""
    module._trainer = SimpleNamespace(
        global_step=step, estimated_stepping_batches=STEPS, log_every_n_steps=0
    )


def views(step: int, width: int, scale: float = 1.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of three labelled and six times two unlabelled views, and classes."""
    generator = torch.Generator().manual_seed(step)
    bias = torch.linspace(1, -1, width, dtype=torch.float64).view(1, 1, width, 1, 1)
    drawn = [
        torch.randn(1, n, width, 1, 1, generator=generator, dtype=torch.float64) * scale + bias
        for n in (3, 6, 6)
    ]
    x, weak, strong = (d.requires_grad_() for d in drawn)
    return x, weak, strong, torch.randint(4, (3,), generator=generator)


def batch_of(x: Tensor, weak: Tensor, strong: Tensor, target: Tensor) -> Batch:
    return Batch(0, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))


def fixmatch_by_loops(
    logits_x: Tensor, target: Tensor, teachers: list[list[float]], logits_strong: Tensor
) -> Tensor:
    """FixMatch's loss where the teacher's probabilities are given."""
    loss = sum(cross_entropy(z, y) for z, y in zip(logits_x, target.tolist(), strict=True)) / 3
    for probs, strong in zip(teachers, logits_strong, strict=True):
        if max(probs) >= THRESHOLD:
            loss = loss + LAMBDA_U * cross_entropy(strong, probs.index(max(probs))) / 6
    return loss


def assert_equal(module: FixMatch, loss: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Compare values and gradients; the weak view has none."""
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_logit_adjustment_equals_loops() -> None:
    tau, labeled_tau, decay = 0.8, 1.2, 0.9
    options = {"tau": tau, "labeled_tau": labeled_tau, "decay": decay}
    module = method(imbalance="LogitAdjustment", imbalance_args=options)
    mean = [0.25] * 4
    kept = 0
    for step in range(STEPS):
        at(module, step)
        x, weak, strong, target = views(step, 4)
        loss = module.training_step(batch_of(x, weak, strong, target), 0)

        shift = torch.tensor([labeled_tau * math.log(n / sum(COUNTS)) for n in COUNTS])
        rows = weak.detach().flatten(2)[0].tolist()
        teachers = [
            softmax([z - tau * math.log(p) for z, p in zip(row, mean, strict=True)]) for row in rows
        ]
        # The margins of the strong view know this batch, the pseudo-labels did not.
        plain = [softmax(row) for row in rows]
        mean = [decay * mean[c] + (1 - decay) * sum(p[c] for p in plain) / 6 for c in range(4)]
        margins = torch.tensor([tau * math.log(p) for p in mean], dtype=torch.float64)
        expected = fixmatch_by_loops(
            *(x.flatten(2)[0] + shift, target, teachers, strong.flatten(2)[0] + margins)
        )
        assert_equal(module, loss, expected, x, weak, strong)
        assert module.imbalance.predicted.value.tolist() == pytest.approx(mean, rel=1e-6)
        kept += sum(max(p) >= THRESHOLD for p in teachers)
    assert 0 < kept < 6 * STEPS
    # The bias of the images towards the first classes is known by now.
    assert mean[0] > 2 * mean[3]


def test_progressive_alignment_equals_loops() -> None:
    final_power, window, eps = 0.25, 7, 1e-6
    options = {"final_power": final_power, "window": window}
    module = method(imbalance="ProgressiveAlignment", imbalance_args=options)
    means = [[0.25] * 4] * window
    for step in range(STEPS):
        at(module, step)
        x, weak, strong, target = views(step, 4)
        loss = module.training_step(batch_of(x, weak, strong, target), 0)

        power = 1 - (1 - final_power) * step / STEPS
        wanted = [(n / sum(COUNTS)) ** power for n in COUNTS]
        wanted = [w / sum(wanted) for w in wanted]
        model = [sum(m[c] for m in means) / window for c in range(4)]
        plain = [softmax(row) for row in weak.detach().flatten(2)[0].tolist()]
        teachers = []
        for p in plain:
            raised = [p[c] * (wanted[c] + eps) / (model[c] + eps) for c in range(4)]
            teachers.append([r / sum(raised) for r in raised])
        expected = fixmatch_by_loops(*(x.flatten(2)[0], target, teachers, strong.flatten(2)[0]))
        assert_equal(module, loss, expected, x, weak, strong)
        means = [*means[1:], [sum(p[c] for p in plain) / 6 for c in range(4)]]
        now = [sum(m[c] for m in means) / window for c in range(4)]
        assert module.imbalance.predicted.value.tolist() == pytest.approx(now, rel=1e-6)


def test_the_balanced_head_equals_loops() -> None:
    width, threshold = 64, 0.5
    options = {"threshold": threshold}
    module = method(width, imbalance="ABCHead", imbalance_args=options)
    assert isinstance(module.classifier, ABCHead)
    with torch.no_grad():
        module.classifier.weight.mul_(1.5)
    seen = {"labeled": 0, "unlabeled": 0, "doubtful": 0}
    for step in range(STEPS):
        at(module, step)
        x, weak, strong, target = views(step, width, scale=0.8)
        torch.manual_seed(step)
        loss = module.training_step(batch_of(x, weak, strong, target), 0)

        torch.manual_seed(step)
        luck_x, luck_u = torch.rand(3, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
        own, balanced = module.unbalanced, module.classifier
        teachers = [softmax(z) for z in own(weak.detach().flatten(2)[0]).tolist()]
        expected = fixmatch_by_loops(
            *(own(x.flatten(2)[0]), target, teachers, own(strong.flatten(2)[0]))
        )
        for z, y, luck in zip(balanced(x.flatten(2)[0]), target.tolist(), luck_x, strict=True):
            if luck < min(COUNTS) / COUNTS[y]:
                expected = expected + cross_entropy(z, y) / 3
                seen["labeled"] += 1
        soft = [softmax(z) for z in balanced(weak.detach().flatten(2)[0]).tolist()]
        for p, z, luck in zip(soft, balanced(strong.flatten(2)[0]), luck_u, strict=True):
            c = p.index(max(p))
            if max(p) >= threshold and luck < 1 - step / STEPS * (1 - min(COUNTS) / COUNTS[c]):
                for k in range(4):
                    expected = expected + p[k] * cross_entropy(z, k) / 6
                seen["unlabeled"] += 1
            seen["doubtful"] += max(p) < threshold
        assert_equal(module, loss, expected, x, weak, strong, *module.parameters())
    assert 10 < seen["labeled"] < 3 * STEPS - 10
    assert 10 < seen["unlabeled"] < 6 * STEPS - seen["doubtful"] - 10
    assert seen["doubtful"] > 10


@pytest.mark.parametrize("label", range(4))
def test_as_many_rows_of_every_class_count_in_the_balanced_head(label: int) -> None:
    head = ABCHead(2, COUNTS, threshold=1)  # nothing unlabelled is that confident
    with torch.no_grad():
        head.weight.zero_()  # an even prediction: every row that counts costs log 4
    torch.manual_seed(0)
    rows = 400 * COUNTS[label]
    target, features = torch.full((rows,), label), torch.zeros(rows, 2)
    loss = head.loss(features, features[:1], features[:1], target, 1.0).item()
    assert loss * rows / math.log(4) == pytest.approx(400 * min(COUNTS), rel=0.15)


def test_the_balanced_head_is_what_predicts() -> None:
    module = method(64, imbalance="ABCHead").eval()
    images = torch.randn(5, 64, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(module(images), module.classifier(images.flatten(1)))
    predicted = module.predict_step((images, torch.arange(5)), 0)["probs"]
    torch.testing.assert_close(predicted, module.classifier(images.flatten(1)).softmax(1))


def test_one_batch_for_all_heads_and_views() -> None:
    module = FixMatch(4, backbone="wrn_10_1", imbalance="ABCHead", class_counts=COUNTS)
    module.log = lambda *args, **kwargs: None
    at(module, 3)
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    unlabeled = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    labeled = Samples({"weak": torch.randn(1, 3, 3, 8, 8)}, torch.tensor([0, 1, 2]))
    module.training_step(Batch(0, labeled, Samples(unlabeled)), 0).backward()
    assert seen == [15]
    assert all(p.grad is not None for p in module.parameters())


def test_a_class_that_is_never_predicted_has_a_finite_margin() -> None:
    correction = LogitAdjustment(COUNTS, tau=1.0)
    correction.predicted.value.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    logits = torch.zeros(2, 4)
    assert correction.learn(logits).isfinite().all()
    assert correction.learn(logits)[0, 1].item() == pytest.approx(math.log(1e-6))


def test_without_a_name_nothing_is_corrected() -> None:
    module = FixMatch(4, backbone="wrn_10_1")
    assert type(module.imbalance) is Correction
    assert module.unbalanced is None
    assert not [name for name in module.state_dict() if name.startswith("imbalance")]


def _teach(name: str, rank_of: int) -> list[float]:
    """State after five batches, of which each rank sees its part."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    kinds = {"LogitAdjustment": LogitAdjustment, "ProgressiveAlignment": ProgressiveAlignment}
    correction, probs = kinds[name](COUNTS).double(), None
    module = method()
    at(module, 30)
    for step in range(5):
        _, weak, _, target = views(step, 4)
        logits = weak.detach().flatten(2)[0]
        part = logits.chunk(rank_of)[rank]
        probs = correction.teach(part, target, module)
    return [*correction.predicted.value.tolist(), *probs[0].tolist()]


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["LogitAdjustment", "ProgressiveAlignment"])
def test_two_ranks_keep_one_state(name: str, two_ranks: Any) -> None:
    one = _teach(name, 1)
    first, second = two_ranks.run(_init_and_teach, name)
    assert first == pytest.approx(one, rel=1e-12)
    assert second[:4] == first[:4]


def _init_and_teach(name: str) -> list[float]:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return _teach(name, 2)


@pytest.mark.parametrize(("done", "power"), [(0, 1.0), (STEPS, 0.25)])
def test_alignment_makes_classes_as_frequent_as_wanted(done: int, power: float) -> None:
    correction = ProgressiveAlignment(COUNTS, final_power=0.25).double()
    module = method()
    at(module, done)
    wanted = torch.tensor(COUNTS, dtype=torch.float64) ** power
    wanted = wanted / wanted.sum()
    means: dict[str, list[Tensor]] = {"plain": [], "aligned": []}
    for step in range(400):
        _, weak, _, target = views(step, 4)
        logits = weak.detach().flatten(2)[0]
        aligned = correction.teach(logits, target, module)
        if step >= 200:  # the window holds nothing but batches
            means["plain"].append(logits.softmax(dim=1).mean(dim=0))
            means["aligned"].append(aligned.mean(dim=0))
    plain, aligned = (torch.stack(rows).mean(dim=0) for rows in means.values())
    assert (aligned - wanted).abs().sum() < 0.5 * (plain - wanted).abs().sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imbalance": "DARP"}, "`imbalance` must be one of .* or null, got 'DARP'"),
        ({"imbalance": "ABCHead", "class_counts": None}, "`class_counts` must be 4 numbers .*None"),
        ({"imbalance": "ABCHead", "class_counts": [1, 2]}, r"must be 4 numbers .*\[1, 2\]"),
        ({"imbalance": "ABCHead", "class_counts": [3, 2, 0, 1]}, r"at least 1 .*\[3, 2, 0, 1\]"),
        ({"imbalance": "ABCHead", "imbalance_args": {"tau": 1}}, r"keys of \('threshold',\) .*tau"),
        ({"imbalance_args": {"tau": 1}}, r"keys of \(\) with `imbalance` None, got \('tau',\)"),
        (
            {"imbalance": "LogitAdjustment", "imbalance_args": {"tau": -1}},
            "`tau` must be at least 0, got -1",
        ),
        (
            {"imbalance": "ProgressiveAlignment", "imbalance_args": {"final_power": 2}},
            r"`final_power` must be in \[0, 1\], got 2",
        ),
        (
            {"imbalance": "ProgressiveAlignment", "imbalance_args": {"window": 0}},
            "`window` must be at least 1, got 0",
        ),
    ],
)
def test_errors_name_argument_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FixMatch(4, backbone="wrn_10_1", **({"class_counts": COUNTS} | options))


@pytest.mark.parametrize("name", ["ProgressiveAlignment", "ABCHead"])
def test_a_run_without_end_has_no_fraction(name: str) -> None:
    module = FixMatch(4, backbone="wrn_10_1", imbalance=name, class_counts=COUNTS)
    module.log = lambda *args, **kwargs: None
    module._trainer = SimpleNamespace(
        global_step=3, estimated_stepping_batches=math.inf, log_every_n_steps=0
    )
    images = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    labeled = Samples({"weak": torch.randn(1, 3, 3, 8, 8)}, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=f"`imbalance` must not be '{name}', in a run without end"):
        module.training_step(Batch(0, labeled, Samples(images)), 0)
