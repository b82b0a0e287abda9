"""Embeddings of an evaluated set."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


class Sample:
    """A fixed random sample of the images that an evaluation walks, whatever their number of ranks.

    Args:
        trainer: The trainer that evaluates.
        loader: Its loader; of one that does not tell its ``num_images`` these are the first ones.
        most: Largest number of images.
    """

    def __init__(self, trainer: Trainer, loader: Any, most: int) -> None:
        total = getattr(loader, "num_images", most)
        generator = torch.Generator().manual_seed(0)
        self._positions = torch.randperm(total, generator=generator)[:most]
        self._seen = 0  # images of this process
        self._rank, self._world_size = trainer.global_rank, trainer.world_size

    def choose(self, count: int) -> Tensor:
        """Choose from the next images of this process.

        Args:
            count: How many these are, B.

        Returns:
            Whether each of them is in the sample ``(B,)``, bool, on the CPU.
        """
        positions = torch.arange(self._seen, self._seen + count) * self._world_size + self._rank
        self._seen += count
        return torch.isin(positions, self._positions)


class Embeddings(Callback):
    """Embed a sample of the images that are validated or tested.

    Of a set with more than ``max_images`` images a fixed random sample is taken: the first images
    of a folder would be those of its first classes. Neither the number of processes nor what was
    drawn before changes the sample; of a loader that does not tell its ``num_images`` it is the
    first ones.

    After an evaluation the process of rank 0 holds ``features`` ``(N, F)``, float32, ``targets``
    ``(N,)`` and ``index`` ``(N,)``, int64, on the CPU, in the order of ``index``. ``stage`` says
    what the images were, ``val`` or ``test``.

    Args:
        max_images: Largest number of images.

    Raises:
        ValueError: If ``max_images`` is below 2.
    """

    def __init__(self, max_images: int = 2000) -> None:
        if max_images < 2:
            raise ValueError(f"`max_images` must be at least 2, got {max_images}.")
        self.max_images = max_images
        self.stage = "val"
        self._active = False
        self._sample: Sample | None = None
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.features, self.targets, self.index = _nothing(torch.device("cpu"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the images."""
        self._start(trainer, trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the images."""
        self._start(trainer, trainer.test_dataloaders)

    def wanted(self, trainer: Trainer) -> bool:
        """Whether the evaluation that begins is to be embedded.

        Args:
            trainer: The trainer that evaluates.
        """
        return not trainer.sanity_checking

    def _start(self, trainer: Trainer, loader: Any) -> None:
        self.stage = getattr(loader, "stage", self.stage)
        self._active = self.wanted(trainer) and self.stage != "support"
        self._sample = Sample(trainer, loader, self.max_images)
        self._parts = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed the chosen images of a batch, while the module holds the averaged weights."""
        if not self._active or dataloader_idx or self._sample is None:
            return
        images, targets, index = batch
        chosen = self._sample.choose(len(index)).to(index.device)
        if chosen.any():
            with trainer.precision_plugin.forward_context():
                features = pl_module.embed(images[chosen])  # type: ignore[operator]
            self._parts.append((features.float(), targets[chosen], index[chosen]))

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the shares of all processes together."""
        if not self._active:
            return
        # A process may have none of the images, and then does not know the number of features.
        parts = self._parts or [_nothing(pl_module.device)]
        mine = [torch.cat(values) for values in zip(*parts, strict=True)]
        shares = [gather_all_tensors(v) if trainer.world_size > 1 else [v] for v in mine]
        found = [share for share in zip(*shares, strict=True) if len(share[2])]
        if found and trainer.is_global_zero:
            values = [torch.cat(column).cpu() for column in zip(*found, strict=True)]
            order = values[2].argsort()
            self.features, self.targets, self.index = (value[order] for value in values)
        self._parts = []

    on_test_end = on_validation_end


def _nothing(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.empty(0, dtype=torch.long, device=device)
    return torch.empty(0, 0, device=device), none, none
