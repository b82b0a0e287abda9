"""The command `moam`: the sequence against its commands by hand, interruptions, ranks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lightning_ssl.cli import main

from runs import differences, load

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
COMMON = (
    "--data.dataset folder --data.root images --data.batch_size 4 --data.unlabeled_batch_size 8 "
    "--data.hflip false --model.backbone wrn_10_1 --model.ema_decay 0.5 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false "
)
LABEL = "--progress_bar false --batch_size 7 --num_workers 0"
STEP1 = "--trainer.max_steps 6 --model.threshold 0.5"
STEP2 = "--trainer.max_steps 110 --model.threshold 0.5"
STEP3 = "--trainer.max_steps 5 --model.optimizer.lr 0.001"


@pytest.fixture(autouse=True)
def _images() -> None:
    """Three digits: 4 labelled, 6 unlabelled and 2 test images of each."""
    digits = load_digits(n_class=3)
    for digit in range(3):
        shown = digits.images[digits.target == digit]
        for i in range(12):
            part = f"labeled/{digit}" if i < 4 else f"test/{digit}" if i < 6 else "unlabeled"
            Path("images", part).mkdir(parents=True, exist_ok=True)
            pixels = (shown[i] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(f"images/{part}/{digit}_{i}.png")


def moam(run_dir: str, common: str = COMMON, **options: str) -> None:
    chosen = {"step1": STEP1, "label": LABEL, "step2": STEP2, "step3": STEP3} | options
    steps = [part for name, text in chosen.items() for part in (f"--{name}", text)]
    methods = ("--method1", "FixMatch", "--method2", "FixMatch")
    main(["moam", "--run_dir", run_dir, *methods, "--common", common, *steps])


def by_hand() -> None:
    last = "hand/{}/checkpoints/last.ckpt"

    def fit(step: str, method: str, options: str, *further: str) -> None:
        main(["fit", "--model", method, *COMMON.split(), *options.split(),
              "--run_dir", f"hand/{step}", *further])  # fmt: skip

    fit("step1", "FixMatch", STEP1)
    main(["pseudo-label", "--ckpt_path", last.format("step1"), *LABEL.split(),
          "--output", "hand/pseudo_labels.csv"])  # fmt: skip
    table = ("--data.pseudo_labels", "hand/pseudo_labels.csv",
             "--data.pseudo_column", "averaged_label")  # fmt: skip
    fit("step2", "FixMatch", STEP2, "--model.weights", last.format("step1"), *table)
    fit("step3", "Supervised", STEP3, "--model.weights", last.format("step2"))


def same(first: str, second: str, name: str) -> list[str]:
    one, two = load(f"{first}/{name}"), load(f"{second}/{name}")
    return [d for state in STATES for d in differences(one[state], two[state], state)]


def test_is_its_commands_and_goes_on_where_it_stopped(capsys: Any) -> None:
    by_hand()
    die = " --trainer.callbacks+=probes.Die --trainer.callbacks.step 105"
    with pytest.raises(SystemExit):
        moam("run", step2=STEP2 + die)
    assert load("run/step2")["global_step"] == 100
    assert not Path("run/step3").exists()
    first = Path("run/step1/checkpoints/last.ckpt").stat().st_mtime_ns
    table = Path("run/pseudo_labels.csv").stat().st_mtime_ns
    moam("run")
    assert Path("run/step1/checkpoints/last.ckpt").stat().st_mtime_ns == first
    assert Path("run/pseudo_labels.csv").stat().st_mtime_ns == table
    assert Path("run/pseudo_labels.csv").read_text() == Path("hand/pseudo_labels.csv").read_text()
    assert [same("run", "hand", f"step{number}") for number in (1, 2, 3)] == [[], [], []]

    # What the steps are made of.
    with Path("run/pseudo_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    stored = [json.loads(Path(f"run/step{i}/split.json").read_text()) for i in (1, 2, 3)]
    assert ["pseudo_labels" in split for split in stored] == [False, True, False]
    assert stored[1]["pseudo_labels"]["images"] == list(range(12, 30))
    assert stored[1]["pseudo_labels"]["labels"] == [
        int(row["averaged_label"]) for row in rows if not row["given"]
    ]
    assert [load(f"run/step{i}")["method"].rpartition(".")[2] for i in (1, 2, 3)] == [
        *("FixMatch", "FixMatch", "Supervised")
    ]

    # Finished, it does nothing; with other options it says so.
    third = Path("run/step3/checkpoints/last.ckpt").stat().st_mtime_ns
    moam("run")
    assert Path("run/step3/checkpoints/last.ckpt").stat().st_mtime_ns == third
    capsys.readouterr()
    with pytest.raises(SystemExit):
        moam("run", step1="--trainer.max_steps 7")
    said = capsys.readouterr().err
    assert "error: `run_dir` 'run' holds the finished step1 with the options" in said
    assert "--trainer.max_steps 7': give the same ones or another folder." in said


def test_every_step_matters() -> None:
    moam("run", step2="--trainer.max_steps 3")
    after = [load(f"run/step{i}")["state_dict"] for i in (1, 2, 3)]
    # A few small updates: each step has begun at the weights of the one before it.
    for before, later in ((after[0], after[1]), (after[1], after[2])):
        moved = torch.cat(
            [(later[n] - before[n]).flatten() for n in before if n.endswith("conv2.weight")]
        )
        length = torch.cat([before[n].flatten() for n in before if n.endswith("conv2.weight")])
        assert 0 < float(moved.norm() / length.norm()) < 0.2


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"step3": "--model.lrr 1"}, ("'lrr'",)),
        ({"step2": "--trainer.max_stepz 1"}, ("max_stepz",)),
        ({"label": "--batch_sise 3"}, ("batch_sise",)),
        ({"step2": "'a"}, ("`common` and `step2` must be options", "No closing quotation")),
        ({"label": "'a"}, ("`label` must be options", "No closing quotation")),
    ],
)
def test_bad_options_are_found_before_the_first_step(
    options: dict[str, str], parts: tuple[str, ...], capsys: Any
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        moam("run", **options)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
    assert not Path("run").exists()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_equal_one(two_ranks: Any) -> None:
    exact = COMMON + (
        "--model.backbone_args '{norm: none}' --trainer.precision 64-true --model.optimizer.lr 0.01"
    )
    short = {
        "step2": "--trainer.max_steps 4 --model.threshold 0.5",
        "step3": "--trainer.max_steps 3",
    }
    moam("one", exact, **short)
    ddp = exact + " --trainer.strategy ddp --trainer.devices 2"
    two_ranks.run(_moam, "two", ddp, short)
    assert Path("one/pseudo_labels.csv").read_text() == Path("two/pseudo_labels.csv").read_text()
    one, two = load("one/step3")["state_dict"], load("two/step3")["state_dict"]
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-10, atol=1e-10)


def _moam(run_dir: str, common: str, options: dict[str, str]) -> None:
    moam(run_dir, common, **options)
