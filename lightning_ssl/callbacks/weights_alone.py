"""A checkpoint of weights alone holds those that are evaluated, and all that predictions need."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from lightning_ssl.callbacks.calibration import Calibration
from lightning_ssl.callbacks.checks import RunChecks
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.callbacks.labeled import LabeledFeatures, known_features

# The checks, too: they keep weights that are not finite from replacing good ones.
_NEEDED = (RunChecks, WeightAveraging, LabeledFeatures, Calibration)
_OF_TRAINING = ("current_model_state", "averaging_state", "loops", "steps")


def is_of_weights_alone(checkpoint: dict[str, Any]) -> bool:
    """Whether no run can go on from a checkpoint, as it lacks the state of the optimizer.

    Args:
        checkpoint: What was read.
    """
    return "optimizer_states" not in checkpoint


def complete(method: LightningModule, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put in what callbacks add to other checkpoints; Lightning does not ask them for this kind.

    Args:
        method: The method.
        trainer: The trainer that writes the checkpoint.
        checkpoint: What is to be written.
    """
    for kind in _NEEDED:
        for callback in find_callbacks(trainer, kind):
            callback.on_save_checkpoint(trainer, method, checkpoint)
    for name in _OF_TRAINING:
        checkpoint.pop(name, None)


def last_metrics(method: LightningModule, trainer: Trainer) -> dict[str, float]:
    """What the last validation said of these weights; nothing where training went on since.

    Args:
        method: The method.
        trainer: The trainer that validated it.

    Returns:
        Logged name to value, such as ``val/acc``.
    """
    if known_features(method) is None:
        return {}
    found = trainer.callback_metrics.items()
    return {name: float(v) for name, v in found if name.startswith(("val/", "test/"))}
