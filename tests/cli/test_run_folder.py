"""A run's records: what a refused command leaves, what goes on, and who may write."""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule, open_source
from lightning_ssl.files import FolderLock
from lightning_ssl.methods import FixMatch

from runs import SMALL, differences, fit, load

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
OPTIONS = ("--data.num_labels", "23", "--trainer.log_every_n_steps", "2")


def contents(folder: str | Path) -> dict[str, str]:
    """Every path of a folder and what is in it."""
    paths = sorted(Path(folder).rglob("*"))
    digest = {p: hashlib.sha1(p.read_bytes()).hexdigest() for p in paths if p.is_file()}
    return {str(p.relative_to(folder)): digest.get(p, "folder") for p in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six updates."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit("FixMatch", str(folder), 6, *OPTIONS)
    return folder


@pytest.fixture
def a_run(finished: Path) -> Path:
    """A copy of it, which a test may change; where it lies makes no difference."""
    shutil.copytree(finished, "runs/a")
    return Path("runs/a")


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *args])
    said = capsys.readouterr().err
    assert stopped.value.code == 2, said
    assert "Traceback" not in said
    return said[said.rindex("error: ") :]


CONTINUE = ("-c", "runs/a/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--data.num_labels", "40"), "other 'labeled' images"),
        (("--data.val_per_class", "1"), "images than the data options choose now"),
        (("--data.include_labeled", "false"), "other unlabelled images"),
        (("--seed_everything", "5"), "seed 0, got 5"),
        (("--data.seed", "5"), "data seed 0, got 5: give --data.seed 0"),
        (("--data.batch_size", "16"), "`data.batch_size` must be 8, as when"),
        (("--data.unlabeled_batch_size", "8"), "`data.unlabeled_batch_size` must be 16"),
        (("--data.image_size", "16"), "`data.image_size` must be 8"),
        (("--data.normalize", "symmetric"), "`data.mean` must be"),
        (("--data.std", "[1, 1, 1]"), "`data.std` must be"),
        (("--data.labeled_order", "balanced"), "`data.labeled_order` must be null"),
        (("--data.hflip", "true"), "`data.hflip` must be null, as when the run began"),
        (("--data.views", "{weak: torch.nn.Identity}"), "transforms of the user's own"),
        (("--model", "Supervised"), "checkpoint of Supervised, got one of FixMatch"),
        (("--model.backbone", "wrn_16_1"), "`model.backbone` must be 'wrn_10_1'"),
        (("--model.backbone_args", "{norm: none}"), "`model.backbone_args` must be null"),
        (("--model.threshold", "0.5"), "`model.threshold` must be 0.95"),
        (("--model.ema_decay", "0"), "`model.ema_decay` must be 0.99"),
        (("--model.imbalance", "LogitAdjustment"), "`model.imbalance` must be null"),
        (("--model.optimizer.lr", "0.1"), "`model.optimizer.lr` must be 0.03"),
        (("--model.optimizer.name", "adam"), "`model.optimizer.name` must be 'sgd'"),
        (("--model.schedule.warmup", "3"), "`model.schedule.warmup` must be 0"),
        (("--trainer.precision", "bf16-mixed"), "`trainer.precision` must be '32-true'"),
        (("--trainer.accumulate_grad_batches", "2"), "`trainer.accumulate_grad_batches`"),
        (("--trainer.gradient_clip_val", "1"), "`trainer.gradient_clip_val` must be null"),
        (("--ckpt_path", "null"), "already holds a run"),
    ],
)
def test_a_refused_command_changes_nothing(
    args: tuple[str, ...], said: str, a_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(".")
    assert said in refused(capsys, *CONTINUE, *args)
    assert contents(".") == before


@pytest.mark.parametrize(
    "args",
    [
        ("--data.num_labels", "7"),
        ("--data.views", "{nothing: torch.nn.Identity}"),
        ("--trainer.val_check_interval", "3", "--trainer.accumulate_grad_batches", "2"),
        ("--model.weights", "missing.ckpt"),
        ("--data.dataset", "folder", "--data.root", "missing"),
    ],
)
def test_a_refused_new_run_leaves_no_folder(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "--model", "FixMatch", *SMALL, "--trainer.max_steps", "4", *args)
    assert contents(".") == {}


def test_what_may_change_is_applied(a_run: Path) -> None:
    before = load("runs/a")
    run(["fit", *CONTINUE, "--trainer.log_every_n_steps", "1", "--data.eval_batch_size", "64",
         "--trainer.val_check_interval", "4", "--data.num_workers", "0"])  # fmt: skip
    after = load("runs/a")
    assert (before["global_step"], after["global_step"]) == (6, 8)
    written = yaml.safe_load((a_run / "config.yaml").read_text())
    assert written["trainer"]["max_steps"] == 8
    assert written["trainer"]["log_every_n_steps"] == 1
    assert (written["run_dir"], written["ckpt_path"]) == (".", None)


def metrics(folder: str | Path) -> list[dict[str, str]]:
    with Path(folder, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_moved_and_a_copied_run_go_on_where_they_are(a_run: Path) -> None:
    shutil.copytree("runs/a", "elsewhere/copy")
    original = contents("runs")
    run(["fit", "-c", "elsewhere/copy/config.yaml", "--ckpt_path", "last",
         "--trainer.max_steps", "8"])  # fmt: skip
    assert contents("runs") == original
    shutil.move("runs/a", "moved")
    run(["fit", "-c", "moved/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "8"])
    assert not Path("runs/a").exists()
    copied, moved = (load(folder) for folder in ("elsewhere/copy", "moved"))
    assert copied["global_step"] == 8
    assert [d for n in STATES for d in differences(copied[n], moved[n], n)] == []
    assert not list(Path().rglob("*version_*"))


def test_metrics_are_one_file_without_repeated_rows(a_run: Path) -> None:
    # The file of a run that was killed after it had logged more than its checkpoint holds.
    rows = metrics(a_run)
    with (a_run / "metrics.csv").open("a") as file:
        file.write(",".join("9" if name == "step" else "" for name in rows[0]) + "\n7,cut")
    run(["fit", *CONTINUE])
    fit("FixMatch", "whole", 8, *OPTIONS, "--trainer.val_check_interval", "6",
        "--data.batch_size", "8")  # fmt: skip
    steps = [(row["step"], row["train/loss"] != "") for row in metrics(a_run)]
    assert steps == [("1", True), ("3", True), ("5", True), ("5", False), ("7", True),
                     ("7", False)]  # fmt: skip
    assert metrics(a_run)[: len(rows)] == rows


BROKEN: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "random": lambda path: path.write_bytes(os.urandom(4096)),
    "text": lambda path: path.write_text("not a checkpoint"),
    "a list": lambda path: torch.save([1, 2], path),
    "pickled": lambda path: torch.save({"state_dict": Path("x")}, path),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_last_checkpoint_is_named(
    kind: str, a_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BROKEN[kind](a_run / "checkpoints" / "last.ckpt")
    before = contents(".")
    said = refused(capsys, *CONTINUE)
    assert "runs/a/checkpoints/last.ckpt' is no checkpoint" in said
    assert "nothing else there can be continued from" in said
    assert said.count("\n") == 1
    assert contents(".") == before


def test_a_stray_version_of_last_is_not_taken(a_run: Path) -> None:
    (a_run / "checkpoints" / "last-v1.ckpt").write_bytes(b"")
    assert run(["fit", *CONTINUE]).trainer.global_step == 8  # type: ignore[union-attr]


def test_last_needs_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--model", "FixMatch", *SMALL, "--ckpt_path", "last")
    assert "`ckpt_path` 'last' is of a run's folder: give its --run_dir" in said


@pytest.mark.parametrize("logger", ["false", "probes.Elsewhere"])
def test_records_belong_to_the_run_folder_whatever_the_logger(logger: str) -> None:
    fit("Supervised", "deep/run", 2, "--trainer.logger", logger)
    assert {"config.yaml", "split.json"} <= set(os.listdir("deep/run"))
    assert set(os.listdir()) == {"deep"} | ({"elsewhere"} if "probes" in logger else set())


def test_the_split_lies_in_the_run_folder_wherever_lightning_keeps_its_own() -> None:
    fit("Supervised", "a", 2, "--trainer.default_root_dir", "b")
    assert Path("a/split.json").exists()
    assert not Path("b/split.json").exists()


def test_one_process_writes_to_a_folder(a_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("import sys", "from lightning_ssl.files import FolderLock",
             "lock = FolderLock('runs/a')", "lock.acquire()", "print('held', flush=True)",
             "sys.stdin.read()")  # fmt: skip
    other = subprocess.Popen(
        [sys.executable, "-c", "; ".join(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    before = contents(".")
    said = refused(capsys, *CONTINUE)
    assert f"'runs/a' is being written to by process {other.pid} on " in said
    assert contents(".") == before
    other.kill()  # its lock ends with it
    other.wait()
    assert run(["fit", *CONTINUE]).trainer.global_step == 8  # type: ignore[union-attr]
    FolderLock("runs/a").acquire()  # given back


def test_only_half_written_records_are_cleared_away(a_run: Path) -> None:
    own = ["config.yaml.abcdefgh.tmp", "checkpoints/last.ckpt.abcdefgh.tmp"]
    others = ["notes.tmp", "sub/draft.tmp", "checkpoints/mine.tmp", "config.yaml.tmp"]
    for name in (*own, *others):
        (a_run / name).parent.mkdir(exist_ok=True)
        (a_run / name).touch()
    (a_run / "split.json.abcdefgh.tmp").mkdir()
    run(["fit", *CONTINUE])
    assert [name for name in (*own, *others) if (a_run / name).exists()] == others


def test_a_folder_with_any_checkpoint_is_not_overwritten(
    a_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--model", "FixMatch", *SMALL, "--run_dir", "runs/a")
    whole = load("runs/a")
    (a_run / "checkpoints" / "last.ckpt").unlink()
    before = contents(".")
    held = "already holds a run, 'runs/a/checkpoints/best.ckpt'"
    assert f"{held}: give another folder" in refused(capsys, *command)
    assert "nothing else there can be" in refused(capsys, *command, "--ckpt_path", "last")
    assert contents(".") == before
    torch.save(whole, a_run / "checkpoints" / "each.ckpt")
    each = "--ckpt_path runs/a/checkpoints/each.ckpt"
    assert f"{held}: give {each} to continue" in refused(capsys, *command)
    (a_run / "checkpoints" / "best.ckpt").unlink()
    said = refused(capsys, *command, "--ckpt_path", "best")
    assert "continue from runs/a/checkpoints/each.ckpt by --ckpt_path" in said


@pytest.mark.parametrize("word", ["best", "last"])
def test_other_subcommands_find_the_checkpoint_of_the_folder(word: str, a_run: Path) -> None:
    config = yaml.safe_load((a_run / "config.yaml").read_text())
    Path("c.yaml").write_text(yaml.safe_dump({n: config[n] for n in ("model", "data")}))
    quiet = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    found: Any = run(["test", "-c", "c.yaml", "--run_dir", "runs/a", "--ckpt_path", word, *quiet])
    path = f"runs/a/checkpoints/{word}.ckpt"
    wanted: Any = run(["test", "-c", "c.yaml", "--ckpt_path", path, *quiet])
    assert found.trainer.callback_metrics == wanted.trainer.callback_metrics


def test_a_bad_gradient_never_replaces_a_good_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model", "FixMatch", *SMALL, *OPTIONS, "--run_dir", "a",
              "--trainer.max_steps", "6", "--trainer.callbacks+=probes.PoisonGradients",
              "--trainer.callbacks.step", "3",
              "--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
              "--trainer.callbacks.dirpath", "a/checkpoints", "--trainer.callbacks.filename",
              "each", "--trainer.callbacks.every_n_train_steps", "1"])  # fmt: skip
    assert "A weight is not finite after 4 updates" in capsys.readouterr().err
    kept = load("a", "each")
    assert kept["global_step"] == 3
    states = (kept["state_dict"], kept["current_model_state"])
    assert all(v.isfinite().all() for state in states for v in state.values())


class Odd(FixMatch):
    """A method of a user's own, with options of any kind."""

    def __init__(self, num_classes: int, where: Any = None, how: Any = None, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)


def local_class() -> type[FixMatch]:
    class Local(FixMatch):
        pass

    return Local


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda: FixMatch(10, backbone="wrn_10_1", threshold=np.float32(0.9)), {}),  # type: ignore[arg-type]
        (lambda: FixMatch(np.int64(10), backbone="wrn_10_1"), {}),  # type: ignore[arg-type]
        (lambda: Odd(10, Path("x"), np.array([1, 2]), backbone="wrn_10_1"), {}),
        (
            lambda: Odd(10, {Path("x"): np.float64(1)}, torch.nn.Linear(2, 2), backbone="wrn_10_1"),
            {},
        ),
        (lambda: local_class()(10, backbone="wrn_10_1"), {}),
        (lambda: FixMatch(10, backbone="wrn_10_1"), {"num_labels": np.int64(20)}),
        (lambda: FixMatch(10, backbone="wrn_10_1"), {"mean": np.array([0.5] * 3)}),
        (lambda: FixMatch(10, backbone="wrn_10_1"), {"root": Path("x")}),
        (lambda: FixMatch(10, backbone="wrn_10_1"), {"seed": np.int32(3), "hflip": np.bool_(1)}),
    ],
)
def test_what_is_saved_opens_again(make: Callable[[], FixMatch], data: dict[str, Any]) -> None:
    from pytorch_lightning import Trainer

    options: dict[str, Any] = {"num_labels": 20, "batch_size": 8, "unlabeled_batch_size": 8, **data}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)

    def go(steps: int, **more: Any) -> FixMatch:
        module = make()
        trainer = Trainer(max_steps=steps, limit_val_batches=0, accelerator="cpu", **quiet)
        trainer.fit(module, SSLDataModule("digits", **options), **more)
        trainer.save_checkpoint("a.ckpt")
        return module

    module = go(1)
    checkpoint = torch.load("a.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["num_classes"] == 10
    assert differences(checkpoint["current_model_state"], module.state_dict()) != ["x"]
    go(2, ckpt_path="a.ckpt")
    assert torch.load("a.ckpt", weights_only=True)["global_step"] == 2
    assert open_source("digits").num_classes == 10


@pytest.mark.ddp
def test_logged_values_are_those_of_the_whole_batch(two_ranks: Any) -> None:
    options = (*OPTIONS, "--trainer.precision", "64-true", "--model.backbone_args",
               "{norm: none}", "--model.threshold", "0.15", "--model.optimizer.lr", "0.01",
               "--trainer.log_every_n_steps", "1", "--data.batch_size", "8")  # fmt: skip
    fit("FixMatch", "one", 4, *options)
    two_ranks.run(_fit, "FixMatch", "two", 4, *options, "--trainer.strategy", "ddp",
                  "--trainer.devices", "2")  # fmt: skip
    one, two = metrics("one"), metrics("two")
    assert len(one) == len(two)
    assert {"train/loss", "train/mask_rate", "train/pseudo_acc"} <= set(one[0])
    for first, second in zip(one, two, strict=True):
        wanted = {n: float(v) for n, v in first.items() if v and n.startswith("train/")}
        found = {n: float(v) for n, v in second.items() if v and n.startswith("train/")}
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)


def _fit(*args: Any) -> None:
    fit(*args)


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "the folder is a file": (
        lambda run: (shutil.rmtree(run), run.write_text("x")),
        "`run_dir` must be a folder that can be written to, got 'runs/a': 'run.lock' in it: '",
    ),
    "the folder is a link to nothing": (
        lambda run: (shutil.rmtree(run), run.symlink_to("nowhere")),
        "runs/a' is no folder",
    ),
    "the folder takes no file": (
        lambda run: (shutil.rmtree(run), run.symlink_to("/proc/self")),
        "`run_dir` must be a folder that can be written to, got 'runs/a': 'run.lock' in it: No",
    ),
    "the checkpoints are a file": (
        lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").write_text("x")),
        "'checkpoints/best.ckpt' in it: '",
    ),
    "a checkpoint is a folder": (
        lambda run: ((run / "checkpoints/best.ckpt").unlink(),
                     (run / "checkpoints/best.ckpt").mkdir()),
        "'checkpoints/best.ckpt' in it: it is a folder",
    ),
    "the config is a folder": (
        lambda run: ((run / "config.yaml").unlink(), (run / "config.yaml").mkdir()),
        "'config.yaml' in it: it is a folder",
    ),
    "the split is a folder": (
        lambda run: ((run / "split.json").unlink(), (run / "split.json").mkdir()),
        "'split.json' in it: it is a folder",
    ),
    "the metrics are a folder": (
        lambda run: ((run / "metrics.csv").unlink(), (run / "metrics.csv").mkdir()),
        "'metrics.csv' in it: it is a folder",
    ),
    "the metrics are no text": (
        lambda run: (run / "metrics.csv").write_bytes(b"step,a\n0,\xff\n"),
        "'runs/a/metrics.csv' cannot be continued, move it away to go on without its rows: 'utf-8'",
    ),
    "the metrics are in another encoding": (
        lambda run: (run / "metrics.csv").write_text("step,a\n0,1\n", encoding="utf-16"),
        "'runs/a/metrics.csv' cannot be continued",
    ),
    "the metrics are another table": (
        lambda run: (run / "metrics.csv").write_text("name;value\na;1\n"),
        "its first line does not name the column 'step'",
    ),
    "the metrics are of two tables": (
        lambda run: (run / "metrics.csv").write_text("step,a\n0,1,2\n"),
        "a line has more columns than the first one",
    ),
    "the lock is a folder": (
        lambda run: ((run / "run.lock").unlink(), (run / "run.lock").mkdir()),
        "'run.lock' in it: it is a folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_run_folder_is_refused_before_anything_is_written(
    kind: str, a_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, wanted = DAMAGED[kind]
    shutil.copy(a_run / "config.yaml", "c.yaml")
    damage(a_run)
    before = contents(".")
    said = refused(capsys, "-c", "c.yaml", "--run_dir", "runs/a", *CONTINUE[2:])
    assert wanted in said
    assert said.count("\n") == 1
    assert contents(".") == before
