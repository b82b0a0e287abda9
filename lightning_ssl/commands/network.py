"""A pretrained network and the data, from the options of ``fit``, for other commands."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningDataModule, seed_everything

from lightning_ssl.cli.trainer import SSLCLI
from lightning_ssl.commands.options import keep_method
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import SSLModule

_FROZEN = ("--model.freeze_backbone", "true", "--data.cached_features", "true")
_SOURCES = ("-c", "--config", "--model.backbone", "--model.weights")


def build_frozen(
    fit_options: Sequence[str], num_classes: int | None = None
) -> tuple[SSLModule, SSLDataModule]:
    """Build a frozen network with a linear classifier that learnt nothing, and the data.

    Args:
        fit_options: Options of ``fit``. Without any that name a network, the recipe ``frozen``
            says which.
        num_classes: Number of classes, where the data need not say it.

    Returns:
        The method, with the weights that it starts from, in evaluation mode, and the data.

    Raises:
        ValueError: If the options are refused, or the network is not pretrained.
    """
    named = any(option.partition("=")[0] in _SOURCES for option in fit_options)
    start = [] if named else ["-c", "frozen"]
    cli = _BuildingCLI([*keep_method("Supervised", [*start, *fit_options]), *_FROZEN], num_classes)
    method, data = cli.model, cli.datamodule
    if not isinstance(data, SSLDataModule):
        raise ValueError(
            f"`data` must be an SSLDataModule, which knows its images, got {type(data).__name__}."
        )
    options = method.hparams.get("backbone_args") or {}
    if not options.get("pretrained") and method.weights is None:
        raise ValueError(
            "`model.backbone` must be pretrained: give --model.backbone_args.pretrained true or "
            f"--model.weights FILE, got '{method.hparams.get('backbone')}' without weights."
        )
    method.start_from_weights()
    data.prepare_data()
    return method.eval(), data


class _BuildingCLI(SSLCLI):
    """Build what options of ``fit`` describe; train nothing and write nothing."""

    only_parses = True

    def __init__(self, options: Sequence[str], num_classes: int | None) -> None:
        self._num_classes = num_classes
        super().__init__(["fit", *options])

    def before_instantiate_classes(self) -> None:
        """Seed what is drawn, such as weights beside the pretrained ones."""
        super().before_instantiate_classes()
        config = self.config["fit"]
        seed_everything(config.seed_everything, verbose=False)
        config.trainer.logger, config.trainer.callbacks = False, None

    def _ask_data(self, name: str, data: LightningDataModule) -> Any:
        if name == "num_classes" and self._num_classes is not None:
            return self._num_classes
        return super()._ask_data(name, data)
