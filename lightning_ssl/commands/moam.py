"""S4L's mix of all models: train, label all images, train on those labels, fine-tune."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lightning_ssl.cli.functions import run_function
from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.commands.options import read_options, split_options
from lightning_ssl.commands.pseudo_label import pseudo_label
from lightning_ssl.files import check_output_folder, replacing


def moam(
    run_dir: str = "runs/moam",
    common: str = "",
    step1: str = "",
    label: str = "",
    step2: str = "",
    step3: str = "",
    method1: str = "MOAM",
    method2: str = "MOAM",
    method3: str = "Supervised",
) -> None:
    """Run the three steps of https://arxiv.org/abs/1905.03670 and the labelling between them.

    In ``step1`` the first method is trained. It labels all training images, by the average of
    twenty views. In ``step2`` the second method goes on from its weights, with all those labels. In
    ``step3`` the third method goes on from there, with the labelled images alone.

    Options are texts of options as they would be typed. The same command goes on where it stopped,
    inside a step too. All options are read before the first step; those of steps that are not
    finished may still be changed.

    Args:
        run_dir: Folder of everything: a run folder for each step and ``pseudo_labels.csv``.
        common: Options of ``fit`` for all three steps: the data, the network, the seed.
        step1: Further options of ``fit`` in step 1.
        label: Options of ``pseudo-label``, which runs on the devices of step 1.
        step2: Further options of ``fit`` in step 2.
        step3: Further options of ``fit`` in step 3.
        method1: Method of step 1.
        method2: Method of step 2.
        method3: Method of step 3.
    """
    folder = Path(run_dir)
    fits = [
        _fit(folder / "step1", method1, f"{common} {step1}"),
        _fit(
            folder / "step2",
            method2,
            f"--data.pseudo_column averaged_label {common} {step2}",
            *_weights(folder / "step1", same=method1 == method2),
            *("--data.pseudo_labels", str(_table(folder))),
        ),
        _fit(
            folder / "step3",
            method3,
            f"{common} {step3}",
            *_weights(folder / "step2", same=method2 == method3),
        ),
    ]
    configs = [read_options(_start, step.command) for step in fits]
    labelling = _label(folder, configs[0]["trainer"], label)
    read_options(_start, labelling.command)
    records = [f"{step.name}/config.yaml" for step in fits]
    check_output_folder(folder, "run_dir", ("finished.json", _table(folder).name, *records))
    _run(folder, [fits[0], labelling, *fits[1:]])


class _Step(NamedTuple):
    """A command in three parts: its name, what the user chose, what the sequence adds."""

    name: str
    start: tuple[str, ...]
    options: tuple[str, ...]
    end: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        return [*self.start, *self.options, *self.end]


def _fit(folder: Path, method: str, options: str, *added: str) -> _Step:
    chosen = ("--model", method, *split_options(options, f"`common` and `{folder.name}`"))
    return _Step(folder.name, ("fit",), chosen, (*added, "--run_dir", str(folder)))


def _label(folder: Path, trainer: dict[str, Any], options: str) -> _Step:
    """Label on the devices that the steps are trained on."""
    devices = [
        part
        for name in ("accelerator", "devices", "num_nodes")
        for part in (f"--{name}", str(trainer[name]))
    ]
    paths = ("--ckpt_path", str(_last(folder / "step1")), "--output", str(_table(folder)))
    return _Step(
        "label", ("pseudo-label", *devices), tuple(split_options(options, "`label`")), paths
    )


def _table(folder: Path) -> Path:
    return folder / "pseudo_labels.csv"


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _weights(folder: Path, same: bool) -> tuple[str, ...]:
    weights = ("--model.weights", str(_last(folder)))
    # Another method has other heads; those of the same one all have to fit.
    return weights if same else (*weights, "--model.weights_strict", "false")


def _run(folder: Path, steps: Sequence[_Step]) -> None:
    """Run the steps that are not finished, in order."""
    finished = _read(folder)
    for step in steps[: len(finished)]:
        if finished[step.name] != [*step.options]:
            raise ValueError(
                f"`run_dir` '{folder}' holds the finished {step.name} with the options "
                f"'{shlex.join(finished[step.name])}', got '{shlex.join(step.options)}': give the "
                "same ones or another folder."
            )
    left = steps[len(finished) :]
    # Asked before anything runs, so that all processes agree.
    begun = {step.name: _last(folder / step.name).exists() for step in left}
    for step in left:
        rank_zero_info(f"MOAM, {step.name}: lightning-ssl {shlex.join(step.command)}")
        _start([*step.command, *(("--ckpt_path", "last") if begun[step.name] else ())])
        finished[step.name] = [*step.options]
        _record(folder, finished)


def _start(command: Sequence[str]) -> None:
    name, *args = command
    if name == "fit":
        run_trainer(command)
    else:
        run_function(pseudo_label, name, args)


def _read(folder: Path) -> dict[str, list[str]]:
    """Options of the finished steps."""
    file = folder / "finished.json"
    finished: dict[str, list[str]] = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    )
    return finished


@rank_zero_only
def _record(folder: Path, finished: dict[str, list[str]]) -> None:
    with replacing(folder / "finished.json") as temporary:
        Path(temporary).write_text(json.dumps(finished, indent=1) + "\n", encoding="utf-8")
