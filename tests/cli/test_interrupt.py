"""Commands that end before their time."""

import signal
from importlib import import_module

import pytest

from lightning_ssl.cli import main

from runs import SMALL

entry = import_module("lightning_ssl.cli.main")  # the package's face hides it behind the function


def test_ctrl_c_ends_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # While Lightning trains, which would end with 1.
    monkeypatch.setattr(signal, "signal", lambda *args: None)  # it would switch Ctrl-C off
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "Supervised", *SMALL, "--run_dir", "a",
              "--trainer.callbacks+=probes.Die", "--trainer.callbacks.step", "1"])  # fmt: skip
    assert stopped.value.code == 130
    assert "Traceback" not in capsys.readouterr().err

    # And anywhere else.
    def interrupt(args: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "run", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(["fit"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 1, 2])
def test_other_ways_to_end_keep_their_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(args: list[str]) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(entry, "run", leave)
    with pytest.raises(SystemExit) as stopped:
        main(["fit"])
    assert stopped.value.code == code
