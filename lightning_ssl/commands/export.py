"""Write a trained classifier for programs that do without this package."""

import json
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ssl.classifier import Classifier, load
from lightning_ssl.cli.checkpoint import open_checkpoint
from lightning_ssl.export.card import card
from lightning_ssl.export.described import describe, script
from lightning_ssl.export.formats import FORMATS, check_installed, write_checked
from lightning_ssl.export.network import Predictor
from lightning_ssl.files import check_new_folder, making_folder, writing_text


def export(
    ckpt_path: str,
    output: str = "exported",
    format: Literal["onnx", "torch_export", "safetensors"] = "onnx",
    weights: str | None = None,
) -> None:
    """Write the classifier of a checkpoint as a folder of its own.

    ``model.onnx``, ``model.pt2`` (of ``torch.export``) or ``model.safetensors`` (weights alone),
    ``model.json`` with the form of its images, its classes and outputs, ``predict.py``, which uses
    the file without this package, and ``README.md``, a model card. The file says what ``predict``
    says, probabilities and outlier scores to 1e-5, which is tried before the folder appears;
    adapters are merged, averaged weights are taken, and any number of images may come at once.

    Args:
        ckpt_path: Checkpoint of a run, such as its ``best.ckpt``.
        output: The folder, which must be empty or missing.
        format: ``onnx`` (needs the extra ``export``), ``torch_export`` or ``safetensors``.
        weights: File of the weights that low-rank adapters belong to, where no package has them.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is none of a run, a package is missing, the folder holds something, or
            the format does not fit the network.
    """
    check_installed(format)
    check_new_folder(output, "output")
    options = {} if weights is None else {"weights": weights}
    classifier = load(ckpt_path, device="cpu", **options)
    checkpoint = open_checkpoint(ckpt_path)
    images = _noise(classifier)
    network = Predictor(classifier, images)
    expected = [classifier.describe(images)[name] for name in network.outputs]
    with making_folder(output) as name:
        folder = Path(name)
        file = folder / FORMATS[format].file
        difference = write_checked(format, network, images, expected, file)
        described = describe(classifier, network, checkpoint, format)
        texts = {
            "model.json": json.dumps(described, indent=1, ensure_ascii=False) + "\n",
            "predict.py": script(described),
            "README.md": card(described, checkpoint, difference, ckpt_path),
        }
        for place, text in texts.items():
            if text is not None:
                with writing_text(folder / place) as written:
                    written.write(text)
        size = file.stat().st_size / 1e6
    rank_zero_info(
        f"{output}: {file.name} ({size:.1f} MB, at most {difference:.1e} from the checkpoint's "
        "probabilities), with a model card in README.md."
    )


def _noise(classifier: Classifier) -> Tensor:
    """Images that differ: noise of several strengths, as preprocessing would leave it."""
    side = (classifier.data.in_channels, classifier.data.image_size, classifier.data.image_size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, *side, generator=generator)
    strength = torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1, 1)
    return classifier.normalize(0.5 + strength * (noise - 0.5))
