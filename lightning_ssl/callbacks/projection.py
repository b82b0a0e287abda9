"""How the embeddings separate the classes, watched while training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.callbacks.embeddings import Embeddings
from lightning_ssl.checks import check_count
from lightning_ssl.evaluation.projection import class_names, draw_projection


class ProjectionPlot(Embeddings):
    """Plot the principal components of the validated images' embeddings while training.

    Writes ``projection/step_<updates>.png`` to the run's log folder. TensorBoard gets every plot
    as a figure and, when training ends, the last embeddings in its projector.

    Args:
        every_n_validations: Validations from one plot to the next.
        max_images: Largest number of images, see :class:`Embeddings`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_validations: int = 1, max_images: int = 2000) -> None:
        super().__init__(max_images)
        self.every_n_validations = check_count("every_n_validations", every_n_validations)
        self._validations = 0  # those that ended

    def state_dict(self) -> dict[str, Any]:
        """The number of validations, so that a resumed run plots at the same ones."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._validations = state_dict["validations"]

    def wanted(self, trainer: Trainer) -> bool:
        """Whether this is a validation to be plotted.

        Args:
            trainer: The trainer that evaluates.
        """
        due = (self._validations + 1) % self.every_n_validations == 0
        return due and _watches_training(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the plot."""
        super().on_validation_end(trainer, pl_module)
        if not _watches_training(trainer):
            return
        self._validations += 1
        folder = trainer.log_dir or trainer.default_root_dir  # asks all processes
        if self._active and trainer.is_global_zero:
            self._draw(trainer, pl_module, Path(folder, "projection"))

    def _draw(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        step = trainer.global_step
        folder.mkdir(parents=True, exist_ok=True)
        path, title = folder / f"step_{step}.png", f"{len(self.targets)} {self.stage} images"
        try:
            figure = draw_projection(
                self.features, self.targets, _classes(trainer, pl_module), path, title
            )
        except ValueError as error:  # a plot is no reason to stop training
            rank_zero_warn(f"No projection was drawn at update {step}: {error}")
            return
        for writer in _writers(trainer):
            writer.add_figure("projection", figure, step, close=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill TensorBoard's projector.

        Not after every plot: each would leave all its embeddings, as text, in the log for ever.
        """
        if len(self.features):
            labels = class_names(self.targets, _classes(trainer, pl_module))
            for writer in _writers(trainer):
                writer.add_embedding(
                    self.features, labels, global_step=trainer.global_step, tag="embeddings"
                )


def _watches_training(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _classes(trainer: Trainer, pl_module: LightningModule) -> Sequence[str]:
    """Class names; another project's datamodule may not know them."""
    numbers = [str(number) for number in range(pl_module.num_classes)]  # type: ignore[arg-type]
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    classes: Sequence[str] = getattr(datamodule, "classes", numbers)
    return classes


def _writers(trainer: Trainer) -> list[Any]:
    return [
        logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)
    ]
