"""Exported classifiers: files that say what `predict` says, and scripts that need nothing of us."""

import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lightning_ssl
from lightning_ssl.classifier import Prediction
from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.export import formats
from lightning_ssl.export.network import Predictor
from lightning_ssl.methods import S4LRotation, SimMatch, Supervised

from runs import fit, load, read_rows

BEST = "a/checkpoints/best.ckpt"
QUIET = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")


@pytest.fixture
def photos() -> list[str]:
    """Noise of odd sizes, one turned by its EXIF data, one gray."""
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for name, shape in (("a", (40, 61, 3)), ("b", (33, 9, 3)), ("c", (8, 8, 3)), ("d", (30, 47))):
        tags = Image.Exif()
        tags[0x0112] = 6 if name == "a" else 1
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png", exif=tags)
    return [f"photos/{name}.png" for name in "abcd"]


def run_alone(
    names: Sequence[str],
    without: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[list[str]]:
    """What the script prints where this package cannot be imported."""
    with monkeypatch.context() as patch:
        for name in without:
            patch.setitem(sys.modules, name, None)  # type: ignore[arg-type]  # no such module
        patch.setattr(sys, "argv", ["predict.py", *names])
        capsys.readouterr()
        runpy.run_path("exported/predict.py", run_name="__main__")
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def agrees(told: list[list[str]], found: list[Prediction]) -> None:
    for (path, label, *numbers), one in zip(told, found, strict=True):
        assert (path, label) == (one.image, one.label)
        assert [float(n) for n in numbers] == pytest.approx(
            [one.probability, one.outlier_score], abs=1e-5
        )


def test_onnx_says_what_predict_says(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("FixMatch", "a", 20, "--data.num_labels", "40", "--data.val_per_class", "1",
        "--model.ema_decay", "0.5", "--data.exif_orientation", "true")  # fmt: skip
    main(["export", "--ckpt_path", BEST])
    assert sorted(p.name for p in Path("exported").iterdir()) == [
        *("README.md", "model.json", "model.onnx", "predict.py"),
    ]
    classifier = lightning_ssl.load(BEST, device="cpu")
    found = classifier.predict(photos)
    assert len({round(one.probability, 4) for one in found}) == 4
    agrees(run_alone(photos, ["lightning_ssl", "torch"], monkeypatch, capsys), found)
    main(["predict", "--ckpt_path", BEST, "--data.root", "photos", *QUIET])
    rows = read_rows("predictions.csv")
    names = ("path", "label", "probability", "outlier_score")
    agrees([[row[name] for name in names] for row in rows], found)

    described, checkpoint = json.loads(Path("exported/model.json").read_text()), load("a", "best")
    assert described["temperature"] == checkpoint["temperature"] != 1
    assert described["classes"] == list("0123456789")
    assert described["metrics"] == checkpoint["metrics"]
    card = Path("exported/README.md").read_text()
    for told in (f"{checkpoint['temperature']:.3f}", "30 labelled images, and 10 held out",
                 f"| val/acc | {checkpoint['metrics']['val/acc']:.4f} |",
                 f"{described['outlier_threshold']:.3f}", "`wrn_10_1`", "Licence"):  # fmt: skip
        assert told in card
    before = {p: p.read_bytes() for p in Path("exported").iterdir()}
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", BEST])
    assert "`output` must be a folder that is empty or can be made" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in Path("exported").iterdir()} == before


def test_a_program_of_torch_export_has_the_labelled_images_of_paws(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("PAWS", "a", 3, "--data.batch_size", "20")
    Path("exported").mkdir()
    main(["export", "--ckpt_path", BEST, "--format", "torch_export"])
    found = lightning_ssl.load(BEST, device="cpu").predict(photos)
    without = ["lightning_ssl", "pytorch_lightning", "timm"]
    agrees(run_alone(photos, without, monkeypatch, capsys), found)
    program = torch.export.load("exported/model.pt2")
    state = load("a", "best")["state_dict"]
    used = sum(v.numel() for n, v in state.items() if not n.startswith("classifier"))
    support = load("a", "best")["support"]["embeddings"]
    assert sum(v.numel() for v in program.state_dict.values()) <= used + support.numel() + 20 * 10


def test_weights_alone_are_merged_and_start_another_run(photos: list[str]) -> None:
    pytest.importorskip("peft")
    network = {"img_size": 8, "patch_size": 2}
    plain = Supervised(10, backbone="timm/test_vit", backbone_args=network)
    torch.save(plain.backbone.state_dict(), "network.pt")
    fit("FixMatch", "a", 3, "--model.backbone", "timm/test_vit", "--model.backbone_args",
        str(network), "--model.adapter", "lora", "--model.weights", "network.pt",
        "--model.optimizer.lr", "0.5", "--model.ema_decay", "0")  # fmt: skip
    run(["export", "--ckpt_path", BEST, "--format", "safetensors", "--output", "b/c",
         "--weights", "network.pt"])  # fmt: skip
    merged = load_file("b/c/model.safetensors")
    assert set(merged) == set(plain.state_dict())
    assert not Path("b/c/predict.py").exists()
    method = Supervised(
        10, backbone="timm/test_vit", backbone_args=network, weights="b/c/model.safetensors"
    ).eval()
    method.start_from_weights()
    classifier = lightning_ssl.load(BEST, device="cpu", weights="network.pt")
    images = classifier.preprocess(photos)
    with torch.no_grad():
        found = method(images).softmax(dim=1)
    assert torch.allclose(found, classifier.describe(images)["probabilities"], atol=1e-5)
    started = torch.load("network.pt", weights_only=True)
    assert not all(torch.equal(v, merged[f"backbone.{n}"]) for n, v in started.items())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (S4LRotation, {}),
        (SimMatch, {"num_labeled": 20}),
        (Supervised, {"head": "mlp"}),
        (Supervised, {"head_init": "class_means"}),
    ],
)
def test_the_plain_network_is_that_of_the_method(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    method = kind(3, backbone="wrn_10_1", **options)
    method.logit_temperature, method.labeled_features = 1.5, torch.randn(7, 64).half()
    torch.nn.init.normal_(list(method.classifier.parameters())[-2])
    form = {"classes": list("abc"), "image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    classifier = lightning_ssl.classifier.Classifier(method, SSLDataModule("folder", **form))
    images = torch.randn(5, 3, 8, 8)
    network = Predictor(classifier, images[:2])
    told = classifier.describe(images)
    for name, found in zip(network.outputs, network(images), strict=True):
        assert torch.allclose(found, told[name], atol=1e-6), name
    assert {name for name, _ in network.method.named_children()} == {"backbone", "classifier"}


def test_what_cannot_be_exported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: str) -> str:
        with pytest.raises(SystemExit):
            main(["export", *args])
        assert [p.name for p in Path().iterdir()] == ["a"]
        return capsys.readouterr().err

    fit("Supervised", "a", 2)
    capsys.readouterr()
    assert "`ckpt_path` must be a checkpoint file" in fails("--ckpt_path", "no.ckpt")
    assert "got 'a': it is not empty" in fails("--ckpt_path", BEST, "--output", "a")
    assert "got 'a/config.yaml/b'" in fails("--ckpt_path", BEST, "--output", "a/config.yaml/b")

    def write_other(network: Any, images: Any, path: Path) -> None:
        network.method.classifier.bias.add_(torch.linspace(0, 1e-3, 10))
        formats.FORMATS["torch_export"].write(network, images, path)

    other = replace(formats.FORMATS["torch_export"], write=write_other)
    monkeypatch.setitem(formats.FORMATS, "safetensors", other)
    said = fails("--ckpt_path", BEST, "--format", "safetensors")
    assert "`format` 'safetensors' does not fit this network" in said
    assert "Nothing was written" in said
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    said = fails("--ckpt_path", "no.ckpt")  # before the file is looked at
    assert (
        "`format` 'onnx' needs onnx, onnxruntime, onnxscript, which are not installed: pip" in said
    )
