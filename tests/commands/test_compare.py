"""The command `compare`: real runs that are killed and go on, tables of made-up runs."""

import csv
import json
import os
import re
import statistics
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
import yaml

import lightning_ssl.methods
from lightning_ssl.cli import main
from lightning_ssl.commands.train_and_test import _end_with_parent, train_and_test

# The package's name of it is the function.
module = import_module("lightning_ssl.commands.compare")
SMALL = (
    "--data.dataset digits --data.batch_size 8 --data.unlabeled_batch_size 16 "
    "--model.backbone wrn_10_1 --model.ema_decay 0.5 --trainer.accelerator cpu -c short.yaml"
)
SHORT = {
    "max_steps": 6,
    "val_check_interval": 2,
    "log_every_n_steps": 2,
    "enable_model_summary": False,
    "callbacks": [
        {
            "class_path": "lightning_ssl.callbacks.RunCheckpoint",
            "init_args": {
                "dirpath": "{run_dir}/checkpoints",
                "filename": "last",
                "every_n_train_steps": 2,
            },
        }
    ],
}


@pytest.fixture(autouse=True)
def _short() -> None:
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": SHORT}))


def compare(*args: str, options: str = SMALL) -> None:
    main(["compare", "--run_dir", "out", "--options", options, *args])


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def logged(run: str, name: str) -> dict[int, float]:
    """Update to value."""
    found = [row for row in rows(f"{run}/metrics.csv") if row.get(name)]
    return {int(row["step"]) + 1: float(row[name]) for row in found}


def test_a_killed_run_is_reported_and_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    # As many threads as here: their number decides the order of additions.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    kill = "--trainer.callbacks+=probes.KillOnce --trainer.callbacks.run FixMatch_20_0 "
    kill += "--trainer.callbacks.step 5"
    own = ("--labels", "[20]", "--method_options", yaml.safe_dump({"FixMatch": kill}))
    alone = (*own, "--methods", "[FixMatch]", "--seeds", "2", "--jobs", "2")

    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        compare(*alone)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert "2 runs, of which 0 are finished; 2 at a time" in out
    assert "FixMatch_20_0: failed, see out/FixMatch_20_0/log.txt" in out
    assert "error: 1 of 2 runs failed, see out/FixMatch_20_0/log.txt. The same command" in err
    assert [row["seed"] for row in rows("out/results.csv")] == ["1"]
    before = Path("out/FixMatch_20_1/result.json").stat().st_mtime_ns

    # The time before the kill is in the checkpoint, so it is recognised in the result.
    last = Path("out/FixMatch_20_0/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 4
    checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] = 5000.0
    torch.save(checkpoint, last)
    compare(*own, "--methods", "[FixMatch]", "--seeds", "1")
    check_tables(seeds=1)
    result = json.loads(Path("out/FixMatch_20_0/result.json").read_text())
    assert 5000 < result["seconds"] < 5100

    # Everything is there: nothing is trained, and both seeds are in the tables.
    capsys.readouterr()
    compare(*alone)
    out = capsys.readouterr().out
    assert "2 runs, of which 2 are finished" in out
    assert Path("out/FixMatch_20_1/result.json").stat().st_mtime_ns == before
    values = check_tables(seeds=2)
    shown = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %"
    assert re.search(rf"│ 20 +│ FixMatch +│ 2 +│ {re.escape(shown)} +│", out), out

    # It is the run that was never killed.
    options = json.loads(Path("out/FixMatch_20_0/options.json").read_text())
    whole = train_and_test([*options, "--run_dir", "whole"])
    assert whole["seconds"] < 5000
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    assert result["updates"] == 6

    # A run whose result is lost need not be trained again.
    again = train_and_test([*options, "--run_dir", "whole", "--ckpt_path", "last"])
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    stored = torch.load("whole/checkpoints/last.ckpt", weights_only=True)["callbacks"]["Timer"]
    assert again["seconds"] >= stored["time_elapsed"]["train"] > 0


def check_tables(seeds: int) -> list[float]:
    """Compare the tables with the logs of the runs, and return accuracies in percent."""
    accuracies, evaluations = [], []
    results = rows("out/results.csv")
    assert [(row["seed"], row["method"]) for row in results] == [
        (str(seed), "FixMatch") for seed in range(seeds)
    ]
    for row in results:
        run = f"out/{row['method']}_20_{row['seed']}"
        curve, top5 = logged(run, "test/acc"), logged(run, "test/acc_top5")
        assert list(curve) == [2, 4, 6]
        assert float(row["test_accuracy"]) == pytest.approx(curve[6], abs=1e-6)
        assert float(row["test_top_5"]) == pytest.approx(top5[6], abs=1e-6)
        assert float(row["test_median_of_last_20"]) == pytest.approx(
            sorted(curve.values())[1], abs=1e-6
        )
        assert float(row["test_best"]) == pytest.approx(max(curve.values()), abs=1e-6)
        assert row["test_evaluations"] == "3"
        assert (row["val_accuracy"], row["batch_size"], row["updates"]) == ("", "", "6")
        accuracies.append(100 * curve[6])
        evaluations += [
            (row["method"], row["seed"], str(u), f"{curve[u]:.5f}", f"{top5[u]:.5f}") for u in curve
        ]
    assert [
        (r["method"], r["seed"], r["update"], f"{float(r['accuracy']):.5f}",
         f"{float(r['top_5']):.5f}")
        for r in rows("out/evaluations.csv")
    ] == evaluations  # fmt: skip
    return accuracies


class Process:
    """Ends at the third look at it, and then leaves the files of a run, or none."""

    started: list["Process"]
    write: Callable[[Path, list[str]], None]

    def __init__(self, command: list[str], env: dict[str, str], **kwargs: Any) -> None:
        self.result, self.command, self.env = Path(command[3]), command[4:], env
        self.looks, self.killed, self.beside = 0, False, 0
        self.started.append(self)
        self.beside = sum(process.looks < 3 for process in self.started)

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 3:
            return None
        type(self).write(self.result, self.command)
        return 0

    def kill(self) -> None:
        self.killed = True

    def communicate(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    """Processes that train nothing."""

    class Fake(Process):
        started: list[Process] = []  # noqa: RUF012
        write = staticmethod(lambda result, command: result.write_text(found(0.5)))

    popen = SimpleNamespace(Popen=Fake, PIPE=None, STDOUT=None)
    monkeypatch.setattr(module, "subprocess", popen)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    return Fake


def found(accuracy: float, **more: float) -> str:
    return json.dumps({"test/acc": accuracy, "seconds": 1.25, "updates": 9, **more})


def value(command: list[str], flag: str) -> str:
    """The value that wins."""
    return command[len(command) - command[::-1].index(flag)]


def test_the_runs_and_their_processes(fake: type[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "available_cores", lambda: 7)
    own = yaml.safe_dump({"FixMatch": "--data.unlabeled_batch_size 24 --model.threshold 0.9"})
    compare("--labels", "[50, 20]", "--methods", "[FixMatch, Supervised]", "--batch_sizes",
            "[4, 32]", "--seeds", "2", "--jobs", "3", "--method_options", own)  # fmt: skip
    names = [process.result.parent.name for process in fake.started]
    assert names == [
        f"{method}_{labels}_b{size}_{seed}"
        for seed in (0, 1)
        for labels in (50, 20)
        for size in (4, 32)
        for method in ("FixMatch", "Supervised")
    ]
    assert max(process.beside for process in fake.started) == 3
    for name, process in zip(names, fake.started, strict=True):
        method, labels, size, seed = name.split("_")
        command = process.command
        assert value(command, "--model") == method
        assert value(command, "--data.num_labels") == labels
        assert value(command, "--data.batch_size") == size[1:]
        assert value(command, "--seed_everything") == seed
        assert value(command, "--run_dir") == f"out/{name}"
        assert ("--model.threshold" in command) == (method == "FixMatch")
        # 24 and 16 for 8 labelled ones.
        unlabeled = int(size[1:]) * (3 if method == "FixMatch" else 2)
        assert value(command, "--data.unlabeled_batch_size") == str(unlabeled)
        assert process.env["OMP_NUM_THREADS"] == "2"
        assert "--ckpt_path" not in command
    results = rows("out/results.csv")
    assert [f"{r['method']}_{r['labels']}_b{r['batch_size']}_{r['seed']}" for r in results] == names

    # More seeds, and one result less: the others stay as they are.
    Path("out/FixMatch_20_b4_0/result.json").unlink()
    fake.started.clear()
    compare("--labels", "[20]", "--methods", "[FixMatch]", "--batch_sizes", "[4]", "--seeds", "3",
            "--method_options", own)  # fmt: skip
    assert [process.result.parent.name for process in fake.started] == [
        *("FixMatch_20_b4_0", "FixMatch_20_b4_2")
    ]
    assert len(rows("out/results.csv")) == 3
    assert max(process.beside for process in fake.started) == 2


def write_curve(folder: Path, name: str, curve: dict[int, float]) -> None:
    lines = [f"{update - 1},{value},{value / 2}\n" for update, value in curve.items()]
    (folder / "metrics.csv").write_text(f"step,{name},{name}_top5\n" + "".join(lines))


def test_tables_and_figure(
    fake: type[Process], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Runs with a test set, runs with a validation part, and a failure."""
    accuracies = {
        ("FixMatch", "20"): [0.5, 0.75],
        ("Supervised", "20"): [0.625, 0.875],
        ("FixMatch", "100"): [0.9, 0.95],
        ("Supervised", "100"): [0.25],
    }

    def write(result: Path, command: list[str]) -> None:
        method, labels, seed = result.parent.name.split("_")
        if int(seed) >= len(accuracies[method, labels]):
            result.with_name("log.txt").write_text("Traceback\nerror: `x` must be in [0, 1].\n")
            return
        result.write_text(found(accuracies[method, labels][int(seed)], **{"test/acc_top5": 0.95}))
        if labels == "100":
            write_curve(result.parent, "val/acc", {5: 0.1, 10: 0.2})
            return
        curve = {i: i / (100 if i < 20 else 50) for i in range(1, 31)}
        write_curve(result.parent, "test/acc", curve)

    monkeypatch.setattr(fake, "write", staticmethod(write))
    figures = []
    save = matplotlib.figure.Figure.savefig

    def remember(self: matplotlib.figure.Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", remember)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        compare("--labels", "[100, 20]", "--methods", "[FixMatch, Supervised]", "--seeds", "2")
    out, err = capsys.readouterr()
    assert "error: 1 of 8 runs failed, see out/Supervised_100_1/log.txt." in err
    assert "1: failed, see out/Supervised_100_1/log.txt: `x` must be in [0, 1].\n" in out

    results = {(r["method"], r["labels"], r["seed"]): r for r in rows("out/results.csv")}
    assert len(results) == 7
    curve = [i / 100 for i in range(1, 20)] + [i / 50 for i in range(20, 31)]
    row = results["FixMatch", "20", "1"]
    assert row["test_accuracy"] == "0.75"
    assert float(row["test_median_of_last_20"]) == pytest.approx(statistics.median(curve[-20:]))
    assert (row["test_best"], row["test_evaluations"], row["val_accuracy"]) == ("0.6", "30", "")
    row = results["FixMatch", "100", "0"]
    assert (row["test_accuracy"], row["test_top_5"], row["val_accuracy"]) == ("0.9", "0.95", "0.2")
    assert (row["test_median_of_last_20"], row["test_best"]) == ("", "")
    assert (row["test_evaluations"], row["seconds"], row["updates"]) == ("0", "1.2", "9")
    evaluations = [r for r in rows("out/evaluations.csv") if r["method"] == "Supervised"]
    assert [float(r["accuracy"]) for r in evaluations if r["labels"] == "20"] == curve * 2
    assert [
        (r["seed"], r["part"], r["update"], r["accuracy"], r["top_5"])
        for r in evaluations
        if r["labels"] == "100"
    ] == [("0", "val", "5", "0.1", "0.05"), ("0", "val", "10", "0.2", "0.1")]

    # The better method first.
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert cells == [
        ["20", "Supervised", "2", "75.0 ± 17.7 %", "95.0 ± 0.0 %", "1.2"],
        ["20", "FixMatch", "2", "62.5 ± 17.7 %", "95.0 ± 0.0 %", "1.2"],
        ["100", "FixMatch", "2", "92.5 ± 3.5 %", "95.0 ± 0.0 %", "1.2"],
        ["100", "Supervised", "1", "25.0 %", "95.0 %", "1.2"],
    ]

    (figure,) = figures
    assert [axis.get_title() for axis in figure.axes] == ["20 labels", "100 labels"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        *("Supervised", "FixMatch")
    ]
    (bar,) = [c for c in figure.axes[0].containers if c.lines[0].get_ydata()[0] == 1]
    assert bar.lines[0].get_xdata()[0] == pytest.approx(62.5)
    ends = [cap.get_xdata()[0] for cap in bar.lines[1]]
    assert ends == pytest.approx([62.5 - 17.677670, 62.5 + 17.677670])
    assert Path("out/compare.png").stat().st_size > 0


@pytest.mark.parametrize(("looks", "killed"), [(1, [True, True]), (4, [False, False, True])])
def test_ctrl_c_stops_the_processes_and_keeps_what_is_finished(
    looks: int,
    killed: list[bool],
    fake: type[Process],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    waited: list[float] = []

    def interrupt(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == looks:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=interrupt))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        compare("--labels", "[20]", "--methods", "[Supervised]", "--seeds", "3", "--jobs", "2")
    assert stopped.value.code == 130
    assert [process.killed for process in fake.started] == killed
    said = capsys.readouterr()
    assert said.err == ""
    finished = killed.count(False)
    assert Path("out/results.csv").exists() == bool(finished)
    if finished:
        assert [row["seed"] for row in rows("out/results.csv")] == ["0", "1"]
        assert "compare.png, of 2 of 3 runs" in said.out


def test_a_run_does_not_outlive_the_command() -> None:
    """Its standard input ends with the process that holds the other end."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(writes)
        os.dup2(reads, 0)
        _end_with_parent()
    os.close(reads)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # while that lives
    os.close(writes)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_other_options_are_refused_where_something_would_be_mixed(
    fake: type[Process], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = ("--labels", "[20]", "--methods", "[Supervised]", "--seeds", "1")
    longer = SMALL + " --trainer.max_steps 7"
    compare(*command)

    def refused() -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            compare(*command, options=longer)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert "error: `run_dir` holds 'out/Supervised_20_0' with the options '--model" in said
        assert "--trainer.max_steps 7 --data.num_labels" in said
        assert said.endswith("give the same ones or another folder.\n")

    refused()
    result, last = Path("out/Supervised_20_0/result.json"), "out/Supervised_20_0/checkpoints"
    result.unlink()
    Path(last).mkdir()
    Path(last, "last.ckpt").touch()
    refused()
    # Nothing to go on from: it starts anew, without what the first attempt has left.
    Path(last, "last.ckpt").unlink()
    Path("out/Supervised_20_0/metrics.csv").touch()
    compare(*command, options=longer)
    assert len(fake.started) == 2
    assert not Path("out/Supervised_20_0/metrics.csv").exists()
    # Begun, it goes on.
    result.unlink()
    Path(last).mkdir()
    Path(last, "last.ckpt").touch()
    compare(*command, options=longer)
    assert fake.started[2].command[-2:] == ["--ckpt_path", "last"]


def test_all_methods_by_default() -> None:
    known = {name for name in lightning_ssl.methods.__all__ if name != "SSLModule"}
    assert set(module._all_methods()) == known
