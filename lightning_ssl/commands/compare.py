"""Compare methods: the same data, labels, seeds and budget for each of them."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from inspect import isabstract
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

import lightning_ssl.methods as package
from lightning_ssl.checks import check_count
from lightning_ssl.commands.baselines import BaselineRow
from lightning_ssl.commands.baselines import baselines as frozen_baselines
from lightning_ssl.commands.compare_check import check_fit
from lightning_ssl.commands.compare_table import Run, read_accuracy, write_tables
from lightning_ssl.commands.options import keep_method, split_options
from lightning_ssl.data.loading.loader import available_cores
from lightning_ssl.files import check_output_folder, writing_text

# Flag to the argument of `compare` that sets it for each run.
_OWN_FLAGS = {
    "--model": "methods",
    "--data.num_labels": "labels",
    "--seed_everything": "seeds",
    "--run_dir": "run_dir",
    "--ckpt_path": "run_dir",
}


def compare(
    labels: list[int],
    methods: list[str] | None = None,
    batch_sizes: list[int] | None = None,
    seeds: int = 3,
    options: str = "",
    method_options: dict[str, str] | None = None,
    run_dir: str = "runs/compare",
    jobs: int | None = None,
    baselines: bool = False,
) -> None:
    """Train every method with every number of labels and every seed, and compare test accuracies.

    Writes ``results.csv`` (a row a run), ``evaluations.csv`` (top-1 and top-5 in the course of each
    run) and ``compare.png``, and prints mean and standard deviation over the seeds. Each run is a
    process with a folder of its own. The same command goes on where it stopped, inside a run too;
    more labels, methods or seeds add runs to those that are there. Stopped by Ctrl-C, it writes
    what the finished runs found.

    Args:
        labels: Numbers of labelled images.
        methods: Names of methods; null for all of them.
        batch_sizes: Numbers of labelled images a step; null for what the options say. Where the
            options set ``data.batch_size``, unlabelled images grow in proportion to it.
        seeds: Number of seeds, from 0. A seed sets split, initialisation and order.
        options: Options of ``fit`` for all runs, as they would be typed: the data, the network, the
            budget.
        method_options: Name of a method to further options for it, which win.
        run_dir: Folder of everything.
        jobs: Runs at a time; null for one per processor, and for one where there is a GPU. They
            share the processors, unless ``OMP_NUM_THREADS`` says how many each may use.
        baselines: Whether the table also shows the best of ``lightning-ssl baselines`` on the
            pretrained network of ``options``, with the same labels and seeds.
    """
    methods = _all_methods() if methods is None else methods
    own = method_options or {}
    _check(labels, methods, batch_sizes, seeds, jobs)
    if not set(own) <= set(methods):
        raise ValueError(
            f"`method_options` must be for methods that are compared, {', '.join(methods)}, got "
            f"{', '.join(own)}."
        )
    sizes: Sequence[int | None] = batch_sizes or [None]
    runs = _runs(
        Path(run_dir),
        _read(methods, options, own),
        list(product(range(seeds), labels, sizes)),
    )
    floor_files = {number: Path(run_dir, f"baselines_{number}.csv") for number in labels}
    tables = ["results.csv", "evaluations.csv", "compare.png"]
    tables += [path.name for path in floor_files.values() if baselines]
    records = [f"{run.folder.name}/options.json" for run in runs]
    check_output_folder(run_dir, "run_dir", (*tables, *records))
    for run in runs:
        _check_same(run)
    floors: dict[int, list[BaselineRow]] = {}
    if baselines:
        shared = _split(options, "`options`")
        for number, path in floor_files.items():
            floors[number] = frozen_baselines(
                [*shared, "--data.num_labels", str(number), "--seed_everything", "0"],
                str(path),
                seeds,
            )
    try:
        failed = _train(runs, jobs or (1 if torch.cuda.is_available() else available_cores()))
    finally:
        _report(runs, Path(run_dir), floors)  # after Ctrl-C, too
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} runs failed, see "
            f"{', '.join(str(_log(run)) for run in failed)}. The same command tries them again."
        )


def _report(runs: Sequence[Run], folder: Path, floors: Mapping[int, Sequence[BaselineRow]]) -> None:
    """Show and write what the finished runs found."""
    finished = [run for run in runs if run.result.exists()]
    if finished:
        Console().print(write_tables(finished, folder, floors))
        files = "results.csv, evaluations.csv, compare.png"
        of = "" if len(finished) == len(runs) else f", of {len(finished)} of {len(runs)} runs"
        Console().print(f"Written to {folder}: {files}{of}", soft_wrap=True)


def _all_methods() -> list[str]:
    found = {name: getattr(package, name) for name in package.__all__}
    return [
        name
        for name, value in found.items()
        if issubclass(value, package.SSLModule) and not isabstract(value)
    ]


def _check(
    labels: Sequence[int],
    methods: Sequence[str],
    batch_sizes: Sequence[int] | None,
    seeds: int,
    jobs: int | None,
) -> None:
    lists = {"labels": labels, "batch_sizes": batch_sizes}
    for name, values in lists.items():
        if values is not None and (not values or min(values) < 1):
            raise ValueError(f"`{name}` must be numbers of at least 1, got {list(values)}.")
    if not methods:
        raise ValueError("`methods` must be names of methods, or null for all of them, got [].")
    for name, many in {**lists, "methods": methods}.items():
        if many is not None and len(set(many)) < len(many):
            raise ValueError(f"`{name}` must differ from each other, got {list(many)}.")
    for name, number in {"seeds": seeds, "jobs": jobs}.items():
        if number is not None:
            check_count(name, number)


def _read(methods: Sequence[str], options: str, own: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Options of ``fit`` of each method."""
    start = ("--trainer.enable_progress_bar", "false", *_split(options, "`options`"))
    return {
        name: tuple(
            keep_method(name, [*start, *_split(own.get(name, ""), f"`method_options` of {name}")])
        )
        for name in methods
    }


def _split(options: str, name: str) -> list[str]:
    """Split a text of options, and refuse what every run would silently replace."""
    parts = split_options(options, name)
    for part in parts:
        flag = part.partition("=")[0]
        if flag in _OWN_FLAGS:
            raise ValueError(f"{name} must leave {flag} to `{_OWN_FLAGS[flag]}`, got '{options}'.")
    return parts


def _runs(
    folder: Path,
    starts: dict[str, tuple[str, ...]],
    settings: Sequence[tuple[int, int, int | None]],
) -> list[Run]:
    """Every method in every setting, the settings outermost: what is compared is done together."""
    labels = list(dict.fromkeys(number for _, number, _ in settings))
    # Now, so that a typo in the last one is found before the first one is trained.
    data = {name: check_fit(name, start, labels)["data"] for name, start in starts.items()}
    runs = []
    for seed, number, batch_size in settings:
        for method, start in starts.items():
            parts = (method, number, *([] if batch_size is None else [f"b{batch_size}"]), seed)
            varied: tuple[str, ...] = (
                *("--data.num_labels", str(number)),
                *("--seed_everything", str(seed)),
            )
            if batch_size is not None:
                varied += _batch_flags(batch_size, data[method].get("init_args", {}))
            place = folder / "_".join(map(str, parts))
            runs.append(Run(method, number, batch_size, seed, place, (*start, *varied)))
    return runs


def _batch_flags(batch_size: int, data: dict[str, int | None]) -> tuple[str, ...]:
    given, unlabeled = data.get("batch_size"), data.get("unlabeled_batch_size")
    flags = ("--data.batch_size", str(batch_size))
    if not given or not unlabeled:
        return flags
    return (*flags, "--data.unlabeled_batch_size", str(max(1, unlabeled * batch_size // given)))


def _check_same(run: Run) -> None:
    """Refuse to mix runs with different options."""
    if not run.last.exists() and not run.result.exists():
        return
    held = json.loads(_record(run).read_text(encoding="utf-8")) if _record(run).exists() else []
    if held != [*run.options]:
        raise ValueError(
            f"`run_dir` holds '{run.folder}' with the options '{shlex.join(held)}', got "
            f"'{shlex.join(run.options)}': give the same ones or another folder."
        )


def _record(run: Run) -> Path:
    return run.folder / "options.json"


def _log(run: Run) -> Path:
    return run.folder / "log.txt"


def _reason(run: Run) -> str:
    """What a failed run says at the end of its log, if it knows."""
    with _log(run).open(encoding="utf-8", errors="replace") as log:
        (last,) = deque(log, maxlen=1) or [""]
    return f": {last.removeprefix('error: ').rstrip()}" if last.startswith("error: ") else ""


def _train(runs: Sequence[Run], jobs: int) -> list[Run]:
    """Train the runs that are not finished; returns those that failed."""
    waiting = [run for run in runs if not run.result.exists()]
    total, jobs = len(waiting), min(jobs, len(waiting))
    console = Console()
    console.print(f"{len(runs)} runs, of which {len(runs) - total} are finished; {jobs} at a time")
    threads = max(1, available_cores() // max(1, jobs))
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = _start(run, threads)
            time.sleep(0.1)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                running.pop(run).communicate()
                done += 1
                if run.result.exists():
                    said = f"{100 * read_accuracy(run):.1f} %"
                else:
                    failed.append(run)
                    said = f"failed, see {_log(run)}{_reason(run)}"
                said = f"{done}/{total} {run.folder.name}: {said}"
                console.print(said, soft_wrap=True, markup=False)
    finally:
        # A run that is killed goes on from its last checkpoint as if nothing had happened.
        for process in running.values():
            process.kill()
            process.communicate()
    return failed


def _start(run: Run, threads: int) -> "subprocess.Popen[bytes]":
    resumed = run.last.exists()
    if not resumed:
        shutil.rmtree(run.folder, ignore_errors=True)
        with writing_text(_record(run)) as file:
            file.write(json.dumps(run.options) + "\n")
    command = [
        *(sys.executable, "-m", "lightning_ssl.commands.train_and_test", str(run.result)),
        *(*run.options, "--run_dir", str(run.folder)),
        *(("--ckpt_path", "last") if resumed else ()),
    ]
    env = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # this package, wherever it was found
    }
    with _log(run).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env
        )
