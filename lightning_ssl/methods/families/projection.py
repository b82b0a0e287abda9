"""What the methods share that compare images in the space of a projection head."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ssl.callbacks.support import embed_support, has_support
from lightning_ssl.checks import check_count, check_temperature
from lightning_ssl.distributed import gather
from lightning_ssl.evaluation import SoftNearestNeighbors
from lightning_ssl.losses import (
    full_precision,
    promote,
    smooth_labels,
    soft_suncet_loss,
    suncet_loss,
)
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.models import PredictionHead, ProjectionHead, evaluating

_HEAD_ARGS = ("hidden_features", "layers", "norm", "activation")
_CHUNK = 256  # images that `fit_support` embeds at a time


class ProjectionModule(SSLModule, ABC):
    r"""Base of PAWS and SuNCEt: backbone, projection head, soft nearest neighbours.

    Evaluation compares each image with all labelled training images, embedded as evaluation sees
    them. With :class:`~lightning_ssl.data.SSLDataModule` (or any datamodule that has a
    ``support_dataloader`` of ``(images, target, index)``) that happens by itself, with the weights
    that are evaluated. A checkpoint written after a validation carries these embeddings, so that
    prediction needs nothing else. In other projects :meth:`fit_support` takes the labelled images.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        output_dim: Width of the space in which images are compared.
        prediction_head: Whether a second head follows the projection, as PAWS has on ImageNet.
        head_args: Further arguments of the heads: ``hidden_features``, ``norm``, ``activation``,
            and of the projection ``layers``; see :class:`~lightning_ssl.models.ProjectionHead`.
        temperature: Of the similarities, in units of the cosine, above 0.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    no_head_init = "which classifies by the labelled images themselves"
    classifier: SoftNearestNeighbors

    def __init__(
        self,
        num_classes: int,
        output_dim: int = 128,
        prediction_head: bool = False,
        head_args: dict[str, Any] | None = None,
        temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_count("output_dim", output_dim)
        options = dict(head_args or {})
        if set(options) - set(_HEAD_ARGS):
            raise ValueError(f"`head_args` must have keys of {_HEAD_ARGS}, got {tuple(options)}.")
        self.projection = ProjectionHead(self.num_features, output_dim, **options)
        self.prediction: nn.Module | None = None
        if prediction_head:
            options.pop("layers", None)
            self.prediction = PredictionHead(output_dim, **options)
        self.temperature = check_temperature(temperature)
        self.classifier = SoftNearestNeighbors(num_classes, temperature)

    # Network

    def project(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the heads.

        Args:
            images: Normalised images ``(B, C, H, W)``.

        Returns:
            Projections and predictions, each ``(B, output_dim)``, float32 at least; the same tensor
            where there is no prediction head.
        """
        projected = self.projection(super().embed(images))
        predicted = projected if self.prediction is None else self.prediction(projected)
        return promote(projected), promote(predicted)

    def project_together(self, *views: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Outputs of the heads from one pass, so that BatchNorm sees one batch.

        Args:
            *views: Images ``(copies, B, C, H, W)`` of one size; copies and B may differ.

        Returns:
            For each view projections and predictions, each ``(copies, B, output_dim)``.
        """
        flat = [view.flatten(0, 1) for view in views]
        outputs = zip(
            *(out.split([len(part) for part in flat]) for out in self.project(torch.cat(flat))),
            strict=True,
        )
        return [
            (h.unflatten(0, view.shape[:2]), z.unflatten(0, view.shape[:2]))
            for (h, z), view in zip(outputs, views, strict=True)
        ]

    def embed(self, images: Tensor) -> Tensor:
        """Where evaluation compares images: the output of the last head, in full precision.

        Evaluation is in float32 where training is in mixed precision, as in suncet.

        Args:
            images: Normalised images ``(B, C, H, W)``.

        Returns:
            ``(B, output_dim)``, float32 at least.
        """
        with full_precision(images):
            return self.project(images)[1]

    def gather_with_offset(self, rows: Tensor) -> tuple[Tensor, int]:
        """Rows of all processes, with gradient, and where this process's begin.

        Args:
            rows: ``(B, ...)``.
        """
        return gather(rows), self.global_rank * len(rows)

    def contrast_classes(self, z: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """SuNCEt loss of labelled images, with those of all processes as keys.

        Args:
            z: Embeddings of the views of this process's images, ``(copies, B, D)``.
            target: Classes of the images ``(B,)``, int64.
            label_smoothing: Share of a label that all classes of the step get, in [0, 1).
        """
        rows, target = z.flatten(0, 1), target.repeat(len(z))
        keys, offset = self.gather_with_offset(rows)
        everyone, tau = gather(target), self.temperature
        if label_smoothing:
            labels = smooth_labels(everyone, self.num_classes, smoothing=label_smoothing)
            return soft_suncet_loss(rows, labels, keys, temperature=tau, offset=offset)
        return suncet_loss(rows, target, keys, everyone, temperature=tau, offset=offset)

    # Evaluation

    def fit_support(self, images: Tensor, target: Tensor) -> None:
        """Take labelled images to compare with. Training forgets them; other weights need it again.

        Args:
            images: Normalised images ``(N, C, H, W)``.
            target: Their classes ``(N,)``, int64.

        Raises:
            ValueError: If there are not as many classes as images.
        """
        if len(images) != len(target):
            raise ValueError(f"`target` must have {len(images)} classes, got {len(target)}.")
        self.start_from_weights()
        with torch.no_grad(), evaluating(self):
            parts = [self.embed(part.to(self.device)) for part in images.split(_CHUNK)]
        self.classifier.fit(torch.cat(parts), target.to(self.device))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """See :meth:`SSLModule.on_train_batch_start`; embeddings of older weights are forgotten."""
        super().on_train_batch_start(batch, batch_idx)
        self.classifier.clear()

    def on_validation_epoch_start(self) -> None:
        """Embed the labelled images with the weights that are evaluated."""
        self._embed_support()

    def on_test_epoch_start(self) -> None:
        """Embed the labelled images with the weights that are evaluated."""
        self._embed_support()

    def on_predict_epoch_start(self) -> None:
        """Embed the labelled images, unless a checkpoint or the user brought embeddings.

        Raises:
            ValueError: If a checkpoint did not: its labels are unknown to data to be predicted.
        """
        if self.classifier.fitted:
            return
        if self.trainer.ckpt_path is not None:
            raise ValueError(
                "`ckpt_path` must be a checkpoint written after a validation, which carries the "
                f"embeddings of the labelled images, got '{self.trainer.ckpt_path}' without."
            )
        self._embed_support()

    def _embed_support(self) -> None:
        if has_support(self.trainer):
            self.classifier.fit(*embed_support(self.trainer, self))
        elif not self.classifier.fitted:
            data = getattr(self.trainer, "datamodule", None)
            raise ValueError(
                f"{type(self).__name__} compares images with labelled ones: `datamodule` must have "
                f"a `support_dataloader` (got {type(data).__name__}), or `fit_support` must be "
                "called before."
            )

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the embeddings that prediction needs, where they belong to these weights."""
        super().on_save_checkpoint(checkpoint)
        if self.classifier.fitted:
            checkpoint["support"] = {
                "embeddings": self.classifier.support,
                "target": self.classifier.target,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them from it."""
        super().on_load_checkpoint(checkpoint)
        self.classifier.clear()
        if "support" in checkpoint:
            stored = checkpoint["support"]
            self.classifier.fit(stored["embeddings"], stored["target"])
