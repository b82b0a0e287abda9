"""Commands that run other commands one after another and go on where they stopped."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lightning_ssl.cli.functions import run_function
from lightning_ssl.cli.paths import options as typed
from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.commands.options import keep_method, read_options, split_options
from lightning_ssl.commands.pseudo_label import pseudo_label
from lightning_ssl.files import check_output_folder, writing_text


class Step(NamedTuple):
    """A command in three parts: its name, what the user chose, what the sequence adds."""

    name: str
    start: tuple[str, ...]
    options: tuple[str, ...]
    end: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """As typed, without the program's name."""
        return [*self.start, *self.options, *self.end]


def fit_step(folder: Path, method: str, options: str, source: str, *added: str) -> Step:
    """A run.

    Args:
        folder: Its run folder, after which the step is called.
        method: Its method, whichever the configs among the options name.
        options: Options of ``fit`` as typed.
        source: Where they come from, for messages.
        *added: Options that come after them.
    """
    chosen = tuple(keep_method(method, split_options(options, source)))
    return Step(folder.name, ("fit",), chosen, (*added, "--run_dir", str(folder)))


def label_step(folder: Path, runs: Sequence[str], options: str) -> Step:
    """Label all training images.

    Args:
        folder: Folder of the sequence.
        runs: Names of the runs whose models predict.
        options: Options of ``pseudo-label`` as typed.
    """
    paths = [str(last(folder / run)) for run in runs]
    chosen = paths[0] if len(paths) == 1 else json.dumps(paths, ensure_ascii=False)
    end = ("--ckpt_path", chosen, "--output", str(table(folder)))
    return Step("label", ("pseudo-label",), tuple(split_options(options, "`label`")), end)


def table(folder: Path) -> Path:
    """Where the labels are."""
    return folder / "pseudo_labels.csv"


def last(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    return folder / "checkpoints" / "last.ckpt"


def run_steps(folder: Path, title: str, steps: Sequence[Step]) -> None:
    """Run the steps that are not finished, in order, all on the devices of the first one.

    All options are read before that.

    Args:
        folder: Folder of the sequence; ``finished.json`` lists what is done.
        title: What the sequence is called.
        steps: Its steps.

    Raises:
        ValueError: If a finished step was another one, or had other options, or the texts give an
            option that the sequence gives.
    """
    for step in steps:
        _check_own(step)
    steps = _read_all(steps)
    records = [f"{step.name}/config.yaml" for step in steps if step.start == ("fit",)]
    check_output_folder(folder, "run_dir", ("finished.json", table(folder).name, *records))
    finished = _read(folder)
    for (name, options), step in zip(finished.items(), steps, strict=False):
        if (name, options) != (step.name, [*step.options]):
            raise ValueError(
                f"`run_dir` '{folder}' holds the finished {name} with the options "
                f"'{shlex.join(options)}', got {step.name} with '{shlex.join(step.options)}': give "
                "the same ones or another folder."
            )
    left = steps[len(finished) :]
    # Asked before anything runs, so that all processes agree.
    begun = {step.name: last(folder / step.name).exists() for step in left}
    for step in left:
        rank_zero_info(f"{title}, {step.name}: lightning-ssl {shlex.join(step.command)}")
        _start([*step.command, *(("--ckpt_path", "last") if begun[step.name] else ())])
        finished[step.name] = [*step.options]
        _record(folder, finished)


def _check_own(step: Step) -> None:
    """Refuse what the sequence would overrule in silence."""
    own = {"ckpt_path", *(option.name for option in typed(step.end))} - {""}
    given = next((o.name for o in typed(step.options) if o.name in own), None)
    if given is not None:
        raise ValueError(
            f"`{given}` (--{given}) must not be given for {step.name}: the sequence gives it."
        )


def _read_all(steps: Sequence[Step]) -> list[Step]:
    """See that all options are right, and label on the devices of the first run."""
    configs = [read_options(_start, step.command) for step in steps if step.start == ("fit",)]
    trainer: dict[str, Any] = configs[0]["trainer"]
    names = ("accelerator", "devices", "num_nodes")
    devices = [part for name in names for part in (f"--{name}", str(trainer[name]))]
    out = []
    for step in steps:
        if step.start != ("fit",):
            step = step._replace(start=(*step.start, *devices))
            read_options(_start, step.command)
        out.append(step)
    return out


def _start(command: Sequence[str]) -> None:
    name, *args = command
    if name == "fit":
        run_trainer(command)
    else:
        run_function(pseudo_label, name, args)


def _read(folder: Path) -> dict[str, list[str]]:
    """Options of the finished steps."""
    file = folder / "finished.json"
    if not file.exists():
        return {}
    try:
        finished = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no text
        finished = None
    steps = list(finished.values()) if isinstance(finished, dict) else [None]
    if not all(isinstance(s, list) and all(isinstance(o, str) for o in s) for s in steps):
        raise ValueError(
            f"`run_dir` '{folder}' has a damaged list of its finished steps, '{file}': delete it, "
            "and the same command goes on from the checkpoints."
        )
    return dict(finished)


@rank_zero_only
def _record(folder: Path, finished: dict[str, list[str]]) -> None:
    with writing_text(folder / "finished.json") as file:
        file.write(json.dumps(finished, indent=1) + "\n")
