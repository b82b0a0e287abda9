"""The stored features of a datamodule's images: which there have to be, and that they are true."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ssl.augment import Compose, Transform, Views
from lightning_ssl.checks import check_count
from lightning_ssl.data.features.draw import (
    Features,
    FetchFeatures,
    near_labels,
    refuse_broken,
)
from lightning_ssl.data.features.fill import Embed, Filler, View, check_true
from lightning_ssl.data.features.key import (
    FORMAT,
    describe_network,
    describe_view,
    differing,
    digest_images,
    key_of,
)
from lightning_ssl.data.features.store import Store, default_folder, read_meta, stores
from lightning_ssl.data.loading.fetch import check_readable
from lightning_ssl.data.loading.loader import available_cores
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.files import check_output_folder, waiting_lock

SLOTS = {"weak": 4, "local": 16}
"""Views to how many draws are stored of each, where the user does not say; 8 for others."""
_EVAL: tuple[str, Transform] = ("eval", Compose([]))


class FeatureCache:
    """Stored features of the images of a datamodule, as a method's frozen network sees them.

    Args:
        data: The :class:`~lightning_ssl.data.datamodule.SSLDataModule`.
        folder: Where features are stored; None for :func:`default_folder`.
        slots: How many draws of each view are stored, or of some by name.
        reject_outliers: Whether images far from the labelled ones count in no loss that predictions
            teach.

    Raises:
        ValueError: If a number of slots is below 1.
    """

    def __init__(
        self,
        data: Any,
        folder: str | None = None,
        slots: int | Mapping[str, int] | None = None,
        reject_outliers: bool = False,
    ) -> None:
        self._data, self._rejects = data, reject_outliers
        self.folder = Path(os.path.expanduser(folder or default_folder()))
        self._slots = slots
        counts = slots if isinstance(slots, Mapping) else {"": 1 if slots is None else slots}
        for name, count in counts.items():
            check_count(f"data.cached_views{name and f'.{name}'}", count)
        self._views: dict[str, tuple[Transform, int]] = {}
        self._stores: dict[str, Store] = {}
        self._network: dict[str, Any] = {}
        self._fields: dict[str, dict[str, Any]] = {}
        self._record: dict[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None

    def declare(self, module: Any, views: Views) -> dict[str, dict[str, int]]:
        """Take the views of a method, if it can do with stored features.

        Args:
            module: The method.
            views: Its views.

        Returns:
            Stream to view to the number of copies.

        Raises:
            ValueError: If it cannot, or more copies are wanted than stored.
        """
        method = type(module).__name__
        if getattr(module, "needs_pixels", None):
            raise ValueError(
                f"`data.cached_features` must be false for {method}, {module.needs_pixels}, got "
                "true."
            )
        if not getattr(module, "freeze_backbone", False):
            raise ValueError(
                "`data.cached_features` must be false, or `model.freeze_backbone` true: only the "
                "features of a network that does not learn can be computed once."
            )
        if self._rejects and getattr(module, "unbalanced", None) is not None:
            raise ValueError(
                "`data.reject_outliers` must be false with a balanced classifier (`imbalance` "
                "'ABCHead'), which learns from all unlabelled images, got true."
            )
        for stream, declared in module.views.items():
            for name, copies in declared.items():
                if not isinstance(copies, int):
                    raise ValueError(
                        f"`data.cached_features` must be false for {method}, whose view '{name}' "
                        "changes while it learns, got true."
                    )
                describe_view(name, views.transform(stream, name))
                slots = self._count(name, copies)
                if copies > slots:
                    raise ValueError(
                        f"`data.cached_views` must be at least {copies} for the view '{name}', of "
                        f"which {method} takes {copies} copies, got {slots}."
                    )
                more = max(slots, self._views.get(name, (None, 0))[1])
                self._views[name] = (views.transform(stream, name), more)
        return {stream: dict(declared) for stream, declared in module.views.items()}

    def _count(self, name: str, copies: int) -> int:
        if isinstance(self._slots, int):
            return self._slots
        given = (self._slots or {}).get(name)
        return max(SLOTS.get(name, 8), copies) if given is None else given

    def serve(self, fetch: FetchFeatures) -> None:
        """Let batches be made of stored features; what is missing of any part is computed.

        Args:
            fetch: What makes the batches.
        """
        self._check_resumed()
        store = self._take("train", self._views)
        for part in ("val", "test"):
            if getattr(self._data.source, part) is not None:
                self.evaluation(part)
        fetch.take({name: store.view(self._label(name)) for name in self._views}, store.broken)
        if self._rejects:
            features = torch.from_numpy(np.array(store.view(_label(*_EVAL))[0]))
            fetch.kept = near_labels(features, self._data.split.labeled, self._data.split.unlabeled)

    def evaluation(self, part: str) -> Features | None:
        """Features of images as evaluation sees them.

        While training they are computed where they are missing; else they are taken if they are
        there.

        Args:
            part: ``train``, ``val`` or ``test``.

        Returns:
            ``(N, F)``, float16; None where they are not there.

        Raises:
            BrokenImageError: If an image that is evaluated could not be read.
        """
        fills = self._data.trainer is not None and self._data.trainer.state.fn == "fit"
        if not fills and not self._is_there(part):
            return None
        if fills and self._record is None:
            self._check_resumed()
        store = self._take(part, self._views if part == "train" and fills else {})
        rows = torch.arange(store.count) if part != "train" else self._data.split.val
        refuse_broken(getattr(self._data.source, part), rows, torch.from_numpy(store.broken))
        features: Features = store.view(_label(*_EVAL))[0]
        return features

    def all_parts(self, module: Any) -> dict[str, Tensor]:
        """Features of all images as evaluation sees them, computed where they are missing.

        Args:
            module: The method, whose network is frozen or not.

        Returns:
            ``train``, and ``val`` and ``test`` where the data have them, to ``(N, F)``, float16.
        """
        parts = [p for p in ("train", "val", "test") if getattr(self._data.source, p) is not None]
        label = _label(*_EVAL)
        return {
            p: torch.from_numpy(np.array(self._take(p, {}, module).view(label)[0])) for p in parts
        }

    def record(self) -> dict[str, Any] | None:
        """What a run has to go on with: the features' fields and the slots of each view.

        None before features are served, for which the weights have to be there.
        """
        return self._record

    def resume(self, recorded: Mapping[str, Any] | None) -> None:
        """Let a run go on with the features it began with only; seen to before any is computed.

        Args:
            recorded: What :meth:`record` returned then.
        """
        self._resumed = {} if recorded is None else recorded

    def _check_resumed(self) -> None:
        views = {self._label(name): slots for name, (_, slots) in self._views.items()}
        self._record = {**self._fields_of("train"), "views": views}
        recorded, self._resumed = self._resumed, None
        if recorded not in (None, self._record):
            names = ", ".join(f"`{name}`" for name in differing(recorded, self._record))
            raise ValueError(
                f"`ckpt_path` was trained on other features than `data.cached_features` has now: "
                f"{names} differ. For a new run that starts from its weights give --model.weights "
                "in place of --ckpt_path."
            )

    def close(self) -> None:
        """Forget what is open."""
        self._stores, self._fields, self._network, self._record = {}, {}, {}, None

    # What is stored

    def _label(self, name: str) -> str:
        return _label(name, self._views[name][0])

    def _fields_of(self, part: str, module: Any = None) -> dict[str, Any]:
        """What the features of a part depend on, besides the view."""
        if part not in self._fields:
            data, trainer = self._data, self._data.trainer
            module = module or trainer.lightning_module
            if hasattr(module, "start_from_weights"):
                module.start_from_weights()
            options = module.hparams.get("backbone"), module.hparams.get("backbone_args")
            precision = "32-true" if trainer is None else str(trainer.precision)
            # Its weights are read once for all parts.
            self._network = self._network or describe_network(module.backbone, *options, precision)
            self._fields[part] = {
                "format": FORMAT,
                **self._network,
                "image_size": data.image_size,
                "in_channels": data.in_channels,
                "crop_pct": data.crop_pct,
                "interpolation": data.interpolation,
                "exif_orientation": data.exif_orientation,
                "mean": list(data.mean),
                "std": list(data.std),
                "images": digest_images(getattr(data.source, part), data.root or ""),
            }
        return self._fields[part]

    def _store(self, part: str, module: Any = None) -> Store:
        fields = self._fields_of(part, module)
        module = module or self._data.trainer.lightning_module
        images = getattr(self._data.source, part)
        return Store(self.folder / key_of(fields), len(images), int(module.num_features))

    def _is_there(self, part: str) -> bool:
        trainer = self._data.trainer
        module = None if trainer is None else trainer.lightning_module
        if not getattr(module, "freeze_backbone", False):
            return False
        return self._store(part).is_complete({_label(*_EVAL): 1})

    def _take(
        self, part: str, views: Mapping[str, tuple[Transform, int]], module: Any = None
    ) -> Store:
        """Open the features of a part, which are computed where they are missing."""
        if part in self._stores:
            return self._stores[part]
        trainer = self._data.trainer
        module = module or trainer.lightning_module
        store, fields = self._store(part, module), self._fields_of(part, module)
        made = dict([_EVAL]) | {name: transform for name, (transform, _) in views.items()}
        labels = {name: _label(name, transform) for name, transform in made.items()}
        wanted = {labels[name]: views[name][1] if name in views else 1 for name in made}
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        complete, images = store.is_complete(wanted), getattr(self._data.source, part)
        if views and not complete and isinstance(images, FileImages):
            # Before anything is computed; of what is there, broken ones are known.
            check_readable(images, torch.cat([self._data.labeled.rows, self._data.split.val]))
        with ExitStack() as held:
            if not complete and rank == 0:
                check_output_folder(store.folder, "data.features_dir", ("meta.json",))
                # Another run may be at it; then this one finds everything done.
                held.enter_context(waiting_lock(store.folder / "fill.lock"))
                self._prepare(store, part, fields)
                for name, transform in made.items():
                    store.add(labels[name], wanted[labels[name]], describe_view(name, transform))
            _barrier(trainer)
            embed = Embed(module, trainer)
            form = (self._data.image_size, self._data.mean, self._data.std)
            filler = Filler(
                store,
                images,
                self._data.image_size,
                {labels[name]: View.make(name, made[name], *form) for name in made},
                embed,
            )
            shown = trainer is None or trainer.progress_bar_callback is not None
            filler(wanted, rank, world_size, min(4, available_cores()), shown)
            _barrier(trainer)
        check_true(store, part, labels["eval"], images, *form, embed)
        self._stores[part] = store
        return store

    def _prepare(self, store: Store, part: str, fields: dict[str, Any]) -> None:
        """Make the folder; say what has changed where features of the same images are there."""
        about = {"dataset": self._data.dataset, "root": self._data.root, "part": part}
        known = [read_meta(path) for path in stores(self.folder)]
        kin = [m["fields"] for m in known if all(m.get(k) == v for k, v in about.items())]
        if kin and fields not in kin:
            changed = min((list(differing(before, fields)) for before in kin), key=len)
            rank_zero_info(
                f"The features of the {part} images are computed again: "
                f"{', '.join(f'`{name}`' for name in changed)} differ from what is stored."
            )
        store.prepare(fields, about)


def _label(name: str, transform: Transform) -> str:
    """Name of a view's array: another transform is another array."""
    return f"{name}-{key_of(describe_view(name, transform))[:8]}"


def _barrier(trainer: pl.Trainer | None) -> None:
    if trainer is not None:
        trainer.strategy.barrier()


def open_features(data: Any, module: Any) -> dict[str, Tensor]:
    """Features of all images as evaluation sees them; what is missing is computed and stored.

    Args:
        data: The :class:`~lightning_ssl.data.datamodule.SSLDataModule`.
        module: The method, whose network makes them, on the device where that happens.

    Returns:
        ``train``, and ``val`` and ``test`` where there are any, to ``(N, F)``, float16, in order.
    """
    return FeatureCache(data, data.features_dir).all_parts(module)
