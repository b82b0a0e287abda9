"""Bad input gets one clear error, before training starts, and no traceback."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_ssl.cli import main

from runs import SMALL, fit, load


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail, and return what it says."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert not list(Path().rglob("*.ckpt"))
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return said[said.index("error: ") :]


def photo(path: Path, shade: int = 0, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, 100, 255 - shade)).save(path)


def folder(root: str, layout: dict[str, int]) -> None:
    """Make image folders: path to number of images."""
    for part, count in layout.items():
        (Path(root) / part).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            photo(Path(root) / part / f"{i}.png", shade=10 * i)


FIXMATCH = ("fit", "--model", "FixMatch", *SMALL)
FOLDER = (*FIXMATCH, "--data.dataset", "folder", "--data.root", "images", "--data.num_labels")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--model.treshold", "0.9"), ("'treshold'", "Did you mean 'threshold'", "lambda_u")),
        (("--data.num_label", "9"), ("'num_label'", "Did you mean 'num_labels'")),
        (("--trainer.max_stepz", "9"), ("--trainer.max_stepz",)),
        (("--trainer.max_step", "9"), ("--trainer.max_step",)),
        (("--run_di", "a"), ("--run_di",)),
        (("--model.schedule.nam", "cosine"), ("`model.schedule`", "gamma", "mean 'name'")),
        (("--model.optimizer.lrr", "1"), ("`model.optimizer`", "momentum", "mean 'lr'")),
        (("--model.thresh", "0.9"), ("'thresh'", "mean 'threshold'")),
        (("--model", "FixMach"), ("`model`", "FixMatch", "Supervised", "'FixMach'")),
        (("--data.dataset", "digit"), ("--data.dataset", "digits, cifar10", "'digit'")),
        (("--model.threshold", "1.9"), ("`threshold`", "[0, 1]", "1.9")),
        (("--model.lambda_u", "-1"), ("`lambda_u`", "at least 0", "-1")),
        (("--model.ema_decay", "1"), ("`ema_decay`", "[0, 1)", "1")),
        (("--model.backbone", "wrn_9_2"), ("`backbone`", "6n + 4", "got 9")),
        (("--model.backbone_args", "{depth: 3}"), ("depth", "bn_momentum")),
        (("--model.optimizer.name", "rmsprop"), ("optimizer.name", "'sgd'", "rmsprop")),
        (("--model.optimizer.lr", "-1"), ("`optimizer.lr`", "at least 0", "-1")),
        (("--data.num_labels", "1438"), ("--data.num_labels", "1438", "1437")),
        (("--data.num_labels", "9"), ("--data.num_labels", "9", "10")),
        (("--data.labels_per_class", "2"), ("num_labels", "labels_per_class")),
        (("--data.batch_size", "0"), ("`data.batch_size`", "at least 1", "0")),
        (("--data.views", "{hard: torch.nn.Identity}"), ("'hard'", "'strong'", "'weak'")),
        (("--model.optimizer.nesterov", "null"), ("optimizer.nesterov", "bool")),
        (("--model.threshold", "null"), ("`model.threshold`", "type float", "null")),
        (("--data.hflip", "null", "--data.pseudo_alpha", "null"), ("`data.pseudo_alpha`", "float")),
        (("--model.class_counts", "[1, 2]"), ("`model.class_counts`", "from the data")),
        (("--model.imbalance_args", "{tau: 1}"), ("`imbalance_args`", "keys of ()", "'tau'")),
        (
            ("--model.imbalance", "LogitAdjustment", "--model.imbalance_args", "{tau: abc}"),
            ("`imbalance_args.tau`", "a number", "'abc'"),
        ),
        (
            (
                "--model.imbalance",
                "ProgressiveAlignment",
                "--model.imbalance_args",
                "{window: 1.5}",
            ),
            ("`imbalance_args.window`", "an integer", "1.5"),
        ),
        (("--model.optimizer.layer_decay", "0.5"), ("layer_decay`", "timm", "WideResNet")),
        (("--config", "fixmach"), ("`--config`", "fixmatch", "'fixmach'")),
        (("--ckpt_path", "none.ckpt"), ("`ckpt_path`", "'none.ckpt'")),
        (
            ("--trainer.accumulate_grad_batches", "3", "--trainer.val_check_interval", "100"),
            ("`trainer.val_check_interval`", "(3)", "100"),
        ),
    ],
)
def test_options(
    args: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, *FIXMATCH, *args)
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--model.sharpening", "2"), ("`sharpening`", "(0, 1]", "2")),
        (("--model.temperature", "0"), ("`temperature`", "above 0", "0")),
        (("--model.label_smoothing", "1"), ("`label_smoothing`", "[0, 1)", "1")),
        (("--model.support_views", "0"), ("`support_views`", "at least 1", "0")),
        (("--model.global_views", "1"), ("`global_views`", "at least 2", "1")),
        (("--model.output_dim", "0"), ("`output_dim`", "at least 1", "0")),
        (("--model.head_args", "{width: 3}"), ("`head_args`", "hidden_features", "'width'")),
        (("--model.head_args", "{hidden_features: 0}"), ("`hidden_features`", "at least 1", "0")),
        (("--model.head_args", "{layers: 4}"), ("`layers`", "(2, 3)", "4")),
        (("--data.batch_size", "8"), ("`data.batch_size`", "multiple", "(10,", "8")),
        (("--data.classes_per_batch", "11"), ("`data.classes_per_batch`", "[1, 10]", "11")),
        (
            ("--data.labeled_order", "balanced", "--data.classes_per_batch", "5"),
            ("`data.classes_per_batch`", "'stratified'", "'balanced'"),
        ),
        (("--data.views", "{weak: torch.nn.Identity}"), ("'weak'", "'support'", "'global'")),
    ],
)
def test_options_of_paws(
    args: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, "fit", "--model", "PAWS", *SMALL, "--data.batch_size", "20", *args)
    assert [part for part in parts if part not in said] == [], said


def test_a_method_named_after_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "fit", "--model.backbone", "wrn_10_1", "--model", "FixMatch", *SMALL)
    assert "`--model` or `-c` must come before" in said
    assert "--model.backbone" in said


def test_methods_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "fit", "--model", "FixMach")
    assert said.count(" ReMixMatch,") == 1


def test_an_epoch_over_labels_that_the_method_does_not_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = fails(capsys, "fit", "--model", "SimCLR", *SMALL, "--data.steps_per_epoch", "labeled")
    assert "`data.steps_per_epoch`" in said
    assert "'labeled'" in said


def a_class_without_a_label() -> None:
    folder("images", {"train/a": 3, "train/b": 3})
    Path("labels.txt").write_text("0\n1\n")


def an_empty_class_folder() -> None:
    folder("images", {"train/a": 3, "train/b": 0})


def a_file_that_is_no_image() -> None:
    folder("images", {"train/a": 3, "train/b": 3})
    Path("images/train/b/1.png").write_text("no image")


def a_truncated_photo() -> None:
    folder("images", {"labeled/a": 2, "labeled/b": 2, "unlabeled": 3})
    photo(Path("images/labeled/a/1.png"), size=200)
    whole = Path("images/labeled/a/1.png").read_bytes()
    Path("images/labeled/a/1.png").write_bytes(whole[: len(whole) // 2])


def a_truncated_validation_photo() -> None:
    folder("images", {"labeled/a": 2, "labeled/b": 2, "unlabeled": 3, "val/a": 2, "val/b": 2})
    photo(Path("images/val/b/1.png"), size=200)
    whole = Path("images/val/b/1.png").read_bytes()
    Path("images/val/b/1.png").write_bytes(whole[: len(whole) // 2])


def other_validation_classes() -> None:
    folder("images", {"labeled/a": 2, "labeled/b": 2, "unlabeled": 3, "val/a": 2, "val/c": 2})


def no_layout() -> None:
    folder("images", {"a": 2, "b": 2})


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("make", "args", "parts"),
    [
        (
            a_class_without_a_label,
            ("null", "--data.labels_file", "labels.txt"),
            ("'b'", "needs a label"),
        ),
        (an_empty_class_folder, ("2",), ("images/train", "no images", ": b.")),
        (a_file_that_is_no_image, ("6",), ("images/train/b/1.png",)),
        (a_truncated_photo, ("4",), ("images/labeled/a/1.png",)),
        (a_truncated_photo, ("4", "--data.image_size", "96"), ("images/labeled/a/1.png",)),
        (a_truncated_validation_photo, ("4",), ("images/val/b/1.png",)),
        (a_truncated_validation_photo, ("4", "--data.image_size", "96"), ("images/val/b/1.png",)),
        (other_validation_classes, ("4",), ("val", "b", "c")),
        (no_layout, ("4",), ("ROOT/train/<class>", "ROOT/labeled/<class>", "a/, b/")),
        (nothing, ("4",), ("images", "does not exist")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_folders(
    make: Callable[[], None],
    args: tuple[str, ...],
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make()
    said = fails(capsys, *FOLDER, *args)
    assert [part for part in parts if part not in said] == [], said


def table(*rows: tuple[str, ...]) -> None:
    folder("images", {"a": 3, "b": 3})
    with Path("images/list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


GOOD = (("path", "label"), ("a/0.png", "x"), ("a/1.png", "x"), ("b/0.png", "y"), ("b/1.png", ""))
TABLE = (*FIXMATCH, "--data.dataset", "csv", "--data.root", "images/list.csv")


def test_csv_with_an_unknown_column(capsys: pytest.CaptureFixture[str]) -> None:
    table(*((*row, "1") for row in GOOD[1:]))
    table(("path", "label", "weight"), *((*row, "1") for row in GOOD[1:]))
    said = fails(capsys, *TABLE, "--data.num_labels", "2")
    assert "weight" in said
    assert "images/list.csv" in said


def test_csv_with_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    table(*GOOD, ("b/9.png", "y"))
    said = fails(capsys, *TABLE, "--data.num_labels", "2")
    assert "b/9.png" in said
    assert "line 6" in said


def test_csv_with_a_class_that_occurs_once_warns() -> None:
    table(*GOOD)
    with pytest.warns(UserWarning, match="y"):
        main([*TABLE, "--data.num_labels", "null", "--run_dir", "a", "--trainer.max_steps", "1"])


def test_a_checkpoint_of_another_method(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1)
    checkpoint = "a/checkpoints/last.ckpt"
    with pytest.raises(SystemExit):
        main([*FIXMATCH, "--ckpt_path", checkpoint, "--run_dir", "b"])
    said = capsys.readouterr().err
    assert "error: `ckpt_path` must be a checkpoint of FixMatch, got one of Supervised." in said


def test_other_classes_than_the_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1)
    folder("images", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "a/checkpoints/last.ckpt", "--data.dataset", "folder",
              "--data.root", "images"])  # fmt: skip
    assert "classes" in capsys.readouterr().err


def test_a_run_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1)
    before = load("a")["global_step"]
    with pytest.raises(SystemExit):
        main(["fit", "--model", "Supervised", *SMALL, "--run_dir", "a"])
    assert "error: `run_dir` already holds a run" in capsys.readouterr().err
    assert load("a")["global_step"] == before


def test_a_loss_that_is_not_finite_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    each = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
            "--trainer.callbacks.filename", "each",
            "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "FixMatch", *SMALL, "--run_dir", "a", *each,
              "--trainer.callbacks+=probes.PoisonWeights"])  # fmt: skip
    assert stopped.value.code == 2
    assert "error: The loss is not finite at step 3" in capsys.readouterr().err
    kept = load("a", "each")
    assert kept["global_step"] == 3
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert not Path("a/checkpoints/last.ckpt").exists()


def test_a_traceback_is_shown_when_asked_for() -> None:
    with pytest.raises(ValueError, match="threshold"):
        main([*FIXMATCH, "--model.threshold", "1.9", "--traceback"])


def test_another_seed_than_the_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1, "--seed_everything", "3", "--data.seed", "0")
    resume = ("fit", *SMALL, "--ckpt_path", "a/checkpoints/last.ckpt", "--run_dir", "b")
    with pytest.raises(SystemExit):
        main([*resume, "--seed_everything", "4"])
    assert "trained with --seed_everything 3, got 4" in capsys.readouterr().err
    main([*resume, "--trainer.max_steps", "2"])  # the checkpoint's own seed
    assert load("b")["seed"] == 3


def test_prediction_without_images(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1)
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", "a/checkpoints/last.ckpt"])
    assert "error: `data.root` must be the folder of images" in capsys.readouterr().err


def test_prediction_leaves_no_image_out() -> None:
    fit("Supervised", "a", 1)
    folder("images", {"some": 3})
    Path("images/some/1.png").write_text("no image")
    predict = ("predict", "--ckpt_path", "a/checkpoints/last.ckpt", "--data.root", "images",
               "--data.num_workers", "1", "--predictions.embeddings", "true")  # fmt: skip
    with pytest.warns(UserWarning, match=r"1 of 3 images could not be read.*some/1\.png"):
        main(predict)
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"images/some/{i}.png" for i in range(3)]
    assert [bool(row["label"]) for row in rows] == [True, False, True]
    assert np.isnan(np.load("predictions.npy")).all(axis=1).tolist() == [False, True, False]


def test_a_broken_test_photo_in_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    folder("images", {"labeled/a": 2, "labeled/b": 2, "unlabeled": 3, "test/a": 2, "test/b": 2})
    Path("images/test/b/1.png").write_text("no image")
    folder("fine", {"labeled/a": 2, "labeled/b": 2, "unlabeled": 3, "test/a": 2, "test/b": 2})
    fit("Supervised", "a", 1, "--data.dataset", "folder", "--data.root", "fine",
        "--data.num_labels", "null", "--data.image_size", "72")  # fmt: skip
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "a/checkpoints/last.ckpt", "--data.root", "images",
              "--data.num_workers", "1"])  # fmt: skip
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "images/test/b/1.png" in said
