"""Every method that takes a correction: its own loss, of logits that were corrected by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl import methods
from lightning_ssl.methods import SSLModule
from lightning_ssl.methods.families import WeakStrongModule
from lightning_ssl.types import Batch, Samples

from steps import at_update, images, read_images, same

COUNTS, C, STEPS = (40, 11, 3, 1), 4, 12
TAU, DECAY = 0.8, 0.7
# Method to options with which a step of few updates uses all of its loss.
TAKES: dict[str, dict[str, Any]] = {
    "FixMatch": {"threshold": 0.5},
    "FlexMatch": {"num_unlabeled": 6, "threshold": 0.5},
    "FreeMatch": {"lambda_fairness": 0.3},
    "SoftMatch": {},
    "AdaMatch": {"ramp": 0.0, "threshold": 0.6},
    "Dash": {"warmup": 0.0, "temperature": 0.7},
    "UDA": {"threshold": 0.4, "class_thresholds": True, "num_unlabeled": 6},
    "RegMixMatch": {"lambda_mix": 0.0, "lambda_cam": 0.0, "lambda_fairness": 0.3},
}


def test_the_table_names_all_of_the_family() -> None:
    family = {
        name
        for name in methods.__all__
        if issubclass(getattr(methods, name), WeakStrongModule)
        and getattr(methods, name).no_correction is None
    }
    assert family == set(TAKES)


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(methods, name)(C, backbone="wrn_10_1", **(TAKES[name] | options)).double()


def at(module: SSLModule, step: int) -> None:
    at_update(module, step)
    module._trainer.estimated_stepping_batches = STEPS  # type: ignore[union-attr]


def step_of(module: Any, step: int, *views: Tensor) -> Tensor:
    """Loss of a step, whose draws depend on the step alone."""
    x, x_strong, weak, strong = views
    target = torch.arange(3) % C
    at(module, step)
    torch.manual_seed(step)
    batch = Batch(
        step,
        Samples({"weak": x, "strong": x_strong}, target),
        Samples({"weak": weak, "strong": strong}, index=torch.arange(6)),
    )
    loss: Tensor = module.training_step(batch, step)
    return loss


@pytest.mark.parametrize("name", TAKES)
def test_logit_adjustment_is_the_method_on_adjusted_logits(name: str) -> None:
    # AdaMatch also counts how often classes are predicted for labelled images, from plain logits.
    labeled_tau = 0.0 if name == "AdaMatch" else 1.2
    args = {"tau": TAU, "labeled_tau": labeled_tau, "decay": DECAY}
    options = {"imbalance": "LogitAdjustment", "imbalance_args": args, "class_counts": COUNTS}
    module, plain, bare = (read_images(make(name, **more)) for more in (options, {}, {}))
    prior = labeled_tau * torch.tensor([math.log(n / sum(COUNTS)) for n in COUNTS]).double()
    mean, generator, gap = torch.full((C,), 1 / C).double(), torch.Generator().manual_seed(1), 0.0
    for step in range(STEPS):
        views = [images(n, C, generator) for n in (3, 3, 6, 6)]
        before = TAU * mean.log()
        mean = DECAY * mean + (1 - DECAY) * views[2].detach().flatten(2)[0].softmax(1).mean(0)
        shifts = (prior, prior, -before, TAU * mean.log())
        adjusted = [v + shift.view(C, 1, 1) for v, shift in zip(views, shifts, strict=True)]
        loss, expected = step_of(module, step, *views), step_of(plain, step, *adjusted)
        # The class frequencies went through float32.
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
        slopes = [torch.autograd.grad(v, views, materialize_grads=True) for v in (loss, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-7)
        assert not slopes[0][2].any()
        gap = max(gap, (loss - step_of(bare, step, *views)).abs().item())
    assert gap > 1e-2


@pytest.mark.parametrize("name", TAKES)
def test_a_balanced_classifier_adds_its_loss_and_predicts(name: str) -> None:
    width = 16
    options = {"imbalance": "ABCHead", "imbalance_args": {"threshold": 0.3}, "class_counts": COUNTS}
    module, plain = make(name, **options), make(name)
    for one in (module, plain):
        one.backbone = nn.Flatten()
        one.log = one.log_dict = lambda *args, **kwargs: None
    own = nn.Linear(width, C).double()
    balanced = type(module.classifier)(width, COUNTS, threshold=0.3).double()
    with torch.no_grad():
        balanced.weight.normal_()
    module.classifier, module.unbalanced, plain.classifier = balanced, own, own
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x, x_strong, weak, strong = views = [images(n, width, generator) for n in (3, 3, 6, 6)]
        loss = step_of(module, step, *views)
        expected = step_of(plain, step, *views)
        done, target = step / STEPS, torch.arange(3) % C
        labeled = torch.cat([x, x_strong], 1) if name == "AdaMatch" else x
        rows = (labeled.flatten(2)[0], weak.detach().flatten(2)[0], strong.flatten(2)[0])
        expected = expected + balanced.loss(*rows, target.repeat(len(rows[0]) // 3), done)
        same(loss, expected, *views, *own.parameters(), *balanced.parameters())
    seen = x[0]
    torch.testing.assert_close(module(seen), balanced(seen.flatten(1)))
