"""SIGTERM: a checkpoint after an update, status 143, and nobody waits for a process that left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import lightning_ssl
from lightning_ssl.cli import main

from runs import SMALL, differences, fit, load

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
OPTIONS = ("--data.num_labels", "23", "--trainer.log_every_n_steps", "2")
HERE = Path(__file__).parents[1] / "helpers"


@pytest.fixture(autouse=True)
def _same_handler() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_saves_after_the_update_and_goes_on_exactly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*OPTIONS, "--trainer.accumulate_grad_batches", "2",
               "--trainer.val_check_interval", "6")  # fmt: skip
    fit("FixMatch", "whole", 4, *options)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "FixMatch", *SMALL, *options, "--trainer.max_steps", "4",
              "--run_dir", "a", "--trainer.callbacks+=probes.Terminate",
              "--trainer.callbacks.step", "4"])  # fmt: skip
    assert stopped.value.code == 143
    # The signal came in the first half of the third update, at whose end a validation is due.
    assert load("a")["global_step"] == 3
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job repeats its command
    fit("FixMatch", "a", 4, *options)
    whole, resumed = load("whole"), load("a")
    assert [d for n in STATES for d in differences(whole[n], resumed[n], n)] == []
    assert Path("whole/metrics.csv").read_bytes() == Path("a/metrics.csv").read_bytes()


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_train_start"])
def test_sigterm_before_the_first_update_ends_at_once(hook: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        fit("Supervised", "a", 50, *early(hook))
    assert stopped.value.code == 143
    assert not Path("a/checkpoints").exists()
    assert Path("a").exists() == (hook == "on_train_start")


def early(hook: str, rank: int = 0) -> tuple[str, ...]:
    return ("--trainer.callbacks+=probes.TerminateEarly", "--trainer.callbacks.hook", hook,
            "--trainer.callbacks.rank", str(rank),
            "--trainer.num_sanity_val_steps", "1")  # fmt: skip


@pytest.mark.ddp
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_train_start", ""])
def test_two_processes_end_together(hook: str, rank: int, two_ranks: Any) -> None:
    """One of them gets the signal; both leave, in the course of the run with the same update."""
    later = ("--trainer.callbacks+=probes.Terminate", "--trainer.callbacks.step", "2",
             "--trainer.callbacks.rank", str(rank))  # fmt: skip
    assert two_ranks.run(_fit_until_told, *(early(hook, rank) if hook else later)) == [143, 143]
    if hook:
        assert not Path("a/checkpoints").exists()
    else:
        assert load("a")["global_step"] == 4


def _fit_until_told(*args: str) -> Any:
    try:
        fit("Supervised", "a", 20, *OPTIONS, *args, "--trainer.strategy", "ddp",
            "--trainer.devices", "2")  # fmt: skip
    except SystemExit as stopped:
        return stopped.code
    return None


def wait_for(condition: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(env: dict[str, str], *args: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join((str(Path(lightning_ssl.__file__).parents[1]), str(HERE)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "lightning_ssl", "fit", "--model", "Supervised", *SMALL,
               *OPTIONS, "--run_dir", "a", "--trainer.max_steps", "20000", "--trainer.strategy",
               "ddp", "--trainer.devices", "2", *args]  # fmt: skip
    with open(f"log{env.get('RANK', '')}", "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def started_by(main: int) -> list[int]:
    """The processes that train with one; it starts others, too, for a moment."""
    found = [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
    return [pid for pid in found if b"LOCAL_RANK=1" in environment_of(pid)]


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def at(moment: str) -> tuple[str, ...]:
    return ("--trainer.callbacks+=probes.Announce", "--trainer.callbacks.moment", moment,
            "--trainer.num_sanity_val_steps", "1",
            "--trainer.val_check_interval", "10")  # fmt: skip


MOMENTS = ("starting", "setup", "sanity", "training", "validation")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("told", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("moment", MOMENTS)
def test_processes_that_lightning_starts(moment: str, told: tuple[int, ...]) -> None:
    first = start({}, *at(moment))
    try:
        if moment == "starting":  # the second one has not imported anything yet
            pids = [first.pid, *wait_for(lambda: started_by(first.pid), 120)]
        else:
            wait_for(lambda: all(Path(f"{moment}.{rank}").exists() for rank in (0, 1)), 120)
            pids = [int(Path(f"{moment}.{rank}").read_text()) for rank in (0, 1)]
        for rank in told:
            os.kill(pids[rank], signal.SIGTERM)
        assert first.wait(60) == 143, Path("log").read_text()
        wait_for(lambda: not is_running(pids[1]), 30)
    finally:
        first.kill()
    check(moment)


def check(moment: str) -> None:
    if moment in ("training", "validation"):
        saved = load("a")
        assert saved["global_step"] > 0
        assert saved["global_step"] % 2 == 0  # as often as values are logged
    else:
        assert not Path("a/checkpoints").exists()
    assert not list(Path().rglob("*.tmp"))
