"""Supervised: its heads, its loss, and what freezing leaves alone."""

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_ssl.methods import Supervised
from lightning_ssl.models import MLPHead
from lightning_ssl.types import Batch, Samples

from runs import differences, fit, load


def test_the_loss_is_the_mean_cross_entropy() -> None:
    module = Supervised(3, backbone="wrn_10_1").double()
    images, target = torch.randn(1, 4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2, 1, 0])
    batch = Batch(0, Samples({"weak": images}, target))
    # Evaluation mode, so that a second pass sees the same network.
    module.eval()
    logits = module(images[0])
    by_hand = sum(
        -(z[y] - torch.log(torch.exp(z).sum())) for z, y in zip(logits, target, strict=True)
    )
    torch.testing.assert_close(module.training_step(batch, 0), by_hand / 4)


def test_mlp_head_starts_uniform_and_learns() -> None:
    cli = fit("Supervised", "a", 3, "--model.head", "mlp")
    assert isinstance(cli.model.classifier, MLPHead)
    assert Supervised(3, head="mlp", backbone="wrn_10_1")(torch.randn(2, 3, 8, 8)).eq(0).all()
    assert cli.model.classifier.fc2.weight.abs().sum() > 0


def test_a_frozen_backbone_keeps_weights_and_statistics() -> None:
    fit("Supervised", "before", 2)
    weights = ("--model.weights", "before/checkpoints/last.ckpt")
    fit("Supervised", "after", 3, *weights, "--model.freeze_backbone", "true")
    before = load("before")["state_dict"]
    after = load("after")["current_model_state"]
    changed = differences(before, after)
    assert changed == ["/classifier.bias", "/classifier.weight"]


def test_an_unknown_head_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"`head` must be one of \('linear', 'mlp'\), got 'fc'"):
        Supervised(3, head="fc", backbone="wrn_10_1")  # type: ignore[arg-type]


def test_unlabelled_views_are_not_asked_for() -> None:
    cli = fit("Supervised", "a", 1)
    assert set(cli.model.views) == {"labeled"}
    assert isinstance(cli.trainer, Trainer)
    assert cli.datamodule._draw_views is None  # given back at the end
