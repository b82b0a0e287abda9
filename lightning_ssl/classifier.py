"""A trained classifier in Python: from a checkpoint to the classes of images."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.augment import Normalize
from lightning_ssl.augment.base import to_float
from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.cli.checkpoint import known_to_checkpoint, restore_method
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.loading.fetch import EvaluationFetch
from lightning_ssl.data.loading.loader import EvaluationLoader
from lightning_ssl.data.sources.given import GivenImage, GivenImages, images_at
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.evaluation import SoftNearestNeighbors
from lightning_ssl.evaluation.predictions import describe_predictions
from lightning_ssl.methods import SSLModule


class Prediction(NamedTuple):
    """What a classifier says of an image.

    Attributes:
        image: Its file, or its place among the images that were given.
        label: The most probable class; None where the image cannot be read.
        probability: Of that class, in [0, 1]; of the calibrated probabilities, where the run had a
            validation part.
        margin: Difference of the two largest probabilities, in [0, 1].
        outlier_score: Cosine to the nearest labelled image, in [-1, 1], low where the image may
            show none of the classes; None where the checkpoint does not know them.
        probabilities: Class to probability, falling; of the classes that were asked for.
    """

    image: str
    label: str | None
    probability: float
    margin: float
    outlier_score: float | None
    probabilities: dict[str, float]


class Classifier:
    """A trained network, frozen, with the form of its images. Made by :func:`load`.

    Args:
        method: The method, with its trained weights; in evaluation mode from now on.
        data: What says how images look: side, channels, crop, interpolation, mean, deviation.

    Attributes:
        method: The method, of which ``method(images)`` are the logits of preprocessed images.
        classes: Names of the classes, in the order of the logits.
    """

    def __init__(self, method: SSLModule, data: SSLDataModule) -> None:
        self.method = method.eval().requires_grad_(False)
        self.data = data
        self.classes = data.classes
        self._normalize = Normalize(data.mean, data.std)

    def __repr__(self) -> str:
        """Method, classes and side of the images."""
        side = self.data.image_size
        name = type(self.method).__name__
        return f"Classifier({name}, {len(self.classes)} classes, {side} x {side} pixels)"

    def preprocess(self, images: Any) -> Tensor:
        """Images as the network takes them: cut, resized and normalised as in evaluation.

        Args:
            images: See :meth:`predict`.

        Returns:
            ``(N, C, S, S)``, on the device of the network.

        Raises:
            BrokenImageError: If one cannot be read.
        """
        found = self._find(images)
        pixels = EvaluationFetch(found, self.data.image_size)(torch.arange(len(found)))[0]
        return self._as_input(pixels)

    @torch.inference_mode()
    def predict(
        self, images: Any, top_k: int | None = None, batch_size: int = 64, num_workers: int = 0
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: A path: an image, a folder, or a list of files (a CSV with a column ``path``, or
                a ``.txt`` with a path a line, relative to the list). Or images: names of files,
                images of Pillow's, and arrays or tensors ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``
                of uint8 or floats in [0, 1], one or several.
            top_k: Number of classes that ``probabilities`` tells; None for all.
            batch_size: Images that go through the network at once.
            num_workers: Decoding processes; 0 decodes in this one.

        Returns:
            A prediction for each image, in their order.

        Raises:
            FileNotFoundError: If there is nothing at the path.
            TypeError: If an image is none.
            ValueError: If an argument is out of range.
        """
        count = len(self.classes) if top_k is None else top_k
        for name, value, low, high in (
            ("top_k", count, 1, len(self.classes)),
            ("batch_size", batch_size, 1, None),
            ("num_workers", num_workers, 0, None),
        ):
            if value < low or (high is not None and value > high):
                allowed = f"at least {low}" if high is None else f"in [{low}, {high}]"
                raise ValueError(f"`{name}` must be {allowed}, got {value}.")
        found = self._find(images)
        loader = EvaluationLoader(
            EvaluationFetch(found, self.data.image_size, with_target=False),
            torch.arange(len(found)),
            batch_size,
            stage="predict",
            num_workers=num_workers,
        )
        unknown: tuple[Any, ...] = (None, float("nan"), float("nan"), None, {})
        predictions = [Prediction(found.name(i), *unknown) for i in range(len(found))]
        for pixels, index in loader:
            if len(index):  # nothing of it can be read
                for row, known in zip(index.tolist(), self._describe(pixels, count), strict=True):
                    predictions[row] = Prediction(predictions[row].image, *known)
        lost = [one.image for one in predictions if one.label is None]
        if lost:
            rank_zero_warn(
                f"{len(lost)} of {len(found)} images could not be read; their labels are None. The "
                f"first: {', '.join(lost[:5])}."
            )
        return predictions

    @torch.inference_mode()
    def describe(self, images: Tensor, count: int = 1) -> dict[str, Tensor]:
        """What :meth:`predict` tells, of preprocessed images and as tensors.

        Args:
            images: ``(N, C, S, S)``, see :meth:`preprocess`.
            count: Number of classes that ``label`` and ``probability`` tell.

        Returns:
            ``probabilities`` ``(N, num_classes)`` in the order of ``classes``, and what
            :func:`~lightning_ssl.evaluation.predictions.describe_predictions` returns.
        """
        outputs = self.method.predict_step((images, torch.arange(len(images))), 0)
        probs, features = outputs["probs"], outputs["embedding"]
        found = describe_predictions(probs, features, known_features(self.method), count)
        return {"probabilities": probs, **found}

    def normalize(self, images: Tensor) -> Tensor:
        """Images as the network takes them, once they are cut and resized.

        Args:
            images: Floats in [0, 1], ``(N, C, S, S)``.
        """
        return self._normalize(images, {}).to(self.method.dtype)  # type: ignore[no-any-return]

    def _describe(self, pixels: Tensor, count: int) -> list[tuple[Any, ...]]:
        found = self.describe(self._as_input(pixels), count)
        columns = {name: values.tolist() for name, values in found.items()}
        scores = columns.get("outlier_score", [None] * len(pixels))
        rows = zip(columns["label"], columns["probability"], columns["margin"], scores, strict=True)
        return [
            (
                self.classes[labels[0]],
                values[0],
                margin,
                score,
                {self.classes[label]: value for label, value in zip(labels, values, strict=True)},
            )
            for labels, values, margin, score in rows
        ]

    def _as_input(self, pixels: Tensor) -> Tensor:
        return self.normalize(to_float(pixels.to(self.method.device)))

    def _find(self, images: Any) -> FileImages:
        form = (self.data.in_channels, self.data.exif_orientation)
        found: FileImages
        if isinstance(images, str | os.PathLike):
            found = images_at(os.fspath(images), *form, argument="images")
        else:
            found = GivenImages(_several(images), *form)
        return found.seen(self.data.crop_pct, self.data.interpolation)


def _several(images: Any) -> Sequence[GivenImage]:
    """Several images, of one or several."""
    if isinstance(images, Image.Image) or getattr(images, "ndim", 4) < 4:
        return [images]
    return list(images)


def load(ckpt_path: str | os.PathLike[str], device: str = "auto", **options: Any) -> Classifier:
    """Open the classifier of a checkpoint, such as ``runs/photos/checkpoints/best.ckpt``.

    The file may be anyone's: it is opened without unpickling, and its method has to be ours, of an
    installed package, or of a module that was imported before.

    Args:
        ckpt_path: The checkpoint, of a run on an ``SSLDataModule``.
        device: Where to predict: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` for an
            accelerator where there is one.
        **options: Arguments of the method in place of the checkpoint's, such as a ``backbone`` of
            your own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint, or ``device`` is not there.

    Example:
        >>> import lightning_ssl
        >>> classifier = lightning_ssl.load("best.ckpt")  # doctest: +SKIP
        >>> [(p.label, p.probability) for p in classifier.predict("photos")]  # doctest: +SKIP
    """
    path, backbone = os.path.expanduser(os.fspath(ckpt_path)), options.get("backbone")
    given = None if backbone is None else str(backbone)
    known = known_to_checkpoint(path, predict=True, backbone=given)
    method = restore_method(known, path, **options)
    compares = isinstance(method.classifier, SoftNearestNeighbors)
    if compares and not method.classifier.fitted:
        raise ValueError(
            "`ckpt_path` must be a checkpoint written after a validation, which carries the "
            f"embeddings of the labelled images, got '{path}' without."
        )
    try:
        method = method.to(_choose() if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's for names and for missing devices
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` must be one that is there, got '{device}': {reason}") from error
    return Classifier(method, SSLDataModule(**known["data"]["init_args"]))


def _choose() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
