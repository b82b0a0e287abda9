"""A checkpoint in Python says what `predict` writes, and what its network says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_ssl
from lightning_ssl.classifier import Classifier
from lightning_ssl.cli import main
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import FixMatch

from runs import fit, load, read_rows

LAST = "a/checkpoints/last.ckpt"
QUIET = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
CACHED = (
    *("--model.freeze_backbone", "true", "--data.cached_features", "true"),
    *("--data.features_dir", "store", "--data.cached_views", "1"),
)


@pytest.fixture
def photos() -> list[str]:
    """Digits as files, one of them broken, in an order of their own."""
    Path("photos").mkdir()
    for i, pixels in enumerate(SSLDataModule("digits").source.test.pixels[:8]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(f"photos/{i}.png")
    Path("photos/3.png").write_bytes(b"no image")
    names = [f"photos/{i}.png" for i in (5, 3, 0, 7)]
    Path("list.txt").write_text("\n".join(names))
    return names


@pytest.mark.parametrize(
    ("method", "options"),
    [
        # Trained on features, which were computed before; what is predicted are images.
        ("FixMatch", ("--data.num_labels", "40", "--data.val_per_class", "1", *CACHED)),
        ("PAWS", ("--data.batch_size", "20")),
    ],
)
def test_it_says_what_predict_writes(
    method: str, options: tuple[str, ...], photos: list[str]
) -> None:
    fit(method, "a", 3, *options)
    classifier = lightning_ssl.load(LAST, device="cpu")
    assert classifier.classes == tuple("0123456789")
    assert not any(p.requires_grad for p in classifier.method.parameters())
    with pytest.warns(UserWarning, match=r"1 of 4 images could not be read.*photos/3\.png"):
        found = classifier.predict("list.txt", batch_size=1)

    main(["predict", "--ckpt_path", LAST, "--data.root", "list.txt", *QUIET,
          "--predictions.top_k", "3"])  # fmt: skip
    few = read_rows("predictions.csv")
    main(["predict", "--ckpt_path", LAST, "--data.root", "list.txt", *QUIET,
          "--predictions.top_k", "all"])  # fmt: skip
    rows = read_rows("predictions.csv")
    assert list(rows[0]) == [
        *("path", "label", "probability", "outlier_score", "margin"),
        *(f"prob_{digit}" for digit in range(10)),
    ]
    assert list(few[0])[5:] == ["label_2", "probability_2", "label_3", "probability_3"]
    for name, one, row, short in zip(photos, found, rows, few, strict=True):
        assert one.image == row["path"] == short["path"] == name
        if name == "photos/3.png":
            assert one.label is None
            assert one.probabilities == {}
            assert {*row.values()} == {*short.values()} == {name, ""}
            continue
        for column in ("probability", "outlier_score", "margin"):
            assert float(row[column]) == pytest.approx(getattr(one, column), abs=1e-5)
        assert (
            one.label == row["label"] == max(one.probabilities, key=one.probabilities.__getitem__)
        )
        assert {digit: float(row[f"prob_{digit}"]) for digit in classifier.classes} == (
            pytest.approx(one.probabilities, abs=1e-5)
        )
        falling = list(one.probabilities.items())
        assert falling == sorted(falling, key=lambda pair: -pair[1])
        for place, (label, probability) in enumerate(falling[1:3], 2):
            assert short[f"label_{place}"] == label
            assert float(short[f"probability_{place}"]) == pytest.approx(probability, abs=1e-5)
        assert one.margin == pytest.approx(falling[0][1] - falling[1][1], abs=1e-6)

    logits = classifier.method(classifier.preprocess(photos[0])) / load("a").get("temperature", 1)
    assert logits.softmax(dim=1)[0].tolist() == pytest.approx(
        [found[0].probabilities[c] for c in classifier.classes], abs=1e-5
    )


def test_one_image_or_several() -> None:
    method = FixMatch(3, backbone="wrn_10_1")
    data = SSLDataModule(
        *("folder",), classes=["a", "b", "c"], image_size=8, mean=[0.5] * 3, std=[0.5] * 3
    )
    classifier = Classifier(method, data)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    several = classifier.predict(pixels, top_k=2)
    assert [len(one.probabilities) for one in several] == [2, 2]
    for form in (pixels[1], Image.fromarray(pixels[1]), [torch.from_numpy(pixels[1])]):
        (one,) = classifier.predict(form)
        assert one.probability == pytest.approx(several[1].probability, abs=1e-6)
    assert classifier.predict([]) == []
    for options in ({"top_k": 4}, {"top_k": 0}, {"batch_size": 0}, {"num_workers": -1}):
        (name, value) = next(iter(options.items()))
        with pytest.raises(ValueError, match=f"`{name}` must be .*, got {value}"):
            classifier.predict(pixels, **options)


def test_what_cannot_be_used_is_refused() -> None:
    fit("PAWS", "a", 3, "--data.batch_size", "20")
    checkpoint = load("a")
    del checkpoint["support"]
    torch.save(checkpoint, "early.ckpt")
    with pytest.raises(ValueError, match="written after a validation"):
        lightning_ssl.load("early.ckpt")
    for value in (0.0, -1.0, float("nan"), "1"):
        torch.save({**checkpoint, "temperature": value}, "odd.ckpt")
        with pytest.raises(ValueError, match="`temperature` must be a number above 0"):
            lightning_ssl.load("odd.ckpt")
    with pytest.raises(ValueError, match="`device` must be one that is there, got 'cdu'"):
        lightning_ssl.load(LAST, device="cdu")
    with pytest.raises(FileNotFoundError, match="`ckpt_path` must be a checkpoint"):
        lightning_ssl.load("no.ckpt")
    del checkpoint["SSLDataModule"]
    torch.save(checkpoint, "other.ckpt")
    with pytest.raises(ValueError, match="trained on an SSLDataModule"):
        lightning_ssl.load("other.ckpt")


def test_the_package_alone_imports_nothing() -> None:
    told = "import lightning_ssl, sys; print('torch' in sys.modules, lightning_ssl.__version__)"
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", lightning_ssl.__version__]
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        lightning_ssl.laod  # noqa: B018  # type: ignore[attr-defined]
