"""The three views of FixMatch's kin, in one pass and in two."""

import copy

import pytest
import torch
from torch import nn

from lightning_ssl import methods
from lightning_ssl.methods import FixMatch
from lightning_ssl.types import Batch, Samples

from runs import differences


def make(**options):
    torch.manual_seed(0)
    return FixMatch(4, 0.3, backbone="wrn_10_1", **options).double()


def make_batch():
    generator = torch.Generator().manual_seed(1)

    def view(count):
        return torch.randn(1, count, 3, 8, 8, generator=generator, dtype=torch.float64)

    labeled = Samples({"weak": view(3)}, torch.tensor([0, 3, 1]))
    return Batch(0, labeled, Samples({"weak": view(5), "strong": view(5)}))


def step(module):
    loss = module.training_step(make_batch(), 0)
    return loss, torch.autograd.grad(loss, [*module.parameters()])


def test_a_separate_weak_pass_changes_nothing_without_norms():
    plain = {"backbone_args": {"norm": "none"}}
    (loss, slopes), (other, others) = step(make(**plain)), step(make(separate_weak=True, **plain))
    assert loss > 0
    torch.testing.assert_close(other, loss, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(others, slopes, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("separate", [False, True])
def test_the_views_of_an_image_stay_together(separate):
    """Each logit is that of its own image: the networks without norm know no batch."""
    module = make(separate_weak=separate, backbone_args={"norm": "none"})
    batch = make_batch()
    logits_x, probs, logits_strong, further = module.predict_views(batch)
    assert further == {}
    found = (logits_x, probs, logits_strong)
    images = (
        *(batch.labeled.views["weak"], batch.unlabeled.views["weak"]),
        batch.unlabeled.views["strong"],
    )
    for logits, view in zip(found, images, strict=True):
        wanted = torch.cat([module(row[None]) for row in view[0]])
        torch.testing.assert_close(logits, wanted.softmax(1) if logits is probs else wanted)
    assert [logits.requires_grad for logits in found] == [True, False, True]


def test_a_separate_weak_pass_is_normalised_by_itself_and_leaves_statistics_alone():
    module, batch = make(separate_weak=True), make_batch()
    twin, seen = copy.deepcopy(module), []
    module.backbone.register_forward_hook(
        lambda _, args, __: seen.append((len(args[0]), torch.is_grad_enabled()))
    )
    logits_x, probs, logits_strong, _ = module.predict_views(batch)
    assert seen == [(5, False), (8, True)]
    together = torch.cat([batch.labeled.views["weak"][0], batch.unlabeled.views["strong"][0]])
    torch.testing.assert_close(torch.cat([logits_x, logits_strong]), twin(together))
    assert differences(dict(module.named_buffers()), dict(twin.named_buffers())) == []
    weak = twin(batch.unlabeled.views["weak"][0])
    torch.testing.assert_close(probs, weak.detach().softmax(1))
    assert all(part.training for part in module.modules())
    assert all(n.track_running_stats for n in module.modules() if isinstance(n, nn.BatchNorm2d))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_errors_name_argument_and_value(value):
    with pytest.raises(ValueError, match=f"`lambda_u` must be at least 0, got {value}"):
        make(lambda_u=value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("FixMatch", (0.95, 1.0)),
        ("SoftMatch", (2.0, 0.99, 1.0)),
        ("FreeMatch", (0.001, 0.99, (0.0, 1.0), 1.0)),
        ("FlexMatch", (9, 0.95, "convex", True, 1.0)),
        ("AdaMatch", (0.9, 0.99, 128, False, 0.5, 1.0)),
        ("Dash", (0.05, 0.03, 1.27, 1.0001, 0.05, 0.5, 1.0)),
        ("UDA", (0.8, 0.4, None, 1.0)),
        ("ReFixMatch", (0.95, 1.0)),
    ],
)
def test_a_weight_by_its_old_place_is_refused(name, values):
    """Where ``lambda_u`` stood other options follow now: they are given by name."""
    with pytest.raises(TypeError, match="positional"):
        getattr(methods, name)(4, *values, backbone="wrn_10_1")
