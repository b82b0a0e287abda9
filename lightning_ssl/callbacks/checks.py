"""What has to be said about a run: averages too slow, pseudo-labels unused, a loss not finite."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateFinder, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_ssl.callbacks.checkpoint import use_own_files
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.callbacks.learning_rate import follow_schedule
from lightning_ssl.callbacks.monitors import check_monitors
from lightning_ssl.lightning_private import average_of
from lightning_ssl.records import check_same, plain
from lightning_ssl.seeding import global_seed

_HINT = "A lower `model.optimizer.lr` or 32-bit precision often helps."
_EARLY, _LEAST_USED = 0.05, 0.01
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class RunChecks(Callback):
    """Warn about running averages that lag behind and unused images, stop at a loss not finite.

    Images are unused where no logged ``train/mask_rate`` has reached 1 % in the first 5 % of the
    updates, which is said once.

    The first bad step is noted on the device in every step, but read only as often as values are
    logged, because reading makes the host wait, and before any checkpoint is written, so that the
    last good one is kept.

    Args:
        ema_decay: Decay of the averaged weights; 0 where there are none.
    """

    def __init__(self, ema_decay: float) -> None:
        self.ema_decay = ema_decay
        self._first_bad: Tensor | None = None
        self._watches_mask = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open no checkpoint by unpickling; see that what is monitored will be there."""
        use_own_files(trainer)
        if stage == "fit":
            check_monitors(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the number of updates with what the averages need."""
        if find_callbacks(trainer, LearningRateFinder):
            follow_schedule(trainer)
        self._first_bad = torch.tensor(-1, device=pl_module.device)
        self._watches_mask = True
        updates = trainer.estimated_stepping_batches
        if self.ema_decay and updates < 5 / (1 - self.ema_decay):
            rank_zero_warn(
                f"`ema_decay` {self.ema_decay} averages over more updates than this run has "
                f"({updates}): evaluation would lag behind. "
                f"Choose at most {max(0, 1 - 5 / updates):.3g}."
            )
        warmup = getattr(getattr(pl_module, "schedule", None), "warmup", 0)
        if warmup >= updates:
            rank_zero_warn(
                f"`schedule.warmup` {warmup} is not over when this run of {updates} updates ends: "
                "the learning rate never gets to `optimizer.lr`."
            )
        self._warn_of_momenta(pl_module, updates)

    def _warn_of_momenta(self, pl_module: LightningModule, updates: float) -> None:
        norms = [layer for layer in pl_module.modules() if isinstance(layer, _BATCH_NORM)]
        momenta = [layer.momentum for layer in norms if layer.momentum and layer.training]
        if momenta and updates < 5 / min(momenta):
            rank_zero_warn(
                f"BatchNorm momentum {min(momenta)} needs more updates than this run has "
                f"({updates}). Choose at least {min(1, 5 / updates):.3g} by "
                "`backbone_args.bn_momentum`."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Note a bad loss; look at the note as often as values are logged.

        After the last update, end the run in the way that makes Lightning validate first, however
        the interval between validations divides the run.
        """
        if trainer.global_step == trainer.estimated_stepping_batches:
            trainer.should_stop = True
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if loss is None:
            return
        step = trainer.fit_loop.total_batch_idx
        first = self._first_bad
        assert first is not None
        self._first_bad = torch.where((first < 0) & ~loss.isfinite().all(), step, first)
        interval = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        if (step + 1) % interval == 0:
            self._stop_if_bad(trainer)
            if self._watches_mask:
                self._watch_mask(trainer, pl_module)

    def _watch_mask(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = trainer.callback_metrics.get("train/mask_rate")
        if rate is None:
            return
        late = trainer.global_step >= _EARLY * trainer.estimated_stepping_batches
        used = float(rate) >= _LEAST_USED
        self._watches_mask = not (used or late)
        if late and not used:
            start = "`model.head_init class_means`, or " if _may_start(pl_module) else ""
            rank_zero_warn(
                f"Less than {_LEAST_USED:.0%} of the pseudo-labels count (train/mask_rate) after "
                f"{trainer.global_step} updates: the unlabelled images teach nothing. Choose "
                f"{start}a lower threshold."
            )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on with another seed, which decides what the steps to come draw, or steps.

        Raises:
            ValueError: If the seed or what a step is differs.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        seed = checkpoint.get("seed", global_seed())
        if seed != global_seed():
            raise ValueError(
                f"`ckpt_path` was trained with --seed_everything {seed}, got {global_seed()}."
            )
        check_same("trainer", checkpoint.get("steps", {}), _steps(trainer))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to replace a good checkpoint by a bad one; record what a step is.

        Raises:
            FloatingPointError: If the loss, a weight or its average is not finite.
        """
        self._stop_if_bad(trainer)
        averages = [average_of(average) for average in find_callbacks(trainer, WeightAveraging)]
        modules = [pl_module, *(average for average in averages if average is not None)]
        found = [p.isfinite().all() for module in modules for p in module.parameters()]
        if not bool(torch.stack(found).all()):
            raise FloatingPointError(
                f"A weight is not finite after {trainer.global_step} updates. The last checkpoint "
                f"from before is kept. {_HINT}"
            )
        checkpoint["steps"] = _steps(trainer)

    def _stop_if_bad(self, trainer: Trainer) -> None:
        if self._first_bad is None:
            return
        # All ranks stop, or those without the bad loss would wait for the others for ever.
        step = int(trainer.strategy.reduce(self._first_bad, reduce_op="max"))
        if step >= 0:
            raise FloatingPointError(
                f"The loss is not finite at step {step} (counted from 0). The last checkpoint "
                f"from before is kept. {_HINT}"
            )


def _may_start(method: LightningModule) -> bool:
    """Whether its classifier could have started from the labelled images, and did not."""
    head = getattr(method, "classifier", None)
    return getattr(method, "no_head_init", "") is None and not getattr(head, "normalize", True)


def _steps(trainer: Trainer) -> dict[str, Any]:
    """Options of the trainer that change what an update does."""
    names = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
    steps: dict[str, Any] = plain({name: getattr(trainer, name) for name in names})
    return steps
