"""Supervised: its heads, its loss, and what freezing leaves alone."""

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_ssl.cli import run
from lightning_ssl.methods import Supervised
from lightning_ssl.models import MLPHead, PredictionHead, ProjectionHead, build_backbone
from lightning_ssl.types import Batch, Samples

from runs import SMALL, fit, load


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


def as_suncet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A fine-tuned network with the names of the original PAWS code."""
    parts = (("backbone.", "module."), ("classifier.", "module.fc."))
    return {
        theirs + key.removeprefix(ours): value
        for key, value in state.items()
        for ours, theirs in parts
        if key.startswith(ours)
    }


NETWORK = ("--model.backbone", "paws_wrn_10_1", "--model.head", "mlp")


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_an_original_file_is_evaluated(stage: str) -> None:
    fit("Supervised", "a", 60, *NETWORK, "--model.ema_decay", "0")
    torch.save({"encoder": as_suncet(load("a")["state_dict"]), "epoch": 50}, "original.pth.tar")
    known = run([stage, "--ckpt_path", "a/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"])
    found = run([stage, "--model", "Supervised", *SMALL, *NETWORK,
                 "--model.weights", "original.pth.tar"])  # fmt: skip
    expected = {name: value.item() for name, value in known.trainer.callback_metrics.items()}
    assert expected["test/acc"] > 0.3
    metrics = {name: value.item() for name, value in found.trainer.callback_metrics.items()}
    assert metrics == expected


def test_images_are_predicted_with_an_original_file() -> None:
    torch.manual_seed(0)
    original = Supervised(3, "mlp", backbone="paws_wrn_10_1").eval()
    torch.nn.init.normal_(original.classifier.fc2.weight)
    torch.save({"encoder": as_suncet(original.state_dict())}, "original.pth.tar")
    module = Supervised(3, "mlp", backbone="paws_wrn_10_1", weights="original.pth.tar")
    images = torch.randn(5, 3, 8, 8)
    loader = torch.utils.data.DataLoader([(x, i) for i, x in enumerate(images)], batch_size=5)
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      accelerator="cpu")  # fmt: skip
    (found,) = trainer.predict(module, loader)
    torch.testing.assert_close(found["probs"], original(images).softmax(1))


def test_fine_tuning_starts_from_a_pretraining() -> None:
    torch.manual_seed(0)
    network = build_backbone("paws_wrn_10_1")
    encoder = {**network.state_dict()}
    for name, part in (("fc", ProjectionHead(64, 32)), ("pred", PredictionHead(32))):
        encoder |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    torch.save({"encoder": encoder, "epoch": 100}, "pretrained.pth.tar")
    fit("Supervised", "a", 1, *NETWORK, "--model.weights", "pretrained.pth.tar",
        "--model.optimizer.lr", "0")  # fmt: skip
    state = load("a")["current_model_state"]
    for name, parameter in network.named_parameters():
        assert torch.equal(state[f"backbone.{name}"], parameter), name
    assert torch.equal(state["classifier.fc1.weight"], encoder["fc.fc1.weight"])
    assert state["classifier.fc2.weight"].eq(0).all()


def test_an_unknown_head_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"`head` must be one of \('linear', 'mlp'\), got 'fc'"):
        Supervised(3, head="fc", backbone="wrn_10_1")  # type: ignore[arg-type]


def test_unlabelled_views_are_not_asked_for() -> None:
    cli = fit("Supervised", "a", 1)
    assert set(cli.model.views) == {"labeled"}
    assert isinstance(cli.trainer, Trainer)
    assert cli.datamodule._draw_views is None  # given back at the end
