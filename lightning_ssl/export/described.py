"""What lies beside an exported network: its images and outputs as JSON, a script, a model card."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lightning_ssl
from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.classifier import Classifier
from lightning_ssl.data.sources.decoding import short_side
from lightning_ssl.evaluation.outliers import outlier_threshold
from lightning_ssl.export.network import Predictor

_PACKAGES = ("torch", "timm", "pytorch-lightning", "onnx", "onnxscript")


def describe(
    classifier: Classifier, network: Predictor, checkpoint: Mapping[str, Any], kind: str
) -> dict[str, Any]:
    """What a program has to know to use an exported network.

    Args:
        classifier: The classifier.
        network: What was exported.
        checkpoint: What its checkpoint holds.
        kind: The format.

    Returns:
        Plain values: the form of the images (``mode``, ``exif_orientation``, ``short_side``,
        ``size``, ``interpolation``, ``mean``, ``std``), ``classes``, ``outputs``, ``temperature``
        (which the probabilities contain), ``outlier_threshold`` and where it comes from.
    """
    data, labeled = classifier.data, known_features(classifier.method)
    several = labeled is not None and len(labeled) > 1
    threshold = outlier_threshold(labeled.float()) if labeled is not None and several else None
    return {
        "format": kind,
        "input": {"name": "images", "shape": ["batch", data.in_channels, *[data.image_size] * 2]},
        "outputs": list(network.outputs),
        "classes": list(classifier.classes),
        "mode": "RGB" if data.in_channels == 3 else "L",
        "exif_orientation": bool(data.exif_orientation),
        "short_side": short_side(data.image_size, data.crop_pct),
        "size": data.image_size,
        "crop_pct": data.crop_pct,
        "interpolation": data.interpolation,
        "mean": list(data.mean),
        "std": list(data.std),
        "temperature": network.temperature,
        "outlier_threshold": threshold,
        "method": type(classifier.method).__name__,
        "backbone": _network_name(classifier),
        "updates": checkpoint.get("global_step"),
        "metrics": checkpoint.get("metrics", {}),
        "versions": _versions(),
    }


def _network_name(classifier: Classifier) -> str:
    given = classifier.method.hparams.get("backbone")
    return given if isinstance(given, str) else type(classifier.method.backbone).__name__


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "lightning_ssl": lightning_ssl.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_OPEN = {
    "onnx": (
        "onnxruntime",
        "import onnxruntime\n",
        'model = onnxruntime.InferenceSession(folder / "model.onnx")',
        'model.run(None, {"images": pixels[None]})',
    ),
    "torch_export": (
        "torch",
        "import torch\n",
        'model = torch.export.load(folder / "model.pt2").module()',
        "map(torch.Tensor.numpy, model(torch.from_numpy(pixels[None])))",
    ),
}

_SCRIPT = '''"""Classify images: python predict.py IMAGE ... (needs numpy, pillow and {package})."""

import json
import sys
from pathlib import Path

import numpy as np
{imports}from PIL import Image, ImageOps

folder = Path(__file__).parent
form = json.loads((folder / "model.json").read_text(encoding="utf-8"))
{opened}
for path in sys.argv[1:]:
    image = {turned}.convert(form["mode"])
    sides, size = np.array(image.size), form["size"]
    resized = form["short_side"] * sides // sides.min()
    start, scale = np.round((resized - size) / 2), sides / resized
    box = (*(start * scale), *np.minimum((start + size) * scale, sides))
    way = Image.Resampling[form["interpolation"].upper()]
    pixels = np.asarray(image.resize((size, size), way, box, reducing_gap=3.0), "float32") / 255
    pixels = (pixels.reshape(size, size, -1) - np.float32(form["mean"])) / np.float32(form["std"])
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    probs, *far = (out[0] for out in {run})
    print(path, form["classes"][probs.argmax()], *(f"{{v:.6f}}" for v in (probs.max(), *far)))
'''


def script(described: Mapping[str, Any]) -> str | None:
    """A program that uses the file without this package; None for weights alone.

    Args:
        described: What :func:`describe` returned.
    """
    if described["format"] not in _OPEN:
        return None
    package, imports, opened, run = _OPEN[described["format"]]
    image = "Image.open(path)"
    turned = f"ImageOps.exif_transpose({image})" if described["exif_orientation"] else image
    text = _SCRIPT.format(package=package, imports=imports, opened=opened, run=run, turned=turned)
    return text if described["exif_orientation"] else text.replace("Image, ImageOps", "Image")
