"""Lightning's command line for our methods and data, and what runs one of its subcommands."""

import ctypes
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import Any

from docstring_parser import DocstringStyle
from jsonargparse import Namespace, set_parsing_settings
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

import lightning_ssl
from lightning_ssl.callbacks import PredictionWriter, Report, Termination
from lightning_ssl.callbacks.find import find_callbacks
from lightning_ssl.callbacks.learning_rate import keep_found_rate
from lightning_ssl.callbacks.method_record import check_method, check_options, check_start
from lightning_ssl.callbacks.metrics_file import read_metrics
from lightning_ssl.cli.arguments import WORDS, classes, expand
from lightning_ssl.cli.checkpoint import (
    DATA,
    LINKED,
    TRAINED_ON,
    follow_record,
    open_checkpoint,
    trained_on,
)
from lightning_ssl.cli.checks import (
    check_fit,
    check_seed,
    check_state,
    check_trained,
    check_values,
    check_whole,
)
from lightning_ssl.cli.configs import CONFIGS
from lightning_ssl.cli.errors import check_nulls, parameters
from lightning_ssl.cli.inputs import follow_network
from lightning_ssl.cli.paths import options
from lightning_ssl.cli.run_folder import (
    RunFolder,
    check_folder,
    check_of_folder,
    fill,
    find_checkpoint,
    folder_of,
    is_writer,
    make_record,
    new_run_dir,
)
from lightning_ssl.files import FolderLock, printable
from lightning_ssl.lightning_private import CommandLine
from lightning_ssl.methods import SSLModule
from lightning_ssl.models import PAWSWideResNet, ResNet20V2, WideResNet

_UPDATES = 1000  # of a run that is given no length

# Warnings of Lightning's that no user of the command line can act on, or that are not so: values
# are logged every n steps of the run, however short its epochs.
_FUTILE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    r"The dirpath has changed from",
    r"Total length of `list` across ranks is zero",
    r"Checkpoint directory .* exists and is not empty",
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen on purpose
)

# Trying every docstring style costs a second of start-up.
set_parsing_settings(docstring_parse_style=DocstringStyle.GOOGLE)


class SSLCLI(CommandLine):
    """Lightning's command line with short config names, one run folder and linked data sizes.

    Args:
        args: Arguments as typed, without the program's name.
        further: Names of commands that ``--help`` points to.
        held: What is to be given back when the command ends, in whatever way.
    """

    def __init__(
        self, args: Sequence[str], further: Sequence[str] = (), held: ExitStack | None = None
    ) -> None:
        self._held = held or ExitStack()
        own: dict[str, Any] = {
            "default_config_files": [str(CONFIGS / "trainer" / "default.yaml")],
            "exit_on_error": False,
            "allow_abbrev": False,  # a typo is an error
        }
        self._asked = args[0] if args else ""
        self._flags = {option.name for option in options(args)}
        self._typed = join(["lightning-ssl", *map(printable, args)])
        super().__init__(
            SSLModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # the methods configure their own
            load_from_checkpoint_support=not self.only_parses,
            seed_everything_default=0,
            parser_kwargs={
                "prog": "lightning-ssl",
                "exit_on_error": False,
                "allow_abbrev": False,
                "version": lightning_ssl.__version__,
                "epilog": f"Further commands: {', '.join(further)} (each with --help).",
                **dict.fromkeys(self.subcommands(), own),
            },
            save_config_callback=RunFolder,
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one that was asked for: making the options of each takes long."""
        known = LightningCLI.subcommands()
        return {self._asked: known[self._asked]} if self._asked in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder and the prediction file, and link what the data knows."""
        parser.set_defaults({"data": {"class_path": DATA}})
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder for checkpoints, logs and config; a new one under runs/ if not given.",
        )
        parser.add_argument(
            "--monitor",
            type=str,
            default="val/acc",
            help="Logged value that best.ckpt is chosen by, such as val/balanced_acc or val/nll.",
        )
        parser.add_argument(
            "--report",
            type=bool,
            default=True,
            help="Whether a run, and a test of one, end with report.html in the run's folder.",
        )
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        for name in LINKED:
            parser.link_arguments(
                "data",
                f"model.init_args.{name}",
                compute_fn=partial(self._ask_data, name),
                apply_on="instantiate",
            )

    def _ask_data(self, name: str, data: LightningDataModule) -> Any:
        """Value of a link; only asked for where the method has the argument, for it may read."""
        config = self.config[self.subcommand]
        if name not in parameters(classes()[config.model.class_path]):
            return None
        if name in TRAINED_ON and self.subcommand != "fit" and config.ckpt_path not in WORDS:
            return trained_on(config.ckpt_path).get(name)  # images to predict have no labels
        return getattr(data, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Resolve config names and take what a checkpoint knows first, then parse: flags win."""
        self.config = parser.parse_args(expand(args))
        check_seed(self.config[self.config.subcommand].seed_everything)  # which is used at once

    def before_instantiate_classes(self) -> None:
        """Fill in the run folder; only training has logs and a stored config."""
        config = self.config[self.subcommand]
        for group in ("model", "data"):
            check_nulls(group, config[group], classes().get(config[group].class_path), LINKED)
        check_values(config)
        for flag, kind in (("progress_bar", "ProgressBar"), ("checkpointing", "Checkpoint")):
            if config.trainer[f"enable_{flag}"] is False:
                # Lightning takes the flag and such a callback as a contradiction.
                _leave_out(config.trainer, kind)
        config.weights_only = config.weights_only is not False  # unpickling is asked for
        if self.subcommand == "fit":
            self._prepare_fit(config)
        else:
            if config.ckpt_path in ("last", "best"):
                self._require_folder(config)
                found = find_checkpoint(config.run_dir, config.ckpt_path)
                config.ckpt_path = found or f"{config.run_dir}/checkpoints/{config.ckpt_path}.ckpt"
            if config.ckpt_path is None:  # which knows how its images looked
                follow_network(config)
            check_trained(config, self._flags)
            config.run_dir = config.run_dir or folder_of(config.ckpt_path)
            if config.run_dir is None:
                config.run_dir, config.report = "runs", False  # which lies with its run
            config.trainer.logger = False
            self.save_config_callback = None
        if self.subcommand == "predict":
            self._prepare_predict(config)
        if not config.report:
            _leave_out(config.trainer, "callbacks.Report")
        config.trainer = fill(config.trainer, run_dir=config.run_dir, monitor=config.monitor)
        config.trainer.default_root_dir = config.trainer.default_root_dir or config.run_dir

    def _require_folder(self, config: Namespace) -> None:
        if config.run_dir is None and config.ckpt_path in ("last", "best"):
            raise ValueError(
                f"`ckpt_path` '{config.ckpt_path}' is of a run's folder: give its --run_dir, or -c "
                "and its config.yaml."
            )

    def _prepare_predict(self, config: Namespace) -> None:
        """See that there are images."""
        config.return_predictions = False
        data = config.data.get("init_args", {})
        if data.get("dataset") == "folder" and data.get("root") is None:
            raise ValueError("`data.root` must be the folder of images to predict, got none.")

    def _prepare_fit(self, config: Namespace) -> None:
        """Find the run's folder and what it goes on from; nothing is written yet."""
        self._require_folder(config)
        config.run_dir = config.run_dir or new_run_dir(config)
        # A clock does not say how long the schedule is, which has to be the same in every run.
        if config.trainer.max_steps == -1 and config.trainer.max_epochs is None:
            config.trainer.max_steps = _UPDATES
        lock = FolderLock(config.run_dir)
        self._held.callback(lock.release)
        if is_writer():
            check_folder(config.run_dir)
            lock.acquire(create=False)
        asks_network = config.ckpt_path is None
        if config.ckpt_path in (None, "last", "best"):
            config.ckpt_path = find_checkpoint(config.run_dir, config.ckpt_path)
            if config.ckpt_path is not None:
                asks_network = follow_record(config.data, config.ckpt_path)
        elif config.ckpt_path not in WORDS:
            check_of_folder(config.run_dir, config.ckpt_path)
        if asks_network:
            follow_network(config)
        if config.ckpt_path is not None:
            read_metrics(str(Path(config.run_dir, "metrics.csv")))
        self.save_config_kwargs = {"record": make_record(config), "lock": lock}

    def after_instantiate_classes(self) -> None:
        """Let nobody write to the run folder before training starts; listen to signals."""
        if self.only_parses:
            return
        termination = Termination()
        self.trainer.callbacks.append(termination)  # type: ignore[attr-defined]
        if self.subcommand == "fit":
            termination.listen(self.trainer)
            self._held.callback(termination.forget)
        for callback in find_callbacks(self.trainer, RunFolder):
            callback.hold(self.trainer)
        for report in find_callbacks(self.trainer, Report):
            report.command = self._typed

    def instantiate_classes(self) -> None:
        """See that what was built fits the checkpoint, and the images and batches the network."""
        super().instantiate_classes()
        if isinstance(self.model, SSLModule):
            config = self.config[self.subcommand]
            path = config.get("ckpt_path")
            if path not in WORDS:
                checkpoint = open_checkpoint(path)
                check_method(self.model, checkpoint, None)
                if self.subcommand == "fit":
                    keep_found_rate(self.trainer, self.model, checkpoint)
                    check_options(self.model, checkpoint, LINKED)  # the data check these
                    check_whole(self.model, checkpoint, path)
                check_start(self.model, checkpoint)
                self.model.weights = None  # those of the checkpoint come in their place
                check_state(self.model, checkpoint, path)
            if self.subcommand == "fit":
                check_fit(self.model, self.datamodule, getattr(self.trainer, "world_size", 1))

    def before_fit(self) -> None:
        """Say so where the default network would meet large photos."""
        small = (WideResNet, PAWSWideResNet, ResNet20V2)
        size = getattr(self.datamodule, "image_size", 0)
        if size > 64 and isinstance(self.model.backbone, small):
            rank_zero_warn(
                f"The images have {size} pixels a side, and this network keeps that size through "
                "a third of its layers: choose --model.backbone resnet18 or --data.image_size 64."
            )

    def after_fit(self) -> None:
        """Say where everything is."""
        folder = self.config["fit"].run_dir
        best = f"{folder}/checkpoints/best.ckpt"
        rank_zero_info(f"Run folder: {folder}")
        if Path(best).exists():
            rank_zero_info(
                f"Use it: lightning-ssl predict --ckpt_path {quote(best)} --data.root IMAGES"
            )


def _leave_out(trainer: Namespace, kind: str) -> None:
    """Leave the callbacks of a kind, by the end of their class path, out of a trainer's config."""
    given = trainer.callbacks or []
    trainer.callbacks = [c for c in given if not c.class_path.endswith(kind)]


def run_trainer(args: Sequence[str], further: Sequence[str] = ()) -> SSLCLI:
    """Run a subcommand of the trainer.

    Args:
        args: Arguments as typed, without the program's name.
        further: Names of commands that ``--help`` points to.

    Returns:
        The object that holds ``trainer``, ``model`` and ``datamodule``.
    """
    prepare_process()
    with ExitStack() as held:
        return SSLCLI(args, further, held)


def prepare_process() -> None:
    """Keep freed memory, and Lightning's warnings that nobody can act on to itself."""
    _keep_memory()
    for message in _FUTILE:
        warnings.filterwarnings("ignore", message=message)


def _keep_memory() -> None:
    """Let glibc reuse freed blocks instead of giving each back to the system.

    Training on the CPU frees and asks for the same large blocks in every step; faulting their
    pages in again took a fifth of its time (benchmarks/step.py, --keep-memory).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-4, 0)  # M_MMAP_MAX
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
