"""What can be wrong with a comparison before its first run: its options, built and not trained."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from lightning_ssl.augment import Views
from lightning_ssl.cli.arguments import classes
from lightning_ssl.cli.errors import USER_ERRORS
from lightning_ssl.cli.trainer import SSLCLI
from lightning_ssl.data.described import DescribedData
from lightning_ssl.data.splits.make import label_counts, val_counts
from lightning_ssl.methods import SSLModule

# What chooses labels, or seeds them, in place of the arguments of `compare`; a config may set it.
_CHOICE = ("labels_per_class", "imbalance_ratio", "label_fraction", "coin_flip", "labels_file")
_OWN = {"seed": "seeds", **dict.fromkeys((*_CHOICE, "fold"), "labels")}
_SIZES = ("num_labeled", "num_unlabeled", "class_counts")


def check_fit(method: str, options: Sequence[str], labels: Sequence[int]) -> dict[str, Any]:
    """Refuse what a run of a method would refuse as soon as it has begun, as far as that is cheap.

    Nothing is downloaded, and no image is read.

    Args:
        method: Name of the method.
        options: Options of ``fit``.
        labels: Numbers of labelled images.

    Returns:
        All options with their defaults.

    Raises:
        ValueError: If the method or the data refuse a value, or do not fit each other.
    """
    cli = _UntrainedCLI([*options, "--data.num_labels", str(labels[0])])
    config: dict[str, Any] = cli.config["fit"].as_dict()
    model, data = config["model"]["class_path"], config["data"]
    if model.rpartition(".")[2] != method.rpartition(".")[2]:
        raise ValueError(
            f"`options` and `method_options` must leave the model to `methods`, got {model} in "
            f"place of {method}."
        )
    described = issubclass(classes()[data["class_path"]], DescribedData)
    if described:
        _check_own(data["init_args"])
    cli.build()
    if described:
        for number in labels:
            _count_labels(cli.datamodule, number)
        _check_views(method, cli.model, cli.datamodule)
    return config


def _check_own(data: dict[str, Any]) -> None:
    for name, argument in _OWN.items():
        value = data.get(name)
        if value is not None and value is not False:
            off = "false" if value is True else "null"
            raise ValueError(
                f"`options` and `method_options` must leave data.{name} to `{argument}`, got "
                f"{value}; where a config sets it, follow it with --data.{name} {off}."
            )


def _count_labels(data: DescribedData, number: int) -> list[int]:
    """Labels of each class, without the images set apart for validation."""
    source, held = data.source, data.hparams["val_per_class"]
    try:
        counts = label_counts(source.class_counts, number, classes=source.classes)
        counts = counts - val_counts(counts, held, source.val is not None, source.classes)
    except ValueError as error:
        raise ValueError(
            f"`labels` must be numbers that the data allow, got {number}: {error}"
        ) from None
    left: list[int] = counts.tolist()
    return left


def _check_views(method: str, model: SSLModule | None, data: DescribedData) -> None:
    given = data.view_transforms
    if model is None or not given:
        return
    try:
        Views(model.views, data.image_size, overrides=given)
    except ValueError as error:
        raise ValueError(
            f"`data.views` must be views of {method}, got {', '.join(given)}: {error} With "
            "--data.views null among its `method_options` it has its own."
        ) from None


class _UntrainedCLI(SSLCLI):
    """Read options of ``fit``; build, when asked to, what they describe; train nothing."""

    only_parses = True

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__(["fit", *options])

    def build(self) -> None:
        """Make ``datamodule`` and ``model``; that is None where it needs more than shapes."""
        super().before_instantiate_classes()
        trainer = self.config["fit"].trainer
        trainer.logger, trainer.callbacks = False, None
        self.parser.add_instantiator(_outline, SSLModule, subclasses=True)
        super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        pass

    def _ask_data(self, name: str, data: Any) -> Any:
        """Sizes from the counts that are known, or about so: a split would read the images."""
        if isinstance(data, DescribedData) and name in _SIZES:
            counts = _count_labels(data, data.hparams["num_labels"])
            sizes = (sum(counts), data.source.num_train, counts)
            data = SimpleNamespace(**dict(zip(_SIZES, sizes, strict=True)))
        return super()._ask_data(name, data)


def _outline(class_: type[SSLModule], *args: Any, **options: Any) -> SSLModule | None:
    """Make a method whose tensors have shapes and no values: no memory, no time, no download."""
    if options.get("backbone_args"):
        options["backbone_args"] = {**options["backbone_args"], "pretrained": False}
    try:
        with torch.device("meta"):
            return class_(*args, **options)
    except USER_ERRORS:
        raise
    except Exception:
        return None  # it asked for a value
