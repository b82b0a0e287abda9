"""Commands that work for long refuse a folder that they could not write to, before the work."""

from pathlib import Path

import pytest

from lightning_ssl.cli import main

from runs import SMALL, fit

FIT = " ".join((*SMALL[:2], *SMALL[4:], "--trainer.max_steps", "1"))
COMMANDS = {
    "compare": ("--labels", "[20]", "--methods", "[Supervised]", "--options", FIT, "--run_dir"),
    "moam": ("--common", f"{FIT} --data.num_labels 20", "--run_dir"),
    "quickstart": ("--max_steps", "1", "--output"),
    "project": ("--ckpt_path", "a/checkpoints/last.ckpt", "--output"),
}


@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "its table is a folder"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written_to(
    command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "project":
        fit("Supervised", "a", 1)
    if kind == "a file":
        Path("x").touch()
    elif kind == "a link to nothing":
        Path("x").symlink_to("nowhere")
    else:
        for name in ("results.csv", "finished.json", "labels.csv"):
            Path("x", name).mkdir(parents=True)
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main([command, *COMMANDS[command], "x"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "must be a folder that can be written to, got 'x': '" in said
    assert said[said.rindex("error: ") :].count("\n") == 1
    assert sorted(Path().rglob("*")) == before
