"""Evaluation by the labelled images: which weights embed them, and where the embeddings go."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ssl.cli import run
from lightning_ssl.data import SSLDataModule, open_source
from lightning_ssl.methods import PAWS, SimCLR, SimCLRCT
from lightning_ssl.methods.families import projection

from runs import fit, load

Neighbors = tuple[Tensor, Tensor]
FAST = ("--model.local_views", "1", "--data.batch_size", "20", "--model.ema_decay", "0.5")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")


def normalized(data: Any, part: Any) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return (part.pixels.float() / 255 - mean) / std


def build(state: dict[str, Tensor], **options: Any) -> PAWS:
    module = PAWS(10, local_views=1, backbone="wrn_10_1", **options)
    module.load_state_dict(state)
    return module.eval()


def neighbors_by_loops(module: PAWS, data: Any, images: Tensor) -> Tensor:
    """Probabilities of soft nearest neighbours, image by image."""
    rows, train = data.split.labeled, data.source.train
    with torch.no_grad():
        support = module.embed(normalized(data, train)[rows]).double()
        queries = module.embed(images).double()
    found = torch.zeros(len(images), 10, dtype=torch.float64)
    for probs, query in zip(found, queries, strict=True):
        for labelled, y in zip(support, train.targets[rows].tolist(), strict=True):
            similarity = query @ labelled / query.norm() / labelled.norm()
            probs[y] += torch.exp(similarity / module.temperature)
        probs /= probs.sum()
    return found


def batches(*columns: Tensor) -> DataLoader[Any]:
    return DataLoader(list(zip(*(c.split(100) for c in columns), strict=True)), batch_size=None)


def probabilities(module: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module(images).exp()


# `fit_support`


@pytest.mark.parametrize("two_heads", [False, True])
def test_fit_support_embeds_as_evaluation_does(
    two_heads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_CHUNK", 3)
    module = PAWS(3, prediction_head=two_heads, backbone="wrn_10_1", temperature=0.2)
    module.project(torch.randn(16, 3, 8, 8))  # statistics that are not the initial ones
    images, target = torch.randn(10, 3, 8, 8), torch.arange(10) % 3
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert module.training
    module.fit_support(images, target)
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    module.eval()
    queries = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        features, seen = (super(PAWS, module).project(x)[0] for x in (images, queries))
        if two_heads:
            assert module.prediction is not None
            features, seen = module.prediction(features), module.prediction(seen)
    expected = torch.zeros(4, 3)
    for i in range(4):
        for j in range(10):
            cosine = torch.cosine_similarity(seen[i], features[j], dim=0)
            expected[i, target[j]] += torch.exp(cosine / 0.2)
    expected /= expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(probabilities(module, queries), expected, rtol=1e-4, atol=1e-5)
    module.fit_support(images[:1], target[:1])  # the old ones are gone
    torch.testing.assert_close(probabilities(module, queries)[:, 0], torch.ones(4))


def test_fit_support_embeds_with_the_weights_to_start_from() -> None:
    torch.manual_seed(0)
    trained, images = PAWS(10, backbone="wrn_10_1").eval(), torch.randn(20, 3, 8, 8)
    torch.save(trained.state_dict(), "weights.pt")
    module = PAWS(10, backbone="wrn_10_1", weights="weights.pt")
    module.fit_support(images, torch.arange(20) % 10)
    with torch.no_grad():
        expected = trained.embed(images)
    torch.testing.assert_close(module.classifier.support, expected, rtol=1e-5, atol=1e-6)


def test_fit_support_wants_a_class_for_each_image() -> None:
    with pytest.raises(ValueError, match="`target` must have 3 classes, got 2"):
        PAWS(10, backbone="wrn_10_1").fit_support(torch.zeros(3, 3, 8, 8), torch.zeros(2).long())


@pytest.mark.parametrize("method", [SimCLR, SimCLRCT])
def test_simclr_evaluates_at_a_tenth_whatever_it_trains_with(method: Any) -> None:
    module = method(2, backbone="wrn_10_1")
    assert module.temperature == 0.5
    module.classifier.fit(torch.eye(2), torch.tensor([0, 1]))
    probs = module.classifier(torch.tensor([[1.0, 0.0]])).exp()
    assert probs[0, 1].item() == pytest.approx(1 / (1 + math.exp(10)), rel=1e-5)


def test_training_forgets_the_support() -> None:
    module = SimCLR(10, backbone="wrn_10_1")
    module.fit_support(torch.randn(10, 3, 8, 8), torch.arange(10))
    trainer = Trainer(
        max_steps=1, limit_val_batches=0, logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, SSLDataModule("digits", num_labels=20, unlabeled_batch_size=16))
    assert not module.classifier.fitted
    with pytest.raises(RuntimeError, match="`fit_support`"):
        module(torch.randn(2, 3, 8, 8))


# Evaluation while training


def test_validation_compares_with_all_labelled_images_under_the_averaged_weights() -> None:
    cli = fit("PAWS", "a", 4, *FAST, "--data.num_labels", "50", "--model.optimizer.lr", "0.1")
    data, checkpoint = cli.datamodule, load("a")
    averaged, trained = (build(checkpoint[k]) for k in ("state_dict", "current_model_state"))
    images, target = normalized(data, data.source.test), data.source.test.targets
    probs = neighbors_by_loops(averaged, data, images)
    accuracy = (probs.argmax(dim=1) == target).double().mean().item()
    # Digits have no validation part, so the test set is looked at while training.
    assert cli.trainer.callback_metrics["test/acc"].item() == pytest.approx(accuracy, abs=1e-6)
    stored = checkpoint["support"]
    assert len(stored["target"]) == 50
    averaged.classifier.fit(stored["embeddings"], stored["target"])
    found = probabilities(averaged, images).double()
    torch.testing.assert_close(found, probs, rtol=1e-3, atol=1e-5)
    others = neighbors_by_loops(trained, data, images)
    assert (others - probs).abs().max() > 1e-2  # one can tell the two


class Save(Callback):
    """Save after each step and after each validation."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(f"trained{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Any, *args: Any) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(f"validated{trainer.global_step}.ckpt")


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_checkpoint_carries_embeddings_of_its_own_weights_or_none(ema_decay: float) -> None:
    module = PAWS(10, local_views=1, backbone="wrn_10_1", ema_decay=ema_decay)
    trainer = Trainer(
        max_steps=4, val_check_interval=2, callbacks=[Save()], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = SSLDataModule("digits", num_labels=20, batch_size=20, unlabeled_batch_size=16)
    trainer.fit(module, data)
    names = {path.stem for path in Path().glob("*.ckpt")}
    assert names == {*(f"trained{i}" for i in (1, 2, 3, 4)), "validated2", "validated4"}
    kept = {}
    for name in sorted(names):
        checkpoint = torch.load(f"{name}.ckpt", weights_only=True)
        assert ("support" in checkpoint) == name.startswith("validated")
        if "support" in checkpoint:
            rows = data.split.labeled
            with torch.no_grad():
                embedded = build(checkpoint["state_dict"]).embed(
                    normalized(data, data.source.train)[rows]
                )
            kept[name] = checkpoint["support"]["embeddings"]
            torch.testing.assert_close(kept[name], embedded, rtol=1e-4, atol=1e-5)
            assert torch.equal(checkpoint["support"]["target"], data.source.train.targets[rows])
    assert (kept["validated2"] - kept["validated4"]).abs().max() > 1e-3


# Prediction without labelled images


def test_a_checkpoint_predicts_without_labelled_images() -> None:
    cli = fit("PAWS", "a", 4, *FAST, "--model.optimizer.lr", "0.1")
    images = normalized(cli.datamodule, cli.datamodule.source.test)
    expected = neighbors_by_loops(build(load("a")["state_dict"]), cli.datamodule, images)
    loaded = PAWS.load_from_checkpoint("a/checkpoints/last.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    predicted = trainer.predict(loaded, batches(images, torch.arange(360)))
    assert predicted is not None
    probs = torch.cat([part["probs"] for part in predicted]).double()
    torch.testing.assert_close(probs, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(probs.argmax(dim=1), expected.argmax(dim=1))


def test_the_command_line_predicts_a_folder_of_unlabelled_images() -> None:
    cli = fit("PAWS", "a", 4, *FAST, "--model.optimizer.lr", "0.1")
    test = open_source("digits").test
    Path("photos").mkdir()
    for i in range(30):
        Image.fromarray(test.pixels[i].permute(1, 2, 0).squeeze().numpy()).save(
            f"photos/{i:02}.png"
        )
    run(["predict", "--ckpt_path", "a/checkpoints/last.ckpt", "--data.root", "photos", *QUIET])
    lines = Path("predictions.csv").read_text().splitlines()[1:]
    images = normalized(cli.datamodule, test)[:30]
    expected = neighbors_by_loops(build(load("a")["state_dict"]), cli.datamodule, images)
    names = [int(Path(line.split(",")[0]).stem) for line in lines]
    assert sorted(names) == list(range(30))
    found = {name: line.split(",")[1] for name, line in zip(names, lines, strict=True)}
    assert [found[i] for i in range(30)] == [str(c) for c in expected.argmax(dim=1).tolist()]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_a_checkpoint_predicts_in_another_precision(precision: str) -> None:
    cli = fit("PAWS", "a", 4, *FAST)
    (tested,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    run(["predict", "--ckpt_path", "a/checkpoints/last.ckpt", "--data.dataset", "digits", *QUIET,
         "--trainer.precision", precision])  # fmt: skip
    lines = Path("predictions.csv").read_text().splitlines()[1:]
    targets = cli.datamodule.source.test.targets.tolist()
    right = sum(line.split(",")[1] == str(y) for line, y in zip(lines, targets, strict=True))
    assert right / 360 == pytest.approx(tested["test/acc"], abs=0.05)


def test_a_checkpoint_of_float64_is_opened_in_float32() -> None:
    fit("PAWS", "a", 2, *FAST, "--trainer.precision", "64-true")
    module = PAWS.load_from_checkpoint("a/checkpoints/last.ckpt").eval()
    probs = probabilities(module, torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("data", [("--data.root", "photos"), ("--data.dataset", "digits")])
def test_without_embeddings_the_checkpoint_is_to_blame(data: tuple[str, str]) -> None:
    """No folder of unlabelled images is, and the data set has labels that the run did not have."""
    fit("PAWS", "a", 2, *FAST, "--trainer.limit_val_batches", "0")
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/one.png")
    with pytest.raises(ValueError, match="embeddings"):
        run(["predict", "--ckpt_path", "a/checkpoints/last.ckpt", *data, *QUIET])


def _test(path: str, *args: str) -> tuple[dict[str, float], Tensor]:
    cli = run(["test", "--ckpt_path", path, *QUIET, *args])
    metrics = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    return metrics, cli.model.classifier.support.clone()


@pytest.mark.ddp
def test_two_ranks_compare_with_the_same_images(two_ranks: Any) -> None:
    fit("PAWS", "a", 2, *FAST, "--data.num_labels", "25")  # 13 and 12
    path = "a/checkpoints/last.ckpt"
    metrics, support = _test(path)
    both = two_ranks.run(_test, path, "--trainer.strategy", "ddp", "--trainer.devices", "2")
    for found, embeddings in both:
        assert found == pytest.approx(metrics, abs=1e-6)
        torch.testing.assert_close(embeddings, support, rtol=1e-5, atol=1e-6)


# Without anything to compare with


def test_without_labelled_images_evaluation_says_what_is_missing() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module = PAWS(10, backbone="wrn_10_1")
    images, target = torch.randn(4, 3, 8, 8), torch.arange(4)
    message = "PAWS compares .* `support_dataloader` .got NoneType., or `fit_support`"
    unlabeled, labeled = batches(images, target), batches(images, target, target)
    with pytest.raises(ValueError, match=message):
        trainer.predict(module, unlabeled)
    with pytest.raises(ValueError, match=message):
        trainer.test(module, labeled, verbose=False)
    with pytest.raises(RuntimeError, match="call `fit_support`"):
        module(images)
    module.fit_support(images, target)
    trainer.predict(module, unlabeled)
    (tested,) = trainer.test(module, labeled, verbose=False)
    assert tested["test/acc"] == 1
