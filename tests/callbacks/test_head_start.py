"""Classifiers that start from the labelled images: in which runs, on which ranks, with what."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ssl import methods
from lightning_ssl.callbacks import EMA
from lightning_ssl.data import SSLDataModule
from lightning_ssl.evaluation.head_start import start_classifier
from lightning_ssl.lightning_private import average_of
from lightning_ssl.methods import FixMatch, Supervised
from lightning_ssl.types import Batch, Samples

from runs import differences, fit, load

MEANS = ("--model.head_init", "class_means")
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu",
                         "enable_checkpointing": False, "enable_model_summary": False}  # fmt: skip


class Start(Callback):
    """Keep the weights with which training starts, and what the average predicts."""

    def __init__(self, images: Tensor | None = None) -> None:
        self.images = images

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}
        self.modes = {name: part.training for name, part in module.named_modules()}
        if self.images is not None:
            (ema,) = [c for c in trainer.callbacks if isinstance(c, EMA)]
            average = average_of(ema)
            assert average is not None
            average.eval()
            with torch.no_grad():
                self.predicted = average.module(self.images).argmax(dim=1)
            average.train()


def start(module: Any, data: Any, images: Tensor | None = None) -> Start:
    watch = Start(images)
    Trainer(max_steps=1, callbacks=[watch], **QUIET).fit(module, data)
    return watch


def digits(**options: Any) -> SSLDataModule:
    return SSLDataModule("digits", num_labels=40, batch_size=8, unlabeled_batch_size=8, **options)


def embed(module: Any, data: Any, part: str) -> Tensor:
    pixels = getattr(data.source, part).pixels.float() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        found: Tensor = module.eval().embed((pixels - mean) / std)
    return found


def test_the_first_accuracy_is_that_of_the_nearest_class_mean() -> None:
    data = digits()
    torch.manual_seed(0)
    module = FixMatch(10, backbone="wrn_10_1", head_init="class_means", freeze_backbone=True)
    features = torch.nn.functional.normalize(embed(module, data, "train")).double()
    seen = torch.nn.functional.normalize(embed(module, data, "test")).double()
    labelled, classes = data.split.labeled, data.source.train.targets[data.split.labeled]
    means = torch.stack([features[labelled][classes == c].sum(dim=0) for c in range(10)])
    nearest = torch.nn.functional.cosine_similarity(seen[:, None], means[None], dim=2).argmax(dim=1)

    pixels = data.source.test.pixels.float() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    module.train()
    watch = start(module, data, (pixels - mean) / std)
    right = data.source.test.targets
    assert (watch.predicted == nearest).float().mean() > 0.99  # float32 decides ties
    accuracy = (watch.predicted == right).float().mean().item()
    assert accuracy == pytest.approx((nearest == right).float().mean().item(), abs=0.006)
    assert accuracy > 0.3  # chance is 0.1
    weight = watch.weights["classifier.weight"]
    wanted = torch.nn.functional.normalize(means) * weight[0].norm()
    torch.testing.assert_close(weight.double(), wanted, rtol=1e-3, atol=1e-3)
    # The modes are those of before: a frozen network evaluates, the rest trains.
    assert watch.modes["classifier"]
    assert watch.modes[""]
    assert not watch.modes["backbone"]


@pytest.mark.parametrize("kind", ["class_means", "probe"])
def test_features_in_the_place_of_images(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, target = torch.randn(12, 64, generator=generator), torch.arange(12) % 3
    batch = Batch(0, Samples({"weak": rows[None, :4]}, target[:4]),
                  Samples({"weak": rows[None], "strong": rows[None]}))  # fmt: skip

    class Cached(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

        def support_dataloader(self) -> Any:
            index = torch.arange(12)
            return [tuple(c[k::2] for c in (rows, target, index)) for k in range(2)]

    module = FixMatch(3, backbone="wrn_10_1", head_init=kind, freeze_backbone=True)
    found = start(module, Cached()).weights
    wanted = start_classifier(kind, rows, target, 3)
    torch.testing.assert_close(found["classifier.weight"], wanted.weight.float())
    torch.testing.assert_close(found["classifier.bias"], wanted.bias.float())


# Where it does not start anew


def test_a_run_resumes_bit_for_bit() -> None:
    each = (*MEANS, "--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
            "--trainer.callbacks.filename", "each", "--trainer.callbacks.every_n_train_steps", "1",
            "--trainer.callbacks+=probes.Leave", "--trainer.callbacks.step", "3",
            "--trainer.callbacks.checkpoint", "whole/checkpoints/each.ckpt")  # fmt: skip
    fit("FixMatch", "whole", 5, *each)
    fit("FixMatch", "resumed", 5, *each, "--ckpt_path", "left.ckpt")
    whole, resumed = load("whole"), load("resumed")
    states = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    assert [d for name in states for d in differences(whole[name], resumed[name], name)] == []
    assert whole["hyper_parameters"]["head_init"] == "class_means"


def test_a_trained_classifier_is_left() -> None:
    fit("FixMatch", "a", 3, *MEANS, "--model.ema_decay", "0")
    trained = load("a")["state_dict"]
    options: dict[str, Any] = {"backbone": "wrn_10_1", "head_init": "class_means", "ema_decay": 0}
    brought = Supervised(10, weights="a/checkpoints/last.ckpt", **options)
    loaded = FixMatch.load_from_checkpoint("a/checkpoints/last.ckpt")
    rows = torch.randn(5, 64)
    weight, bias = trained["classifier.weight"], trained["classifier.bias"]
    expected = torch.nn.functional.normalize(rows) @ weight.T + bias
    torch.testing.assert_close(loaded.classifier(rows), expected)
    with pytest.warns(UserWarning, match="leaves the classifier that `weights` brought"):
        assert differences(start(brought, digits()).weights, trained) == []
    for module in (loaded, FixMatch.load_from_checkpoint("a/checkpoints/last.ckpt")):
        assert differences(start(module, digits()).weights, trained) == []
        after = {name: value.clone() for name, value in module.state_dict().items()}
        assert differences(start(module, digits()).weights, after) == []


def test_other_weights_without_a_classifier_leave_it_to_start() -> None:
    fit("PAWS", "a", 2, "--data.batch_size", "20", "--model.ema_decay", "0")
    stored = load("a")["state_dict"]
    options: dict[str, Any] = {"backbone": "wrn_10_1", "weights": "a/checkpoints/last.ckpt"}
    data = digits()
    watch = start(Supervised(10, head_init="class_means", **options), data)
    module = Supervised(10, **options)
    module.start_from_weights()
    features = embed(module, data, "train")[data.split.labeled]
    target = data.source.train.targets[data.split.labeled]
    wanted = start_classifier("class_means", features, target, 10).weight.float()
    torch.testing.assert_close(watch.weights["classifier.weight"], wanted, rtol=1e-4, atol=1e-4)
    names = [name for name in stored if name.startswith("backbone.")]
    assert names
    assert all(torch.equal(watch.weights[name], stored[name]) for name in names)


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["class_means", "probe"])
def test_two_ranks_equal_one(kind: str, two_ranks: Any) -> None:
    options = ("--model.head_init", kind, "--model.threshold", "0.15", "--data.num_labels", "30",
               "--model.backbone_args", "{norm: none, bn_momentum: 0.1}",
               "--model.optimizer.lr", "0.01", "--trainer.precision", "64-true")  # fmt: skip
    fit("FixMatch", "one", 3, *options)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_fit, "FixMatch", "two", 3, *options, *ddp)
    one, two = load("one"), load("two")
    for name in ("current_model_state", "state_dict"):
        for key, value in one[name].items():
            torch.testing.assert_close(two[name][key], value, rtol=1e-10, atol=1e-10, msg=key)


def _fit(*args: Any) -> None:
    fit(*args)


@pytest.mark.parametrize(("method", "options", "reason"), [
    ("PAWS", {}, "labelled images themselves"), ("SimCLR", {}, "labelled images themselves"),
    ("VMFSNE", {}, "labelled images themselves"), ("MOAM", {}, "turned copies"),
    ("S4LRotation", {}, "turned copies"), ("Supervised", {"head": "mlp"}, "`head` is 'mlp'"),
    ("FixMatch", {"imbalance": "ABCHead", "class_counts": [3, 2]}, "`imbalance` 'ABCHead'"),
])  # fmt: skip
def test_methods_without_one_linear_head_say_why(
    method: str, options: dict[str, Any], reason: str
) -> None:
    build = getattr(methods, method)
    with pytest.raises(ValueError, match=rf"`head_init` must be 'none' for {method}, .*{reason}"):
        build(2, backbone="wrn_10_1", head_init="probe", **options)
    with pytest.raises(ValueError, match=r"`head_init` must be one of .* got 'mean'"):
        build(2, backbone="wrn_10_1", head_init="mean", **options)


def test_other_data_have_to_tell_the_labelled_images() -> None:
    rows = torch.randn(1, 4, 3, 8, 8)
    batch = Batch(0, Samples({"weak": rows}, torch.arange(4) % 2))
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    module = Supervised(2, backbone="wrn_10_1", head_init="probe")
    with pytest.raises(ValueError, match="`support_dataloader`, got NoneType"):
        Trainer(max_steps=1, **QUIET).fit(module, loader)
