"""One datamodule: the plan's batches, their views, and evaluation sets."""

from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_ssl.augment import Normalize, Transform, Views
from lightning_ssl.augment.base import to_float
from lightning_ssl.data.album import Album
from lightning_ssl.data.attached import (
    check_soft_targets,
    patch_side,
    pins_memory,
    position,
    ranks,
    refuse_batch_size_finder,
    required,
)
from lightning_ssl.data.bounds import check_memory, check_walk
from lightning_ssl.data.cached import CachedData
from lightning_ssl.data.features.draw import DrawFeatures, EvaluationFeatures, FetchFeatures
from lightning_ssl.data.loading.fetch import EvaluationFetch, TrainFetch, read_images
from lightning_ssl.data.loading.loader import EvaluationLoader, TrainLoader, available_cores
from lightning_ssl.data.loading.views import DrawViews
from lightning_ssl.data.orders import Order, Shuffled, order_of_classes
from lightning_ssl.data.plan import Plan, count_steps, describe_run
from lightning_ssl.data.sources.depth import warn_of_few_levels
from lightning_ssl.data.sources.given import images_at
from lightning_ssl.data.sources.images import FileImages, Images
from lightning_ssl.data.splits.make import save_split
from lightning_ssl.types import Batch


class SSLDataModule(CachedData):
    """A few labelled and many unlabelled images, interleaved in every training batch.

    Batch sizes are global: the images of one micro-batch over all processes together.

    Args:
        dataset: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``stl10``, ``imagenet``,
            ``folder`` or ``csv``.
        batch_size: Labelled images per step; null for 32, or 4 of each class in a stratified order.
        unlabeled_batch_size: Unlabelled images per step.
        eval_batch_size: Images per evaluation batch and process.
        labeled_order: ``shuffled``; ``balanced`` for every class equally often; ``stratified`` for
            equally many images of each of some classes in every step; null for what the method
            needs.
        classes_per_batch: Classes of a stratified step; null for all.
        unique_classes_per_rank: Whether a process gets all images of its own classes of a
            stratified step instead of some images of every class.
        steps_per_epoch: Length of an epoch in steps, or ``unlabeled`` or ``labeled`` for one pass.
        views: Transforms by view name, in place of the presets.
        num_workers: Decoding processes; null for up to 8 where files are decoded while training.
        **kwargs: Arguments of :class:`~lightning_ssl.data.cached.CachedData`.

    Raises:
        ValueError: If an argument is unknown, out of range or contradicts another one.
        FileNotFoundError: If the data is not where ``root`` says.
    """

    def __init__(
        self,
        dataset: str,
        batch_size: int | None = None,
        unlabeled_batch_size: int = 128,
        eval_batch_size: int = 256,
        labeled_order: Literal["shuffled", "balanced", "stratified"] | None = None,
        classes_per_batch: int | None = None,
        unique_classes_per_rank: bool = False,
        steps_per_epoch: int | Literal["unlabeled", "labeled"] = "unlabeled",
        views: dict[str, nn.Module] | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, **kwargs)
        sizes = {
            "batch_size": batch_size,
            "unlabeled_batch_size": unlabeled_batch_size,
            "eval_batch_size": eval_batch_size,
        }
        check_walk(sizes, steps_per_epoch, labeled_order, num_workers)
        self.batch_size = batch_size
        self.unlabeled_batch_size = unlabeled_batch_size
        self.eval_batch_size = eval_batch_size
        self.labeled_order = labeled_order
        self.classes_per_batch = classes_per_batch
        self.unique_classes_per_rank = unique_classes_per_rank
        self.steps_per_epoch = steps_per_epoch
        self.view_transforms = views or {}
        self.num_workers = num_workers
        self._images: dict[str, Images] = {}
        self._draw_views: DrawViews | DrawFeatures | None = None

    def setup(self, stage: str) -> None:
        """Read what training needs, and check it against the method.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If the method declares no views, or some that do not exist.
        """
        refuse_batch_size_finder(self.trainer)
        if stage != "fit":
            return
        trainer = required(self.trainer, "setup('fit')")
        declared = getattr(trainer.lightning_module, "views", None)
        if declared is None:
            name = type(trainer.lightning_module).__name__
            raise ValueError(f"SSLDataModule needs a method that declares its `views`, got {name}.")
        check_soft_targets(trainer.lightning_module, self.labeled.probs is not None)
        views = Views(
            declared,
            self.image_size,
            mean=self.mean,
            std=self.std,
            hflip=self.source.hflip if self.hflip is None else self.hflip,
            overrides=self.view_transforms,
            seed=self.seed,
            multiple=patch_side(trainer.lightning_module),
        )
        plan = Plan(
            self._labeled_order() if "labeled" in declared else None,
            self._unlabeled_order() if "unlabeled" in declared else None,
            **ranks(trainer),
        )
        lists = (self.split, self.source.train, views, self.image_size, self.labeled)
        if self._features is not None:
            copies = self._features.declare(trainer.lightning_module, views)
            stored = FetchFeatures(plan, *lists, copies=copies, seed=self.seed)
            self._draw_views = DrawFeatures(stored)
            return
        orders = {"labeled": plan.labeled, "unlabeled": plan.unlabeled}
        check_memory(orders, declared, (self.in_channels, self.image_size), plan.world_size)
        watched = "test" if self.source.val is None else "val"
        if getattr(self.source, watched) is not None:
            self._read(watched)  # a broken image is found now, not when training has begun
        images = self._read("train")
        fetch = TrainFetch(plan, self.split, images, views, self.image_size, self.labeled)
        custom = any(not isinstance(t, Transform) for t in self.view_transforms.values())
        self._draw_views = DrawViews(fetch, views, custom)
        if self.pseudo is not None:
            rank_zero_info(f"{len(self.pseudo.rows)} labelled images have a pseudo-label.")

    def _labeled_order(self) -> Order:
        module = self._attached_trainer.lightning_module
        return order_of_classes(
            self.labeled_order or str(getattr(module, "labeled_order", "shuffled")),
            self.labeled.target,
            self.batch_size,
            self.seed,
            classes_per_batch=self.classes_per_batch,
            unique_classes_per_rank=self.unique_classes_per_rank,
            num_classes=self.num_classes,
        )

    def _unlabeled_order(self) -> Order:
        return Shuffled(self.num_unlabeled, self.unlabeled_batch_size, self.seed, "unlabeled")

    def _read(self, part: str) -> Images:
        """Images of ``train``, ``val`` or ``test``; small ones are decoded once, into RAM."""
        if part not in self._images:
            images, replaceable = getattr(self.source, part), None
            needed = torch.arange(len(images))  # no metric is of fewer images
            if part == "train":
                needed = torch.cat([self.labeled.rows, self.split.val])
                replaceable = torch.ones(len(images), dtype=torch.bool)
                replaceable[needed] = False
            form = (self.image_size, self.in_channels)
            self._images[part] = read_images(images, *form, needed, replaceable)
        return self._images[part]

    @property
    def album(self) -> Album:
        """What a report shows of the data."""
        return Album(self, self._draw_views)

    def train_dataloader(self) -> TrainLoader:
        """Every batch interleaves labelled and unlabelled images."""
        required(self.trainer if self._draw_views else None, "train_dataloader")
        assert self._draw_views is not None
        fetch, steps = self._draw_views.fetch, self._count_steps()
        if self._features is not None:
            assert isinstance(fetch, FetchFeatures)
            self._features.serve(fetch)
        kind, counts = (self.num_classes, self.image_size), (self.num_labeled, self.num_unlabeled)
        trainer, folder = self._attached_trainer, self._attached_trainer.log_dir  # asks all ranks
        rank_zero_info(describe_run(trainer, fetch.plan, kind, counts, steps))
        kept = any(hasattr(c, "keeps_records") for c in trainer.callbacks)  # type: ignore[attr-defined]
        stored = trainer.loggers or trainer.checkpoint_callbacks
        if stored and folder and not kept and trainer.is_global_zero:
            self.store_split(folder)
        return TrainLoader(
            fetch,
            steps,
            partial(position, trainer),
            num_workers=self._workers(None if self._features else fetch.images),
            pin_memory=pins_memory(self.trainer),
        )

    def store_split(self, folder: str) -> None:
        """Write ``split.json``, which ``labels_file`` and ``pseudo_labels`` take.

        Args:
            folder: Where to.
        """
        save_split(Path(folder, "split.json"), self.split, len(self.source.train), self.pseudo)

    def _count_steps(self) -> int:
        assert self._draw_views is not None
        return count_steps(
            self.steps_per_epoch,
            self._draw_views.fetch.plan,
            (self.num_labeled, self.num_unlabeled),
            self.unlabeled_batch_size,
            self._attached_trainer.accumulate_grad_batches,
        )

    def val_dataloader(self) -> EvaluationLoader | list[Any]:
        """Validation images; without any, the test images, reported and never selected on.

        Without these, a labelled image for each process: nothing is measured with them, but a
        checkpoint that is written after a validation has what its predictions need.
        """
        if self.source.val is not None:
            return self._evaluation("val", "val")
        if len(self.split.val):
            return self._evaluation("train", "val", self.split.val)
        if self.source.test is not None:
            return self._evaluation("test", "test")
        count = ranks(self.trainer)["world_size"]
        return self.sample_dataloader(count) if len(self.split.labeled) else []

    def test_dataloader(self) -> EvaluationLoader:
        """Test images.

        Raises:
            ValueError: If the data has none.
        """
        if self.source.test is None:
            raise ValueError(f"`data.dataset` '{self.dataset}' has no test images in {self.root}.")
        return self._evaluation("test", "test")

    def support_dataloader(self) -> EvaluationLoader:
        """Labelled training images as evaluation sees images: what soft nearest neighbours need."""
        return self.sample_dataloader(len(self.split.labeled))

    def sample_dataloader(self, most: int) -> EvaluationLoader:
        """Like :meth:`support_dataloader`; of a longer list some images, evenly spread over it.

        Args:
            most: How many at most.
        """
        rows = self.split.labeled
        kept = torch.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=torch.float64)
        return self._evaluation("train", "support", rows[kept.long()])

    def predict_dataloader(self) -> EvaluationLoader:
        """The images that ``root`` means, or the test images of a named data set."""
        if self.dataset == "folder" and self.root is not None:
            form = (self.in_channels, self.exif_orientation)
            images = images_at(self.root, *form).seen(self.crop_pct, self.interpolation)
            warn_of_few_levels(images)
            self._images["predict"] = images
        elif self.source.test is not None:
            self._images["predict"] = self._read("test")
        else:
            raise ValueError(f"`data.dataset` '{self.dataset}' has no test images to predict.")
        return self._evaluation("predict", "predict")

    @property
    def num_predicted(self) -> int:
        """Number of images of the predicted set, unreadable ones included."""
        return len(self._images["predict"])

    def predict_name(self, index: int) -> str:
        """What a predicted image is called: its path, or its index.

        Args:
            index: Position in the predicted set.
        """
        return self._images["predict"].name(index)

    def _evaluation(self, part: str, stage: str, indices: Tensor | None = None) -> EvaluationLoader:
        cached = self._features is not None and stage != "predict"
        features = self._features.evaluation(part) if self._features and cached else None
        images = self._read(part) if features is None else getattr(self.source, part)
        fetch = EvaluationFetch(images, self.image_size, with_target=stage != "predict")
        return EvaluationLoader(
            fetch if features is None else EvaluationFeatures(features, images.targets),
            torch.arange(len(images)) if indices is None else indices,
            self.eval_batch_size,
            **ranks(self.trainer),
            stage=stage,
            num_workers=self._workers(images if features is None else None),
            pin_memory=pins_memory(self.trainer),
            keep_workers=stage != "support",  # each evaluation asks for a new loader of these
        )

    def _workers(self, images: Images | None) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(8, available_cores()) if isinstance(images, FileImages) else 0

    @property
    def _attached_trainer(self) -> pl.Trainer:
        return required(self.trainer, "train_dataloader")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Draw the views on the device, or normalise images to be evaluated.

        Args:
            batch: What a loader of this datamodule made.
            dataloader_idx: Not used.
        """
        dtype = cast(torch.dtype, self._attached_trainer.lightning_module.dtype)
        if not isinstance(batch, Batch):
            images = batch[0]
            if images.ndim > 2:  # no features
                images = Normalize(self.mean, self.std)(to_float(images), {})
            return (images.to(dtype), *batch[1:])
        assert self._draw_views is not None
        return self._draw_views(batch, dtype)

    def teardown(self, stage: str) -> None:
        """Report unreadable images and give the device memory back.

        Args:
            stage: The stage that ends.
        """
        if stage == "fit" and self._draw_views is not None:
            self._draw_views.fetch.report_broken()
            self._draw_views = None
        super().teardown(stage)
