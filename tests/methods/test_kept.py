"""Unlabelled images that do not count: their losses go, and nothing else changes."""

import inspect
import sys
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ssl import methods
from lightning_ssl.callbacks.labeled import LabeledFeatures
from lightning_ssl.methods.families.teacher import TeacherModule
from lightning_ssl.types import Batch, Samples

from steps import at_update

B, U = 4, 6
EVERYONE = torch.ones(U, dtype=torch.bool)
SOME = torch.tensor([True, False, True, True, False, False])

# Losses that are no sum over the images, or that need no pseudo-label, are switched off.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("FixMatch", {"threshold": 0.3}),
    ("FixMatch", {"threshold": 0.0, "temperature": 0.5}),
    ("FlexMatch", {"num_unlabeled": U, "threshold": 0.1}),
    ("FreeMatch", {"lambda_fairness": 0.0}),
    ("SoftMatch", {}),
    ("AdaMatch", {"threshold": 0.5, "ramp": 0.0}),
    ("Dash", {"warmup": 0.0, "rho_scale": 100.0}),
    ("UDA", {"threshold": 0.3}),
    ("DeFixMatch", {"threshold": 0.3}),
    ("ReFixMatch", {"threshold": 0.4}),
    ("SequenceMatch", {"num_unlabeled": U, "threshold": 0.1}),
    ("RegMixMatch", {"lambda_fairness": 0.0, "lambda_mix": 0.0, "lambda_cam": 0.0}),
    ("CRMatch", {"image_side": 16, "threshold": 0.3, "lambda_rotation": 0.0}),
    ("CoMatch", {"bank_size": 4, "threshold": 0.3}),
    ("SimMatch", {"num_labeled": B, "threshold": 0.3}),
    ("PseudoLabel", {"threshold": 0.3}),
    ("PiModel", {"ramp": 0.0}),
    ("MeanTeacher", {"ramp": 0.0}),
    ("MixMatch", {"ramp": 0.0}),
    ("ReMixMatch", {"ramp": 0.0, "lambda_rotation": 0.0}),
    ("PAWS", {"local_views": 2, "me_max": False}),
    ("RoPAWS", {"me_max": False}),
]


def step(module: Any, kept: Tensor | None) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
    """Loss, gradients and logged values of a step on the same noise, from the same state."""
    module = deepcopy(module)
    at_update(module, 5)
    module._trainer.estimated_stepping_batches, module._trainer.world_size = 10, 1
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, value)
    module.log_dict = lambda values, **_: logged.update(values)
    torch.manual_seed(1)

    def samples(stream: str, count: int, **more: Any) -> Samples:
        copies = module.views.get(stream, {})
        views = {
            name: torch.randn(k, count, 3, 16, 16, dtype=torch.float64)
            for name, k in copies.items()
        }
        return Samples(views, index=torch.arange(count), **more)

    labeled = samples("labeled", B, target=torch.arange(B))
    loss = module.training_step(Batch(0, labeled, samples("unlabeled", U, kept=kept)), 0)
    gradients = torch.autograd.grad(
        loss, [p for p in module.parameters() if p.requires_grad], materialize_grads=True
    )
    return loss.detach(), [*gradients], logged


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_losses_of_the_others_are_left(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = getattr(methods, name)(4, backbone="wrn_10_1", **options).double()
    monkeypatch.setattr(TeacherModule, "teacher", deepcopy(module))
    whole, slopes, _ = step(module, None)
    same, same_slopes, _ = step(module, EVERYONE)
    assert torch.equal(whole, same)
    assert all(torch.equal(*pair) for pair in zip(slopes, same_slopes, strict=True))

    # A sum over images with one divisor: what some give and what the others give is the whole.
    some, some_slopes, _ = step(module, SOME)
    others, other_slopes, _ = step(module, ~SOME)
    none, none_slopes, logged = step(module, ~EVERYONE)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(some + others, whole + none, **close)
    for one, two, all_, rest in zip(some_slopes, other_slopes, slopes, none_slopes, strict=True):
        torch.testing.assert_close(one + two, all_ + rest, **close)
    assert not torch.equal(some, whole)
    assert not torch.equal(some, none)
    if name != "DeFixMatch":  # which takes off a loss of labelled images
        torch.testing.assert_close(none, logged.get("train/loss_x", torch.zeros_like(none)))


@pytest.mark.parametrize("name", ["PAWS", "RoPAWS"])
def test_the_mean_prediction_is_that_of_the_images_that_count(name: str) -> None:
    torch.manual_seed(0)
    module = getattr(methods, name)(4, backbone="wrn_10_1").double()
    assert torch.equal(step(module, None)[0], step(module, EVERYONE)[0])
    found = step(module, SOME)[2]["train/loss_me_max"]
    assert -1.3863 <= float(found) < 0
    assert not torch.equal(found, step(module, None)[2]["train/loss_me_max"])


def test_every_method_that_teaches_with_predictions_is_here() -> None:
    classes = [getattr(methods, name) for name in methods.__all__ if name != "SSLModule"]
    sources = {c.__name__: inspect.getsource(sys.modules[c.__module__]) for c in classes}
    teach = {name for name, source in sources.items() if "log_pseudo_labels" in source}
    assert teach - {name for name, _ in CASES} == set()
    assert [name for name in teach if "kept" not in sources[name]] == []


def test_the_share_of_the_others_is_logged() -> None:
    logged: dict[str, Tensor] = {}
    module: Any = SimpleNamespace(log=logged.__setitem__, labeled_features=1)
    for kept in (None, torch.tensor([True, False, True, True])):
        batch = Batch(0, unlabeled=Samples({}, kept=kept))
        LabeledFeatures().on_train_batch_start(SimpleNamespace(), module, batch, 0)  # type: ignore
        assert len(logged) == (kept is not None)
    assert logged["train/outlier_rate"] == 0.25
    assert module.labeled_features is None
