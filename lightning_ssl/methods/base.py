"""What all methods share: network, metrics, optimizer, evaluation, prediction, warm start."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import Self

from lightning_ssl.callbacks.base_weights import remember
from lightning_ssl.callbacks.ema import decay_of
from lightning_ssl.callbacks.head_start import check_head_init
from lightning_ssl.callbacks.learning_rate import LearningRate
from lightning_ssl.callbacks.method_record import record_method, take_record
from lightning_ssl.callbacks.needed import needed_callbacks
from lightning_ssl.callbacks.stored import open_for
from lightning_ssl.distributed import mean_over_ranks
from lightning_ssl.evaluation import count_right, evaluation_metrics
from lightning_ssl.lightning_private import attached_trainer, warn_of_twin
from lightning_ssl.losses import softmax
from lightning_ssl.models import (
    LinearHead,
    build_network,
    layer_scales,
    load_weights,
    pass_together,
    set_mode,
)
from lightning_ssl.optim import Optimizer, Schedule, parameter_groups, scheduled
from lightning_ssl.seeding import derive_seed, global_seed, seed_generators
from lightning_ssl.types import Batch, as_batch

ViewSpec = Mapping[str, Mapping[str, Any]]

# Views that several methods declare.
WEAK: ViewSpec = {"labeled": {"weak": 1}, "unlabeled": {"weak": 1}}
WEAK_PAIR: ViewSpec = {"labeled": {"weak": 1}, "unlabeled": {"weak": 2}}
WEAK_STRONG: ViewSpec = {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 1}}


class SSLModule(pl.LightningModule, ABC):
    """Base of the methods. A method adds its losses in ``training_step`` and names its ``views``.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        backbone: Name of the network: ``wrn_28_2``, a torchvision name such as ``resnet50``, or
            ``timm/`` and a timm name; or a module with ``num_features`` that turns images
            ``(B, C, H, W)`` into features ``(B, num_features)``.
        backbone_args: Further arguments of the network, such as ``bn_momentum``, ``pretrained``
            or ``small_stem``; see :func:`lightning_ssl.models.build_backbone`.
        freeze_backbone: Whether only the heads learn: the network gets no gradient and stays in
            evaluation mode, and neither the optimizer nor the average holds it.
        adapter: ``lora`` to learn low-rank adapters of the network in place of its weights, which
            a checkpoint then leaves out; null for none. Needs the extra ``peft``.
        adapter_args: Arguments of :func:`lightning_ssl.models.adapters.add_lora`.
        head_init: How the linear classifier starts: ``none``, as it is drawn; ``class_means`` or
            ``probe``, fitted to the labelled images' normalised features; see
            :func:`~lightning_ssl.evaluation.head_start.start_classifier`.
        in_channels: Channels of the images; taken from the data on the command line.
        optimizer: Optimizer and its values.
        schedule: Learning-rate schedule, counted in optimizer updates.
        ema_decay: Decay of the averaged weights that are evaluated, in [0, 1); 0 for no average.
        ema_half_life: Updates after which a weight's share of the average has halved, in place of
            ``ema_decay``.
        weights: Checkpoint, state dict or file of the original PAWS code to start from, at the
            first stage, whichever it is.
        weights_strict: Whether missing, unexpected or mismatched keys of ``weights`` are an error.

    Raises:
        ValueError: If an argument is outside its range.
    """

    labeled_order: ClassVar[str] = "shuffled"
    """Order of the labelled images where ``data.labeled_order`` does not say."""
    no_correction: ClassVar[str | None] = None
    """Why a method with pseudo-labels takes no correction for imbalanced classes."""
    no_head_init: ClassVar[str | None] = None
    """Why a method has no linear classifier that could start from the labelled images."""
    needs_pixels: ClassVar[str | None] = None
    """Why a method cannot do with features of a frozen network in the place of images."""
    labeled_features: Tensor | None = None
    """Features of labelled images ``(L, F)`` by the evaluated weights, while these are the same."""
    logit_temperature = 1.0
    """Number by which logits are divided for the probabilities that predictions report."""
    lr = LearningRate()
    _batch_size = 1  # of labelled images, for the weights of logged means

    def __init__(
        self,
        num_classes: int,
        backbone: str | nn.Module = "wrn_28_2",
        backbone_args: dict[str, Any] | None = None,
        freeze_backbone: bool = False,
        adapter: Literal["lora"] | None = None,
        adapter_args: dict[str, Any] | None = None,
        head_init: Literal["none", "class_means", "probe"] = "none",
        in_channels: int = 3,
        optimizer: Optimizer = Optimizer(),  # noqa: B008 (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008 (frozen)
        ema_decay: float = 0.99,
        ema_half_life: float | None = None,
        weights: str | None = None,
        weights_strict: bool = True,
    ) -> None:
        super().__init__()
        warn_of_twin()
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
        self.ema_decay = decay_of(ema_decay, ema_half_life)
        self.save_hyperparameters(ignore=[] if isinstance(backbone, str) else ["backbone"])
        self.num_classes = num_classes = int(num_classes)  # torchmetrics takes none of NumPy's
        # A checkpoint holds plain dicts, so that it loads with weights_only=True.
        self.optimizer = Optimizer(**optimizer) if isinstance(optimizer, dict) else optimizer
        self.schedule = Schedule(**schedule) if isinstance(schedule, dict) else schedule
        self.weights, self.weights_strict = weights, weights_strict
        self.backbone = build_network(
            backbone, backbone_args, in_channels, freeze_backbone, adapter, adapter_args
        )
        self.freeze_backbone = freeze_backbone
        layer_scales(self.backbone, self.optimizer.layer_decay)  # an error now, not in training
        self.num_features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.head_init = check_head_init(self, head_init, self.no_head_init)
        self.classifier: nn.Module = LinearHead(self.num_features, num_classes, head_init != "none")
        self.unbalanced: nn.Module | None = None
        metrics = evaluation_metrics(num_classes)
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @property
    @abstractmethod
    def views(self) -> ViewSpec:
        """Views the method needs: stream to view name to number of copies (or a transform)."""

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one step.

        Args:
            batch: Views and targets, see :class:`lightning_ssl.types.Batch`.
            batch_idx: Position in the epoch.
        """

    # Network

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network and the norms of an adapted one stay in evaluation mode.

        Args:
            mode: Whether to train.
        """
        super().train(mode)
        set_mode(self.backbone, self.freeze_backbone)
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: Normalised images ``(B, C, H, W)``, or their features ``(B, F)``, if these were
                computed before.

        Returns:
            Pooled features ``(B, F)``.
        """
        if images.ndim == 2:
            return images
        features: Tensor = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return features

    @property
    def head(self) -> nn.Module:
        """The classifier of the method's own losses, where a balanced one predicts in its place."""
        return self.classifier if self.unbalanced is None else self.unbalanced

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: Normalised images ``(B, C, H, W)``.

        Returns:
            Logits ``(B, num_classes)``.
        """
        logits: Tensor = self.classifier(self.embed(images))
        return logits

    def forward_together(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Logits of several views from one pass, so that BatchNorm sees one batch.

        Args:
            *views: Images ``(copies, B, C, H, W)`` of one size; copies and B may differ.

        Returns:
            For each view its logits ``(copies, B, num_classes)``.
        """
        return pass_together(self, views)

    def features_together(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Features of several views from one pass, see :meth:`forward_together`.

        Args:
            *views: Images ``(copies, B, C, H, W)`` of one size; copies and B may differ.

        Returns:
            For each view its features ``(copies, B, F)``.
        """
        return pass_together(self.embed, views)

    # Fitting

    def setup(self, stage: str) -> None:
        """Start from other weights, if asked to; those of a checkpoint come after and replace them.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        self.start_from_weights()
        remember(self)

    def start_from_weights(self) -> None:
        """Load ``weights``, where that has not been done yet."""
        if self.weights is not None:
            load_weights(self, self.weights, strict=self.weights_strict, adapt=self.adapt_weights)
            self.weights = None  # a later stage goes on from what this one leaves

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose what to take from the file of ``weights``: everything.

        Args:
            state: Tensors of the file.

        Returns:
            Tensors by the names they have in this module.
        """
        return state

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of the optimizer: weight decay on kernels only, rates by layer if asked for."""
        config, scales = self.optimizer, layer_scales(self.backbone, self.optimizer.layer_decay)
        return parameter_groups(self, scales, config.shortcut_norms)

    def configure_optimizers(self) -> Any:
        """Optimizer, and the schedule stepped after each update."""
        updates = self.trainer.estimated_stepping_batches
        return scheduled(self.parameter_groups(), self.optimizer, self.schedule, updates)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Start the head, check the run and average the weights, unless the trainer does."""
        return needed_callbacks(self.trainer, self.ema_decay, self.head_init)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make all randomness of the step a function of (seed, step, rank); log the rate.

        A run that was killed and resumed then draws what it would have drawn.
        """
        batch = as_batch(batch, self.views)
        samples = batch.unlabeled if batch.labeled is None else batch.labeled
        self._batch_size = next(iter(samples.views.values())).shape[1]
        if batch.step is not None:
            keys = (global_seed(), "step", int(batch.step), self.global_rank)
            seed_generators(derive_seed(*keys), self.device)
        if self._writes_step:  # a number has to reach the device
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    # Logging, by the names of docs/methods

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log with the labelled batch size, which Lightning cannot see in nested views.

        In the steps that are written a value of training is the mean over all processes; in others
        only the loss is kept, which the progress bar shows.
        """
        kept = name == "train/loss" or self._writes_step or kwargs.get("on_epoch")
        if name.startswith("train/") and attached_trainer(self) is not None and not kept:
            return  # Lightning's bookkeeping costs more than a small network's step
        kwargs["batch_size"] = kwargs.get("batch_size") or self._batch_size
        # Not by `sync_dist`, which cannot differ from step to step and costs as much in each.
        if isinstance(value, Tensor) and name.startswith("train/") and self._writes_step:
            value = mean_over_ranks(value.detach())
        super().log(name, value, *args, **kwargs)

    def log_losses(self, loss: Tensor, **parts: Tensor) -> None:
        """Log ``train/loss`` and ``train/loss_<name>`` for each of its parts, before their weights.

        Args:
            loss: The whole loss.
            **parts: Its parts by name.
        """
        self.log("train/loss", loss)
        self.log_dict({f"train/loss_{name}": value for name, value in parts.items()})

    def log_pseudo_labels(
        self, probs: Tensor, mask: Tensor | None, hidden_target: Tensor | None
    ) -> None:
        """Log ``train/mask_rate`` and, where classes are known, ``train/pseudo_acc``.

        Args:
            probs: Probabilities that teach, ``(B, C)``.
            mask: Rows that count, ``(B,)``, bool; None for all, whose rate is not logged.
            hidden_target: Known classes ``(B,)``, -1 where unknown, or None. Only logged.
        """
        if mask is not None:
            self.log("train/mask_rate", mask.float().mean())
        if hidden_target is not None:
            counts = count_right(probs, hidden_target, mask)
            if self._writes_step:
                counts = mean_over_ranks(counts)  # of all processes, not the mean of their shares
            # Undefined, not zero, where nothing is kept.
            self.log("train/pseudo_acc", counts[0] / counts[1])

    def log_classes(self, name: str, values: Tensor) -> None:
        """Log a value of each class as ``train/<name>_<class>``, in the steps that are written.

        Args:
            name: What the values are.
            values: ``(C,)``.
        """
        if self._writes_step:
            self.log_dict({f"train/{name}_{c}": value for c, value in enumerate(values.unbind())})

    @property
    def _writes_step(self) -> bool:
        trainer = attached_trainer(self)
        if trainer is None:  # a step by hand, which `log` allows, too
            return False
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(interval) and (trainer.fit_loop.total_batch_idx + 1) % interval == 0

    # Evaluation

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        """Update the metrics of the set that is looked at while training.

        Where the data has no validation part this is the test set, logged as such, or nothing.

        Args:
            batch: Images, targets and indices.
            batch_idx: Position in the set.

        Returns:
            ``logits`` ``(B, num_classes)`` and ``embedding`` ``(B, F)``; None where none are.
        """
        stage = getattr(self.trainer.val_dataloaders, "stage", "val")
        if stage == "support":
            return None
        return self._evaluate(batch, self.test_metrics if stage == "test" else self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        """Update the metrics of the test set, see :meth:`validation_step`."""
        return self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: tuple[Tensor, Tensor, Tensor], metrics: MetricCollection) -> Any:
        images, target, _ = batch
        if len(target):  # a rank may have no image of a set smaller than the number of ranks
            embedding = self.embed(images)
            logits = self.classifier(embedding)
            metrics.update(softmax(logits), target)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return {"logits": logits, "embedding": embedding} if len(target) else None

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Predict one batch.

        Args:
            batch: Images and indices.
            batch_idx: Position in the set.

        Returns:
            ``index`` ``(B,)``, ``probs`` ``(B, num_classes)`` and ``embedding`` ``(B, F)``.
        """
        images, index = batch
        embedding = self.embed(images)
        probs = softmax(self.classifier(embedding) / self.logit_temperature)
        return {"index": index, "probs": probs, "embedding": embedding}

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """Lightning's, without unpickling unless asked for, of a checkpoint of this method only."""
        source, options = open_for(cls, checkpoint_path, {"weights_only": True, **options})
        return super().load_from_checkpoint(source, *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the method, and nothing that needs pickle."""
        record_method(self, checkpoint, attached_trainer(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this method and, to go on, of this run.

        Raises:
            ValueError: If another method, or other data or options, wrote it.
        """
        take_record(self, checkpoint, attached_trainer(self))
