"""Fill the store of features without training, or look at what is there."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as pl

from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.data.features.store import Store, default_folder, read_meta, stores


def features(fit_options: Sequence[str] = (), features_dir: str | None = None) -> None:
    """Compute the features of a run that does not start, and list all that are stored.

    What is listed are the images, the network, and for each view how many slots there are and which
    share of them is done. A folder may be deleted at any time when no run uses it.

    Args:
        fit_options: Options of ``fit``: the method, the data, the network. None to look only.
        features_dir: Where features are stored; null for ``lightning_ssl/features`` in the user's
            cache.
    """
    if fit_options:
        where = () if features_dir is None else ("--data.features_dir", features_dir)
        stops = ("--trainer.callbacks+=lightning_ssl.commands.features.FillOnly",)
        with suppress(_FilledError):
            run_trainer(["fit", *fit_options, "--data.cached_features", "true", *where, *stops])
    folder = Path(os.path.expanduser(features_dir or default_folder()))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`features_dir` must be a folder, got the file '{folder}'.")
    found = stores(folder)
    print(f"{len(found)} stores in {folder}")
    for path in found:
        _describe(path)


def _describe(path: Path) -> None:
    meta = read_meta(path)
    store = Store(path, meta["images"], meta["features"])
    size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    print(
        f"{path.name}: {size:.1f} MB, {meta['images']} {meta['part']} images of "
        f"{meta['root'] or meta['dataset']}, {meta['fields']['backbone']} at "
        f"{meta['fields']['image_size']} pixels"
    )
    for label in meta["views"]:
        print(f"  {label}: {store.slots(label)} slots, {store.share_done(label):.0%} done")


class FillOnly(pl.Callback):
    """Let a run compute its features and end before it writes anything else."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask for the batches, of which none is made, and go.

        Args:
            trainer: The trainer.
            pl_module: The method, with the weights it will have, on its device.

        Raises:
            _FilledError: Always.
        """
        trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        raise _FilledError


class _FilledError(Exception):
    """There is nothing more to do."""
