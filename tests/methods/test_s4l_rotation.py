"""S4L-Rotation against loops, and its two ways to evaluate."""

import pytest
import torch
from torch import nn

from lightning_ssl.cli import run
from lightning_ssl.methods import S4LRotation
from lightning_ssl.types import Batch, Samples

from runs import fit

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")


def linear(module, classes=3, values=12):
    """Replace the network of a method by one linear layer on the pixels for each head."""
    torch.manual_seed(0)
    module = module.double()
    module.backbone = nn.Flatten()
    module.classifier = nn.Linear(values, classes).double()
    module.rotation = nn.Linear(values, 4).double()
    return module


def make_batch(labeled=2, unlabeled=5, side=2, classes=3):
    generator = torch.Generator().manual_seed(1)
    x, u = (
        torch.randn(1, n, 3, side, side, generator=generator, dtype=torch.float64)
        for n in (labeled, unlabeled)
    )
    target = torch.randint(classes, (labeled,), generator=generator)
    return Batch(0, Samples({"weak": x}, target), Samples({"weak": u}))


def nll(logits, label):
    return -(logits[label] - torch.log(torch.exp(logits).sum()))


def losses_by_loops(module, batch):
    """Class loss and the two rotation losses, copy by copy."""
    x, u = batch.labeled.views["weak"][0], batch.unlabeled.views["weak"][0]
    losses = {"class": [], "labeled": [], "unlabeled": []}
    for name, images in (("labeled", x), ("unlabeled", u)):
        for i, image in enumerate(images):
            for k in range(4):
                pixels = torch.rot90(image, k, (-2, -1)).flatten()
                losses[name].append(nll(module.rotation(pixels), k))
                if name == "labeled":
                    losses["class"].append(nll(module.classifier(pixels), batch.labeled.target[i]))
    return {name: sum(parts) / len(parts) for name, parts in losses.items()}


def test_training_step_equals_loops():
    module = linear(S4LRotation(3, lambda_rotation=0.6, backbone="wrn_10_1"))
    batch = make_batch()
    loss = module.training_step(batch, 0)
    parts = losses_by_loops(module, batch)
    expected = parts["class"] + 0.6 * 0.5 * (parts["labeled"] + parts["unlabeled"])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    parameters = [*module.classifier.parameters(), *module.rotation.parameters()]
    found, wanted = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_one_batchnorm_batch_of_all_copies():
    module = S4LRotation(3, backbone="wrn_10_1").double()
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    module.training_step(make_batch(side=8), 0)
    assert seen == [4 * (2 + 5)]


def test_averaged_evaluation_is_the_mean_of_four_logits():
    plain = S4LRotation(3, backbone="wrn_10_1").double().eval()
    averaged = S4LRotation(3, average_rotations=True, backbone="wrn_10_1").double().eval()
    averaged.load_state_dict(plain.state_dict())
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    mean = sum(plain(torch.rot90(images, k, (-2, -1))) for k in range(4)) / 4
    torch.testing.assert_close(averaged(images), mean)
    assert (plain(images) - mean).abs().max() > 1e-3
    predicted = averaged.predict_step((images, torch.arange(5)), 0)
    torch.testing.assert_close(predicted["probs"], mean.softmax(1))
    # Training always sees each copy by itself.
    batch = make_batch(side=8)
    plain.train(), averaged.train()
    torch.testing.assert_close(averaged.training_step(batch, 0), plain.training_step(batch, 0))


def test_a_checkpoint_is_evaluated_in_both_ways():
    cli = fit("S4LRotation", "a", 30)
    data, module = cli.datamodule, cli.model.eval()
    images, target = (
        torch.cat(parts)
        for parts in zip(
            *((b[0], b[1]) for b in map(data_batch(data), data.test_dataloader())), strict=True
        )
    )
    command = ("test", "--ckpt_path", "a/checkpoints/last.ckpt", *QUIET)
    found = {
        flag: run([*command, "--model.average_rotations", flag]).trainer.callback_metrics
        for flag in ("false", "true")
    }
    with torch.no_grad():
        logits = torch.stack([module(torch.rot90(images, k, (-2, -1))) for k in range(4)])
    for flag, z in (("false", logits[0]), ("true", logits.mean(0))):
        expected = (z.argmax(1) == target).double().mean().item()
        assert found[flag]["test/acc"].item() == pytest.approx(expected, abs=1e-6)


def data_batch(data):
    return lambda batch: data.on_after_batch_transfer(batch, 0)


def test_a_negative_weight_is_an_error():
    with pytest.raises(ValueError, match=r"`lambda_rotation` must be at least 0, got -1"):
        S4LRotation(3, lambda_rotation=-1, backbone="wrn_10_1")
