"""FixMatch against a loop over images, values and gradients."""

import math

import pytest
import torch

from lightning_ssl.losses import cross_entropy, pseudo_label_loss, softmax
from lightning_ssl.methods import FixMatch
from lightning_ssl.types import Batch, Samples

from by_hand import cross_entropy as cross_entropy_by_hand
from by_hand import pseudo_label


def loss_by_loops(
    logits_x: torch.Tensor,
    target: torch.Tensor,
    logits_weak: torch.Tensor,
    logits_strong: torch.Tensor,
    threshold: float,
    lambda_u: float,
    temperature: float | None,
) -> torch.Tensor:
    """Equations 3 and 4 of https://arxiv.org/abs/2001.07685, image by image."""
    labeled = torch.zeros((), dtype=torch.float64)
    for z, y in zip(logits_x, target.tolist(), strict=True):
        labeled = labeled - z[y] + torch.log(sum(torch.exp(v) for v in z))
    unlabeled = torch.zeros((), dtype=torch.float64)
    for weak, strong in zip(logits_weak.tolist(), logits_strong, strict=True):
        exponentials = [math.exp(v) for v in weak]
        confidence = max(exponentials) / sum(exponentials)
        if confidence >= threshold:
            target = pseudo_label([e / sum(exponentials) for e in exponentials], temperature)
            unlabeled = unlabeled + cross_entropy_by_hand(strong, target)
    return labeled / len(logits_x) + lambda_u * unlabeled / len(logits_weak)


@pytest.mark.parametrize("seed", range(50))
def test_training_step_equals_the_paper(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    threshold, lambda_u = [(0.95, 1.0), (0.7, 10.0), (0.5, 0.3), (0.0, 1.0), (1.0, 1.0)][seed % 5]
    temperature = [None, 0.5, 2.0][seed % 3]
    module = FixMatch(
        4, threshold, temperature=temperature, lambda_u=lambda_u, backbone="wrn_10_1"
    ).double()
    # The images are the logits: the network under test is the identity.
    module.backbone = torch.nn.Flatten()
    module.classifier = torch.nn.Identity()

    def logits(count: int, scale: float) -> torch.Tensor:
        drawn = torch.randn(1, count, 4, 1, 1, generator=generator, dtype=torch.float64) * scale
        return drawn.requires_grad_()

    x, weak, strong = logits(3, 2.0), logits(6, 3.0), logits(6, 2.0)
    target = torch.randint(4, (3,), generator=generator)
    batch = Batch(0, Samples({"weak": x}, target), Samples({"weak": weak, "strong": strong}))
    loss = module.training_step(batch, 0)
    expected = loss_by_loops(
        *(x.flatten(2)[0], target, weak.flatten(2)[0].detach(), strong.flatten(2)[0]),
        *(threshold, lambda_u, temperature),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(loss, (x, weak, strong), retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(expected, (x, strong), allow_unused=True)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)
    wanted_strong = torch.zeros_like(strong) if wanted[1] is None else wanted[1]
    torch.testing.assert_close(found[2], wanted_strong, rtol=1e-12, atol=1e-12)
    # The teacher learns nothing.
    assert found[1] is None or not found[1].any()


def test_labelled_and_unlabelled_rows_share_one_batchnorm_batch() -> None:
    module = FixMatch(4, backbone="wrn_10_1")
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    views = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    labeled = Samples({"weak": torch.randn(1, 3, 3, 8, 8)}, torch.tensor([0, 1, 2]))
    module.training_step(Batch(0, labeled, Samples(views)), 0)
    assert seen == [15]


def test_a_nest_of_dicts_is_a_batch() -> None:
    module = FixMatch(4, threshold=0.3, backbone="wrn_10_1")
    views = {name: torch.randn(1, 6, 3, 8, 8) for name in ("weak", "strong")}
    x, target = torch.randn(1, 3, 3, 8, 8), torch.tensor([0, 1, 2])
    named = Batch(0, Samples({"weak": x}, target), Samples(views))
    plain = {
        "labeled": {"views": {"weak": x}, "target": target},
        "unlabeled": {"views": views},
    }
    torch.testing.assert_close(
        module.training_step(named, 0), module.training_step(plain, 0), rtol=0, atol=0
    )
    with pytest.raises(ValueError, match="labeled"):
        module.training_step({"labelled": plain["labeled"]}, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=dtype, requires_grad=True)
    loss, mask = pseudo_label_loss(logits, softmax(-logits.detach()), threshold=0.95)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(120)
    assert mask.all()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=dtype))
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(0)


def test_confidence_equal_to_the_threshold_counts() -> None:
    probs = torch.tensor([[0.75, 0.25], [0.7499, 0.2501]], dtype=torch.float64)
    _, mask = pseudo_label_loss(torch.zeros(2, 2), probs, threshold=0.75)
    assert mask.tolist() == [True, False]
