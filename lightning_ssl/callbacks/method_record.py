"""What a checkpoint keeps of its method, and the checks that it belongs to one."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from lightning_ssl.callbacks.base_weights import is_partial, leave_out, put_back
from lightning_ssl.callbacks.stored import check_is_of, without_downloads
from lightning_ssl.callbacks.weights_alone import complete, is_of_weights_alone, last_metrics
from lightning_ssl.optim import Optimizer, Schedule
from lightning_ssl.records import check_same, plain
from lightning_ssl.seeding import global_seed


def record_method(
    method: LightningModule, checkpoint: dict[str, Any], trainer: Trainer | None
) -> None:
    """Put in the class, its options and the seed, as plain values; leave out what never learns.

    Args:
        method: The method.
        checkpoint: What is to be written.
        trainer: The trainer that writes it; None where none does.
    """
    if trainer is not None:
        if is_of_weights_alone(checkpoint):
            complete(method, trainer, checkpoint)
        metrics = last_metrics(method, trainer)
        if metrics:
            checkpoint["metrics"] = metrics
    checkpoint["seed"] = global_seed()
    checkpoint["started_from"] = plain(method.hparams.get("weights"))
    checkpoint["method"] = f"{type(method).__module__}.{type(method).__qualname__}"
    checkpoint[method.CHECKPOINT_HYPER_PARAMS_KEY] = _options(method)
    leave_out(method, checkpoint)


def _options(method: LightningModule) -> dict[str, Any]:
    # The command line also records what the data offers and this method does not take.
    parents: Any = type(method).__mro__
    taken = {name for parent in parents for name in signature(parent.__init__).parameters}
    # Building from the checkpoint shall not look for other weights again.
    options = without_downloads({**method.hparams, "weights": None})
    kept = {name: v for name, v in options.items() if name in taken or name.startswith("_")}
    recorded: dict[str, Any] = plain(kept)
    return recorded


def check_method(
    method: LightningModule, checkpoint: dict[str, Any], trainer: Trainer | None
) -> None:
    """See that a checkpoint is of a method and, where training goes on, of the same run.

    Weights that it left out, as of a network with adapters, are filled in. What the run started
    from is then recorded as before.

    Args:
        method: The method.
        checkpoint: What was loaded.
        trainer: The trainer; None where the weights alone are loaded.

    Raises:
        ValueError: If another method wrote it, or other data or options.
    """
    check_is_of(type(method), checkpoint)
    put_back(method, checkpoint)
    if trainer is None or trainer.state.fn != TrainerFn.FITTING:
        return
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if type(data).__qualname__ in checkpoint:  # first, as sizes of the method follow from it
        data.load_state_dict(checkpoint[type(data).__qualname__])
    check_options(method, checkpoint)
    if "started_from" in checkpoint:
        method.hparams["weights"] = checkpoint["started_from"]


def take_record(
    method: LightningModule, checkpoint: dict[str, Any], trainer: Trainer | None
) -> None:
    """Check that a checkpoint is of a method, and take what it holds besides the weights.

    Args:
        method: The method.
        checkpoint: What was loaded.
        trainer: The trainer; None where the weights alone are loaded.

    Raises:
        ValueError: See :func:`check_method`.
    """
    own: Any = method
    if trainer is not None and trainer.precision == "64-true":
        # Lightning converts the module only after this, and float32 would round the weights.
        own.double()
    check_method(method, checkpoint, trainer)
    own.head_init = "none"  # training goes on from these weights
    own.labeled_features = checkpoint.get("labeled_features")
    own.logit_temperature = checkpoint.get("temperature", 1.0)


def check_start(method: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Refuse weights to start from beside those of a checkpoint, which would replace them.

    Args:
        method: The method.
        checkpoint: What the weights will come from.

    Raises:
        ValueError: If ``weights`` are given and are not those that the checkpoint's run started
            from; a run from before these were recorded may have any.
    """
    given = plain(method.hparams.get("weights"))
    before = checkpoint.get("started_from", given)
    if given not in (None, before) and not is_partial(checkpoint):
        raise ValueError(
            f"`model.weights` (--model.weights) must be {before or 'null'} beside `ckpt_path`, "
            f"whose weights replace them, got '{given}': leave one of the two out (a new run that "
            "starts from other weights needs no --ckpt_path)."
        )


def check_options(
    method: LightningModule, checkpoint: dict[str, Any], skipped: Sequence[str] = ()
) -> None:
    """See that a method has the options that a run began with.

    Args:
        method: The method.
        checkpoint: Of the run.
        skipped: Options that need not be the same.

    Raises:
        ValueError: For the first option that differs.
    """
    recorded = without_downloads(checkpoint.get(method.CHECKPOINT_HYPER_PARAMS_KEY, {}))
    for name, kind in (("optimizer", Optimizer), ("schedule", Schedule)):
        if name in recorded:  # an older one lacks later fields
            recorded[name] = plain(kind(**recorded[name]))
    check_start(method, checkpoint)
    left = {"weights", *skipped}
    began = {n: v for n, v in recorded.items() if n not in left and not n.startswith("_")}
    check_same("model", began, _options(method))
