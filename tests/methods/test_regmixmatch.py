"""RegMixMatch against loops over images, pixels and classes, values, gradients and state."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta

from lightning_ssl.losses import resize_mix
from lightning_ssl.methods import RegMixMatch
from lightning_ssl.methods.draws.partners import draw_box, draw_partners
from lightning_ssl.state.adaptive_thresholds import SelfAdaptiveThresholds
from lightning_ssl.types import Batch, Samples

from by_hand import SelfAdaptive, softmax

CLASSES, SIDE, B, U = 4, 9, 4, 8


def log_softmax(logits: Tensor) -> Tensor:
    return logits - torch.log(sum(torch.exp(v) for v in logits))


def draw_box_by_hand(alpha: float) -> tuple[int, int, int, int]:
    """A box as the official code draws it."""
    share = 0.1 + 0.7 * math.sqrt(Beta(alpha, alpha).sample().item())
    cut = int(SIDE * share)
    y, x = (int(v) for v in torch.randint(SIDE, (2,)))
    return (
        *(max(y - cut // 2, 0), max(x - cut // 2, 0)),
        *(min(y + cut // 2, SIDE), min(x + cut // 2, SIDE)),
    )


def paste_by_pixels(image: Tensor, partner: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Nearest pixels of the middle nine tenths."""
    top, left, bottom, right = box
    inner = int(SIDE * 0.9)
    start = (SIDE - inner) // 2
    rows = []
    for i in range(SIDE):
        row = []
        for j in range(SIDE):
            if top <= i < bottom and left <= j < right:
                y = start + (i - top) * inner // (bottom - top)
                x = start + (j - left) * inner // (right - left)
                row.append(partner[:, y, x])
            else:
                row.append(image[:, i, j])
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def mixed_by_loops(
    x: Tensor, target: list[int], teachers: list[list[float]], strong: Tensor, options: Any
) -> tuple[Tensor, Tensor, list[str]]:
    """Both losses of the mixed images, and what happened to each."""
    luck = torch.rand(U, dtype=torch.float64).tolist()
    box_mix, box_cam = draw_box_by_hand(options["alpha_mix"]), draw_box_by_hand(16.0)
    sure = [max(p) >= options["mix_threshold"] for p in teachers]
    labels = [p.index(max(p)) for p in teachers]
    lenders = [(x[i], target[i], False) for i in range(B)]
    lenders += [(strong[j], labels[j], True) for j in range(U) if sure[j]]
    mix, cam, kinds = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), []
    for j, p in enumerate(teachers):
        two = sorted(range(CLASSES), key=lambda c: -p[c])[:2]
        able = [(image, c) for image, c, own in lenders if (own if sure[j] else c in two)]
        q = [float(c == labels[j]) for c in range(CLASSES)] if sure[j] else list(p)
        image, box = strong[j], box_mix if sure[j] else box_cam
        if able:
            partner, c = able[int(luck[j] * len(able))]
            area = (box[2] - box[0]) * (box[3] - box[1]) / SIDE**2
            image = paste_by_pixels(image, partner, box)
            q = [(1 - area) * v + area * (k == c) for k, v in enumerate(q)]
        log_probs = log_softmax(image.mean(dim=(1, 2)))
        if sure[j]:
            mix = mix - sum(v * log_probs[k] for k, v in enumerate(q)) / U
        else:
            error = sum((torch.exp(log_probs[k]) - v) ** 2 for k, v in enumerate(q)) / CLASSES
            cam = cam + max(p) ** 3 * error / U
        kinds.append("sure" if sure[j] else "mixed" if able else "alone")
    return mix, cam, kinds


def test_training_step_equals_the_paper() -> None:
    options = {
        **{"lambda_u": 0.7, "lambda_fairness": 0.3, "lambda_mix": 0.6, "lambda_cam": 1.7},
        **{"mix_threshold": 0.75, "alpha_mix": 0.8, "decay": 0.9},
    }
    module = RegMixMatch(CLASSES, backbone="wrn_10_1", **options).double()
    # The mean colours of an image are its logits.
    module.backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.classifier = nn.Identity()
    state, seen = SelfAdaptive(CLASSES, 0.9), []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)

        def images(count: int, generator: torch.Generator = generator) -> Tensor:
            drawn = torch.randn(1, count, CLASSES, 1, 1, generator=generator, dtype=torch.float64)
            noise = torch.randn(1, count, CLASSES, SIDE, SIDE, generator=generator)
            return (drawn * 1.8 + noise.double()).requires_grad_()

        x, weak, strong = images(B), images(U), images(U)
        target = torch.randint(2, (B,), generator=generator)  # two classes have no labelled image
        torch.manual_seed(step)
        batch = Batch(0, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))
        loss = module.training_step(batch, 0)

        torch.manual_seed(step)
        teachers = [softmax(z) for z in weak.detach().mean(dim=(3, 4))[0].tolist()]
        state.update(teachers)
        logits_x, logits_strong = (v.mean(dim=(3, 4))[0] for v in (x, strong))
        expected = -sum(log_softmax(logits_x[b])[target[b]] for b in range(B)) / B
        kept = []
        for p, z in zip(teachers, logits_strong, strict=True):
            if max(p) >= state.thresholds()[p.index(max(p))]:
                expected = expected - 0.7 * log_softmax(z)[p.index(max(p))] / U
                kept.append(z)
        expected = expected + 0.3 * state.fairness(kept)
        mix, cam, kinds = mixed_by_loops(x[0], target.tolist(), teachers, strong[0], options)
        expected = expected + 0.6 * mix + 1.7 * cam
        seen += kinds

        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        inputs = (x, weak, strong)
        found = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        wanted = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        assert not found[1].any()
    assert module.adaptive.confidence.value.item() == pytest.approx(state.confidence)
    assert module.adaptive.probs.value.tolist() == pytest.approx(state.probs)
    assert module.adaptive.histogram.value.tolist() == pytest.approx(state.histogram)
    assert min(seen.count(kind) for kind in ("sure", "mixed", "alone")) > 10


def test_thresholds_start_at_chance_and_follow_the_rarest_class_down() -> None:
    adaptive = SelfAdaptiveThresholds(4, decay=0.9)
    assert adaptive.thresholds().tolist() == pytest.approx([0.25] * 4)
    for _ in range(200):
        adaptive.update(torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]))
    assert adaptive.thresholds().tolist() == pytest.approx([0.7, 0.7, 0.175, 0.175], rel=1e-4)


def test_partners_are_drawn_evenly_among_those_allowed() -> None:
    torch.manual_seed(0)
    allowed = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    partner, found = draw_partners(allowed.repeat_interleave(3000, dim=0))
    assert found.view(3, -1).all(dim=1).tolist() == [True, False, True]
    counts = torch.bincount(partner[:3000], minlength=4).tolist()
    assert counts == pytest.approx([1000, 0, 1000, 1000], abs=100)
    assert set(partner[6000:].tolist()) == {1}


def test_boxes_are_where_and_as_large_as_in_the_official_code() -> None:
    torch.manual_seed(0)
    sides = []
    for _ in range(2000):
        top, left, bottom, right = draw_box(32, 16.0)
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 32
        if top > 0 and bottom < 32:
            sides.append(bottom - top)
    # The root of a Beta(16, 16) variable is near 0.70: a side of 0.1 + 0.7 * 0.70 = 0.59.
    assert sum(sides) / len(sides) == pytest.approx(0.59 * 32, abs=1.5)
    boxes = [draw_box(32, 1.0) for _ in range(2000)]
    area = sum((b - t) * (r - le) for t, le, b, r in boxes) / 2000 / 32**2
    assert area == pytest.approx(0.24, abs=0.03)


def test_an_empty_box_changes_nothing() -> None:
    images, pasted = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert torch.equal(resize_mix(images, pasted, (3, 3, 3, 3)), images)


@pytest.mark.parametrize(("mix", "cam", "passes"), [(0, 0, [15]), (1, 0, [15, 6]), (0, 1, [15, 6])])
def test_without_weights_nothing_is_mixed(mix: float, cam: float, passes: list[int]) -> None:
    module = RegMixMatch(4, backbone="wrn_10_1", lambda_mix=mix, lambda_cam=cam)
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    unlabeled = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    labeled = Samples({"weak": torch.randn(1, 3, 3, 8, 8)}, torch.tensor([0, 1, 2]))
    module.training_step(Batch(0, labeled, Samples(unlabeled)), 0)
    assert seen == passes


def test_thresholds_keep_their_range() -> None:
    module = RegMixMatch(2, backbone="wrn_10_1", clip=(0.9, 0.95)).double()
    module.backbone, module.classifier = nn.Flatten(), nn.Identity()
    logits = torch.tensor([[2.0, 0.0], [2.5, 0.0]], dtype=torch.float64)  # 0.881 and 0.924
    views = {name: logits.view(1, 2, 2, 1, 1) for name in ("weak", "strong")}
    kept = []
    module.log_pseudo_labels = lambda probs, mask, hidden: kept.extend(mask.tolist())
    labeled = Samples({"weak": torch.zeros(1, 1, 2, 1, 1, dtype=torch.float64)}, torch.tensor([0]))
    module.training_step(Batch(0, labeled, Samples(views)), 0)
    assert kept == [False, True]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("mix_threshold", 1.2, r"in \[0, 1\]"),
        ("lambda_cam", -1, "at least 0"),
        ("alpha_mix", 0, "above 0"),
        ("alpha_mix", math.inf, "above 0"),
        ("alpha_cam", -1.0, "above 0"),
        ("decay", 1.0, r"in \[0, 1\)"),
        ("clip", (0.9, 0.8), r"two numbers in \[0, 1\] and not fall"),
    ],
)
def test_errors_name_argument_and_value(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}, got"):
        RegMixMatch(4, backbone="wrn_10_1", **{option: value})
