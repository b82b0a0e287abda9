"""What the data is: source, split, classes, size and statistics, from options."""

from functools import cached_property
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from typing_extensions import Self

from lightning_ssl.data.bounds import check_form, check_two_classes
from lightning_ssl.data.pseudo.labels import (
    LabelColumn,
    check_options,
    join,
    read_pseudo_labels,
)
from lightning_ssl.data.record import (
    WALK,
    check_classes,
    check_resumed,
    check_walk,
    digest,
    make_record,
)
from lightning_ssl.data.sources.base import Source
from lightning_ssl.data.sources.decoding import Interpolation, check_center
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.data.sources.named import (
    base_folder,
    follows_exif,
    open_source,
    prepare_source,
)
from lightning_ssl.data.splits.files import LabeledImages
from lightning_ssl.data.splits.make import Split, make_split
from lightning_ssl.records import NOT_PLAIN, plain
from lightning_ssl.seeding import global_seed


class DescribedData(pl.LightningDataModule):
    """Options that say what the data is, and what follows from them without reading pixels.

    Args:
        dataset: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``stl10``, ``imagenet``,
            ``folder`` or ``csv``.
        root: Folder of the data; for ``csv`` the CSV file.
        download: Whether to download what torchvision can, where it is missing.
        num_labels: Number of labelled images, class-balanced; null keeps every known label.
        labels_per_class: Number of labelled images of each class, or of the largest one.
        imbalance_ratio: Long tail of labelled images: those of the first class over those of the
            last, between which they fall exponentially; below 1 they rise; null for none.
        label_fraction: Fraction of labelled images, in (0, 1].
        coin_flip: Whether ``label_fraction`` flips a coin for each image, as suncet does.
        labels_file: File of the labelled images: ``split.json`` of a run, an ``.npy`` of indices,
            or a list of suncet or s4l.
        unlabeled_per_class: Number of unlabelled images of each class, or of the largest one,
            besides the labelled ones, for benchmarks that know all classes; null for all images.
        unlabeled_imbalance_ratio: Long tail of unlabelled images, like ``imbalance_ratio``.
        val_per_class: Labelled images of each class set apart for validation where the data has no
            validation part; null for a tenth of the labels, and none below 25 labels a class.
        include_labeled: Whether labelled images are also used as unlabelled ones.
        pseudo_labels: Table of ``lightning-ssl pseudo-label``, or ``split.json`` of a run on one:
            images without label are labelled images with the class that it says.
        pseudo_column: Column of the table: ``label``, from one view of each image,
            ``averaged_label``, from twenty, or ``soft``, the probabilities of several models.
        pseudo_threshold: Smallest probability in [0, 1] of a pseudo-label that counts.
        pseudo_alpha: Exponent of CReST's sampling: of each class only a share of the pseudo-labels
            counts, the less the more labels the class has; 0 for all.
        image_size: Side of the images in pixels; null for the data's own.
        in_channels: 3, or 1 for gray images.
        classes: Class names in the order of the class numbers; null for the data's own.
        normalize: ``dataset`` for the data's mean and deviation, ``symmetric`` for [-1, 1].
        crop_pct: Share of a photo's short side that evaluation sees, in (0, 1]; null for 224 / 256,
            and for all of it up to 64 pixels. A pretrained network brings its own, see
            :func:`lightning_ssl.models.backbone_inputs`.
        interpolation: How evaluation resizes photos: ``bilinear`` or ``bicubic``; null for
            ``bilinear`` or what a pretrained network brings.
        mean: Mean per channel of pixels in [0, 1]; null for what ``normalize`` says.
        std: Standard deviation per channel of pixels in [0, 1]; null likewise.
        extra: Whether SVHN's extra images are training images too.
        fold: Which of STL-10's ten predefined folds is labelled; null for all labels.
        exif_orientation: Whether photos are turned as EXIF says; null for yes, but ``imagenet``.
        hflip: Whether a mirrored image keeps its class (not so for signs, text and digits); null
            for what is known of the data, which is yes for ``folder`` and ``csv``.
        seed: Seed of the split, the order and the views; null for ``seed_everything``'s.
    """

    def __init__(
        self,
        dataset: str,
        root: str | None = None,
        download: bool = False,
        num_labels: int | None = None,
        labels_per_class: int | None = None,
        imbalance_ratio: float | None = None,
        label_fraction: float | None = None,
        coin_flip: bool = False,
        labels_file: str | None = None,
        unlabeled_per_class: int | None = None,
        unlabeled_imbalance_ratio: float | None = None,
        val_per_class: int | None = None,
        include_labeled: bool = True,
        pseudo_labels: str | None = None,
        pseudo_column: LabelColumn = "label",
        pseudo_threshold: float = 0.0,
        pseudo_alpha: float = 0.0,
        image_size: int | None = None,
        in_channels: int = 3,
        classes: list[str] | None = None,
        normalize: Literal["dataset", "symmetric"] = "dataset",
        crop_pct: float | None = None,
        interpolation: Interpolation | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        extra: bool = False,
        fold: int | None = None,
        exif_orientation: bool | None = None,
        hflip: bool | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_form(normalize, mean, std)
        check_options(pseudo_labels, pseudo_column, pseudo_threshold, pseudo_alpha)
        self.save_hyperparameters(ignore=["views"])
        for name, value in list(self.hparams.items()):
            self.hparams[name] = plain(value)
            if self.hparams[name] is NOT_PLAIN:
                del self.hparams[name]  # a checkpoint could not hold it
        self.dataset, self.root, self.download = dataset, root, download
        self.selection = {
            "num_labels": num_labels,
            "labels_per_class": labels_per_class,
            "imbalance_ratio": imbalance_ratio,
            "label_fraction": label_fraction,
            "coin_flip": coin_flip,
            "labels_file": labels_file,
            "unlabeled_per_class": unlabeled_per_class,
            "unlabeled_imbalance_ratio": unlabeled_imbalance_ratio,
            "val_per_class": val_per_class,
            "include_labeled": include_labeled,
        }
        self.pseudo_labels = pseudo_labels
        self._pseudo_column: LabelColumn = pseudo_column
        self._pseudo_threshold, self._pseudo_alpha = pseudo_threshold, pseudo_alpha
        self.in_channels = in_channels
        self.normalize = normalize
        self.extra, self.fold, self.hflip = extra, fold, hflip
        self._given_exif = exif_orientation
        self.crop_pct, self.interpolation = check_center(crop_pct, interpolation)
        self.seed = global_seed() if seed is None else seed
        self.view_transforms: dict[str, nn.Module] = {}
        self._given_classes, self._given_size = classes, image_size
        self._given_mean, self._given_std = mean, std
        self._source: Source | None = None

    @classmethod
    def from_source(cls, source: Source, **options: Any) -> Self:
        """Use images that are already in Python, see :func:`lightning_ssl.data.from_arrays`.

        Args:
            source: The data.
            **options: Arguments of the class, but for those that say where the data is and how
                it is opened.

        Raises:
            ValueError: If an option contradicts the source.
        """
        size, classes = options.get("image_size"), options.get("classes")
        if size not in (None, source.size) and not isinstance(source.train, FileImages):
            raise ValueError(f"`image_size` must be the source's, {source.size}, got {size}.")
        if classes is not None and tuple(classes) != source.classes:
            raise ValueError(f"`classes` must be the source's, {source.classes}, got {classes}.")
        module = cls(source.name, in_channels=source.channels, **options)
        module._source = source.seen(module.crop_pct, module.interpolation)
        return module

    @property
    def source(self) -> Source:
        """The data set; opening it lists files and reads no pixels."""
        if self._source is None:
            own_names = self.dataset in ("imagenet", "folder", "csv")
            opened = open_source(
                self.dataset,
                self.root,
                in_channels=self.in_channels,
                image_size=self._given_size,
                classes=self._given_classes if own_names else None,
                extra=self.extra,
                fold=self.fold,
                exif_orientation=self._given_exif,
            )
            check_two_classes(opened.classes, self.root)
            if self._given_classes is not None and tuple(self._given_classes) != opened.classes:
                raise ValueError(
                    f"`data.classes` must be the classes of '{self.dataset}', "
                    f"{opened.classes}, got {tuple(self._given_classes)}."
                )
            self._source = opened.seen(self.crop_pct, self.interpolation)
        return self._source

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self._given_classes or self.source.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self._given_size or self.source.size

    @property
    def exif_orientation(self) -> bool:
        """Whether photos in files are turned as their EXIF data say."""
        if self._source is not None and isinstance(self._source.train, FileImages):
            return self._source.train.exif_orientation
        return follows_exif(self.dataset) if self._given_exif is None else self._given_exif

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of pixels in [0, 1]."""
        if self._given_mean is not None:
            return tuple(self._given_mean)
        return (0.5,) * self.in_channels if self.normalize == "symmetric" else self.source.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of pixels in [0, 1]."""
        if self._given_std is not None:
            return tuple(self._given_std)
        return (0.5,) * self.in_channels if self.normalize == "symmetric" else self.source.std

    # For methods, whose hyper-parameters must not share a name with the data's.
    image_std, image_side = std, image_size

    @cached_property
    def split(self) -> Split:
        """Which training images are labelled, unlabelled and set apart for validation."""
        source = self.source
        return make_split(
            source.train.targets,
            source.num_classes,
            **self.selection,  # type: ignore[arg-type]
            names=source.train.name,
            pool=source.labeled,
            has_val=source.val is not None,
            seed=self.seed,
            classes=source.classes,
        )

    @cached_property
    def pseudo(self) -> LabeledImages | None:
        """Images that training sees with a pseudo-label; None without ``pseudo_labels``."""
        if self.pseudo_labels is None:
            return None
        return read_pseudo_labels(
            self.pseudo_labels,
            self.split,
            self.source.train.targets,
            name=self.train_name,
            classes=self.classes,
            column=self._pseudo_column,
            threshold=self._pseudo_threshold,
            alpha=self._pseudo_alpha,
        )

    @cached_property
    def labeled(self) -> LabeledImages:
        """The labelled list: images with their own class, and those with a pseudo-label."""
        rows = self.split.labeled
        given = LabeledImages(rows, self.source.train.targets[rows])
        return given if self.pseudo is None else join(given, self.pseudo)

    def train_name(self, index: int) -> str:
        """What a training image is called in files: its path below ``root``, or its index.

        Args:
            index: Position in the training set.
        """
        return self.source.train.name_below(base_folder(self.dataset, self.root), index)

    @property
    def num_labeled(self) -> int:
        """Number of labelled images, those with a pseudo-label included."""
        return len(self.labeled.rows)

    @property
    def num_unlabeled(self) -> int:
        """Length of the unlabelled list."""
        return len(self.split.unlabeled)

    @property
    def class_counts(self) -> list[int]:
        """Labelled images of each class, those with a pseudo-label included."""
        counts: list[int] = torch.bincount(self.labeled.target, minlength=self.num_classes).tolist()
        return counts

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images; if not, the test set is reported while training."""
        return self.source.val is not None or len(self.split.val) > 0

    def __str__(self) -> str:
        """Class and data set; Lightning's asks every loader, which reads the images."""
        return f"{type(self).__name__}({self.dataset!r})"

    def prepare_data(self) -> None:
        """Download what is missing, in one process."""
        if self._source is None:
            prepare_source(self.dataset, self.root, download=self.download, extra=self.extra)

    def state_dict(self) -> dict[str, Any]:
        """See :func:`lightning_ssl.data.record.make_record`."""
        return make_record(
            *(self.classes, self.image_size, self.mean, self.std),
            *(self.split, self.seed, tuple(self.view_transforms)),
            self._pseudo_digest,
            {name: self.hparams[name] for name in WALK if name in self.hparams},
            self.exif_orientation,
            {"crop_pct": self.crop_pct, "interpolation": self.interpolation},
        )

    @property
    def _pseudo_digest(self) -> str | None:
        return None if self.pseudo is None else digest(*self.pseudo)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this data.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            ValueError: If classes differ, or, when training goes on, the labels.
        """
        check_classes(state_dict, self.classes)
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            check_resumed(
                *(state_dict, self.split, self.seed, tuple(self.view_transforms)),
                self._pseudo_digest,
                self.exif_orientation if isinstance(self.source.train, FileImages) else None,
                "seed_everything" if self.hparams["seed"] is None else "data.seed",
            )
            check_walk(state_dict, self.state_dict(), self.hparams)
