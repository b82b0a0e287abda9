"""The command `vpet`: the sequence against its commands by hand, interrupted and not."""

import csv
from pathlib import Path
from typing import Any

import pytest

from lightning_ssl.cli import main, run
from lightning_ssl.commands.options import read_options
from lightning_ssl.commands.sequence import fit_step

from runs import SMALL, differences, load

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
COMMON = " ".join((*SMALL, "--trainer.max_steps 20 --trainer.val_check_interval 20"))
TEACHERS = ("--model.backbone wrn_16_1", "--model.optimizer.lr 0.01")
LABEL = "--progress_bar false --batch_size 200"
STUDENT = "--trainer.max_steps 12 --trainer.val_check_interval 12"


def vpet(run_dir: str, *further: str, student: str = STUDENT, teachers: Any = TEACHERS) -> None:
    texts = "[" + ", ".join(f'"{text}"' for text in teachers) + "]"
    options = ("--common", COMMON, "--label", LABEL, "--student", student)
    main(["vpet", "--run_dir", run_dir, "--teachers", texts, *options, *further])


def by_hand() -> None:
    def fit(name: str, options: str, *further: str) -> None:
        main(["fit", "--model", "Supervised", *COMMON.split(), *options.split(),
              "--run_dir", f"hand/{name}", *further])  # fmt: skip

    for number, options in enumerate(TEACHERS, start=1):
        fit(f"teacher{number}", options)
    paths = ",".join(f"hand/teacher{number}/checkpoints/last.ckpt" for number in (1, 2))
    main(["pseudo-label", "--ckpt_path", f"[{paths}]", "--accelerator", "cpu", *LABEL.split(),
          "--output", "hand/pseudo_labels.csv"])  # fmt: skip
    table = ("--data.pseudo_labels", "hand/pseudo_labels.csv")
    soft = ("--data.pseudo_column", "soft", "--model.soft_targets", "true")
    fit("student", STUDENT, *table, *soft)


def test_is_its_commands_and_goes_on_where_it_stopped(capsys: Any) -> None:
    by_hand()
    each = (
        " --trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint "
        "--trainer.callbacks.dirpath run/student/checkpoints --trainer.callbacks.filename last "
        "--trainer.callbacks.every_n_train_steps 5"
    )
    die = f"{each} --trainer.callbacks+=probes.Die --trainer.callbacks.step 8"
    with pytest.raises(SystemExit):
        vpet("run", student=STUDENT + die)
    assert load("run/student")["global_step"] == 5
    files = [f"run/{name}" for name in ("pseudo_labels.csv", "teacher2/checkpoints/last.ckpt")]
    before = [Path(file).stat().st_mtime_ns for file in files]
    vpet("run")
    assert [Path(file).stat().st_mtime_ns for file in files] == before
    assert Path("run/pseudo_labels.csv").read_text() == Path("hand/pseudo_labels.csv").read_text()
    for name in ("teacher1", "teacher2", "student"):
        found, wanted = load(f"run/{name}"), load(f"hand/{name}")
        assert [d for s in STATES for d in differences(found[s], wanted[s], s)] == []
    with Path("run/pseudo_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    votes = [[float(row[f"prob_{c}"]) for c in range(10)] for row in rows]
    assert {max(row) for row in votes} == {0.5, 1.0}
    assert load("run/student")["hyper_parameters"]["soft_targets"] is True

    # Finished, it does nothing; other teachers are another sequence.
    vpet("run")
    assert [Path(file).stat().st_mtime_ns for file in files] == before
    capsys.readouterr()
    with pytest.raises(SystemExit):
        vpet("run", teachers=(*TEACHERS, "--model.backbone wrn_10_1"))
    said = capsys.readouterr().err
    assert "error: `run_dir` 'run' holds the finished label with the options" in said
    assert "got teacher3 with" in said


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"teachers": TEACHERS[:1]}, ("`teachers` must be options of two runs at least, got 1",)),
        ({"teachers": (TEACHERS[0], "--model.lrr 1")}, ("'lrr'",)),
        ({"teachers": (TEACHERS[0], "'a")}, ("text 2 of `teachers` must be options",)),
        ({"student": "--model.head deep"}, ("head", "deep")),
        ({"student": "--run_dir x"}, ("`run_dir` (--run_dir) must not be given for student",)),
        (
            {"student": "--model.soft_targets=false"},
            ("`model.soft_targets` (--model.soft_targets)",),
        ),
        ({"teachers": (TEACHERS[0], "--ckpt_path last")}, ("`ckpt_path`", "given for teacher2")),
    ],
)
def test_bad_options_are_found_before_the_first_step(
    options: dict[str, Any], parts: tuple[str, ...], capsys: Any
) -> None:
    with pytest.raises(SystemExit) as stopped:
        vpet("run", **options)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
    assert not Path("run").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"teacher1": 3}', '{"teacher1": [3]}'])
def test_a_damaged_list_of_finished_steps(text: str, capsys: Any) -> None:
    Path("run").mkdir()
    Path("run/finished.json").write_text(text)
    with pytest.raises(SystemExit):
        vpet("run")
    assert "a damaged list of its finished steps, 'run/finished.json'" in capsys.readouterr().err
    assert [path.name for path in Path("run").iterdir()] == ["finished.json"]


def test_a_config_of_another_method_does_not_take_its_place() -> None:
    options = "-c fixmatch --model.optimizer.lr 0.5 --data.dataset digits"
    step = fit_step(Path("run/teacher1"), "Supervised", options, "`common`")
    model = read_options(run, step.command)["model"]
    assert model["class_path"] == "lightning_ssl.methods.Supervised"
    assert model["init_args"]["optimizer"]["lr"] == 0.5
