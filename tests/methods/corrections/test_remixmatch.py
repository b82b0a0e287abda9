"""ReMixMatch with corrections for imbalanced classes against loops, values and gradients."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl.methods import ReMixMatch
from lightning_ssl.methods.corrections import ABCHead
from lightning_ssl.types import Batch, Samples

from by_hand import cross_entropy, softmax

COUNTS = (40, 11, 3, 1)
SHARES = [n / sum(COUNTS) for n in COUNTS]
LAMBDA_U, LAMBDA_KL, STEPS, B, U = 0.8, 0.6, 50, 3, 6


def method(name: str, **options: Any) -> ReMixMatch:
    """ReMixMatch on pixels, which mixes nothing; its rotation has a test of its own."""
    torch.manual_seed(0)
    module = ReMixMatch(
        *(4, LAMBDA_U, LAMBDA_KL, 0.0), alpha=0.0, ramp=0.0, class_counts=COUNTS,
        imbalance=name, imbalance_args=options, backbone="wrn_10_1",
    ).double()  # fmt: skip
    module.backbone = nn.Flatten()
    with torch.no_grad():
        for head in (module.classifier, module.head):
            head.weight.mul_(2)
            head.bias.copy_(torch.linspace(0.5, -0.5, 4))
    module.log = lambda *args, **kwargs: None
    return module


def at(module: ReMixMatch, step: int) -> None:
    """Put a method at an update of a run."""
    module._trainer = SimpleNamespace(
        global_step=step, estimated_stepping_batches=STEPS, log_every_n_steps=0, global_rank=0
    )


def draw(step: int) -> tuple[Batch, list[Tensor]]:
    """A batch, and its images one view after the other, as rows: x, weak and two strong ones."""
    generator = torch.Generator().manual_seed(step)
    x, weak, strong = (
        torch.randn(*shape, 16, 2, 2, generator=generator, dtype=torch.float64)
        for shape in ((1, B), (1, U), (2, U))
    )
    target = torch.randint(4, (B,), generator=generator)
    batch = Batch(0, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))
    return batch, [view.flatten(1) for view in (*x, *weak, *strong)]


def normalized(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


def remixmatch_by_loops(
    head: nn.Module, views: list[Tensor], target: Tensor, teachers: list[list[float]],
    shift: Any = 0.0, margins: Any = 0.0,
) -> Tensor:  # fmt: skip
    """The loss where the teacher's probabilities and the margins are given."""
    x, weak, *strong = views
    guesses = [normalized([p**2 for p in probs]) for probs in teachers]
    loss: Any = sum(
        cross_entropy(head(row) + shift, y) / B for row, y in zip(x, target.tolist(), strict=True)
    )
    for view in (weak, *strong):
        for row, guess in zip(view, guesses, strict=True):
            loss = loss + LAMBDA_U * cross_entropy(head(row) + margins, guess) / (3 * U)
    for row, guess in zip(strong[0], guesses, strict=True):
        loss = loss + LAMBDA_KL * cross_entropy(head(row) + margins, guess) / U
    return loss  # type: ignore[no-any-return]


def assert_equal(module: ReMixMatch, loss: Tensor, expected: Tensor) -> None:
    """Compare values and gradients."""
    inputs = [p for name, p in module.named_parameters() if not name.startswith("rotation")]
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    found, wanted = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_logit_adjustment_equals_loops() -> None:
    tau, labeled_tau, decay = 0.8, 1.2, 0.9
    module = method("LogitAdjustment", tau=tau, labeled_tau=labeled_tau, decay=decay)
    mean = [0.25] * 4
    shift = torch.tensor([labeled_tau * math.log(share) for share in SHARES])
    for step in range(STEPS):
        at(module, step)
        batch, views = draw(step)
        loss = module.training_step(batch, 0)

        rows = module.head(views[1]).tolist()
        teachers = [
            softmax([z - tau * math.log(m) for z, m in zip(row, mean, strict=True)]) for row in rows
        ]
        plain = [softmax(row) for row in rows]
        mean = [decay * mean[c] + (1 - decay) * sum(p[c] for p in plain) / U for c in range(4)]
        margins = torch.tensor([tau * math.log(m) for m in mean], dtype=torch.float64)
        expected = remixmatch_by_loops(
            module.head, views, batch.labeled.target, teachers, shift, margins
        )
        assert_equal(module, loss, expected)
    assert mean[0] > 1.2 * mean[3]  # or margins would not matter


def aligned(plain: list[float], wanted: list[float], means: list[list[float]]) -> list[float]:
    model = [sum(m[c] for m in means) / len(means) for c in range(4)]
    return normalized([plain[c] * (wanted[c] + 1e-6) / (model[c] + 1e-6) for c in range(4)])


def test_progressive_alignment_is_in_the_place_of_the_own_alignment() -> None:
    final_power, window = 0.25, 7
    module = method("ProgressiveAlignment", final_power=final_power, window=window)
    means = [[0.25] * 4] * window
    for step in range(STEPS):
        at(module, step)
        batch, views = draw(step)
        loss = module.training_step(batch, 0)

        power = 1 - (1 - final_power) * step / STEPS
        wanted = normalized([share**power for share in SHARES])
        plain = [softmax(row) for row in module.head(views[1]).tolist()]
        teachers = [aligned(p, wanted, means) for p in plain]
        expected = remixmatch_by_loops(module.head, views, batch.labeled.target, teachers)
        assert_equal(module, loss, expected)
        means = [*means[1:], [sum(p[c] for p in plain) / U for c in range(4)]]


def test_the_balanced_head_equals_loops() -> None:
    threshold = 0.4
    module = method("ABCHead", threshold=threshold)
    balanced = module.classifier
    assert isinstance(balanced, ABCHead)
    means = [[0.25] * 4] * 128
    seen = {"labeled": 0, "unlabeled": 0}
    for step in range(STEPS):
        at(module, step)
        batch, views = draw(step)
        x, weak, strong, _ = views
        target = batch.labeled.target
        torch.manual_seed(step)
        loss = module.training_step(batch, 0)

        torch.manual_seed(step)
        torch.randperm(B + 3 * U)  # partners, which nothing is taken from
        luck_x, luck_u = torch.rand(B, dtype=torch.float64), torch.rand(U, dtype=torch.float64)
        plain = [softmax(row) for row in module.head(weak).tolist()]
        teachers = [aligned(p, SHARES, means) for p in plain]
        means = [*means[1:], [sum(p[c] for p in plain) / U for c in range(4)]]
        expected = remixmatch_by_loops(module.head, views, target, teachers)
        for row, y, luck in zip(x, target.tolist(), luck_x, strict=True):
            if luck < min(COUNTS) / COUNTS[y]:
                expected = expected + cross_entropy(balanced(row), y) / B
                seen["labeled"] += 1
        soft = [softmax(row) for row in balanced(weak).tolist()]
        for p, row, luck in zip(soft, strong, luck_u, strict=True):
            rare = min(COUNTS) / COUNTS[p.index(max(p))]
            if max(p) >= threshold and luck < 1 - step / STEPS * (1 - rare):
                expected = expected + cross_entropy(balanced(row), p) / U
                seen["unlabeled"] += 1
        assert_equal(module, loss, expected)
    assert 10 < seen["labeled"] < B * STEPS - 10
    assert 10 < seen["unlabeled"] < U * STEPS - 10


def test_images_for_the_balanced_head_take_one_pass_and_move_no_statistics() -> None:
    module = ReMixMatch(4, backbone="wrn_10_1", imbalance="ABCHead", class_counts=COUNTS)
    module.log = lambda *args, **kwargs: None
    at(module, 3)
    seen: list[int] = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    labeled = Samples({"weak": torch.randn(1, B, 3, 8, 8)}, torch.tensor([0, 1, 2]))
    unlabeled = {"weak": torch.randn(1, U, 3, 8, 8), "strong": torch.randn(2, U, 3, 8, 8)}
    module.training_step(Batch(0, labeled, Samples(unlabeled)), 0).backward()
    assert seen == [U, B + 3 * U, U, U, B + 2 * U]
    assert all(p.grad is not None for p in module.parameters())
    counted = [b for n, b in module.named_buffers() if n.endswith("num_batches_tracked")]
    assert counted
    assert all(count == 1 for count in counted)


@pytest.mark.parametrize("name", ["LogitAdjustment", "ProgressiveAlignment", "ABCHead"])
def test_a_class_without_labels_is_an_error(name: Any) -> None:
    with pytest.raises(ValueError, match=r"`class_counts` must be at least 1 .*\[3, 2, 0, 1\]"):
        ReMixMatch(4, backbone="wrn_10_1", imbalance=name, class_counts=[3, 2, 0, 1])


def test_checkpoints_of_before_the_balanced_classifier_was_composed_open() -> None:
    """They hold the alignment's state as the correction's own."""
    module, other = method("ABCHead"), method("ABCHead")
    at(module, 3)
    module.training_step(draw(0)[0], 0)  # which moves the alignment
    old = {n.replace("imbalance.plain.", "imbalance."): v for n, v in module.state_dict().items()}
    assert "imbalance.predicted.value" in old
    assert not torch.equal(other.state_dict()["imbalance.plain.predicted.value"],
                           old["imbalance.predicted.value"])  # fmt: skip
    other.load_state_dict(old)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
