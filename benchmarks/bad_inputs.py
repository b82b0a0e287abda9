"""Give the command line and the Python classes bad inputs, and see what they say.

``python benchmarks/bad_inputs.py`` makes a folder with photos, lists, configs, checkpoints and a
finished run, and tries each row of the tables below in a process of its own, forked after the
imports. A row has to end with one line of error that holds the row's text, such as the name of the
argument or of the file, with status 2, in time, and with every file of the folder as it was, to
the last byte. It prints what does not and the counts; ends with status 1 if there is any.
``--only TEXT`` tries the rows that hold the text, ``--show`` prints what each of them said.
"""

import argparse
import gzip
import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_ssl.cli.errors import USER_ERRORS
from lightning_ssl.cli.main import commands, main
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.methods import FixMatch

QUIET = (
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu"),
)
NETWORK = ("--model.backbone", "wrn_10_1", "--trainer.max_steps", "1")
SIZES = ("--data.batch_size", "4", "--data.unlabeled_batch_size", "4", "--data.num_workers", "0")
FIT = ("fit", "--model", "FixMatch", *QUIET, *NETWORK, *SIZES)
DIGITS = (*FIT, "--data.dataset", "digits", "--data.num_labels", "20")
PHOTOS = (*FIT, "--data.dataset", "folder", "--data.root")
TABLE = (*FIT, "--data.dataset", "csv", "--data.root")
LAST = "run/checkpoints/last.ckpt"
TEST = ("test", *QUIET, "--ckpt_path")
PREDICT = ("predict", *QUIET, "--data.root", "photos", "--data.num_workers", "0", "--ckpt_path")
AGAIN = ("fit", "-c", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "2")

# Arguments after the first ones of the kind, and what the message has to hold.
Row = tuple[tuple[str, ...], str]

OPTIONS: list[Row] = [
    *(((f"--{name}", value), name.rpartition(".")[2]) for name, value in (
        ("seed_everything", "-1"),
        ("seed_everything", "abc"),
        ("seed_everything", "4294967296"),
        ("trainer.max_steps", "1e3"),
        ("trainer.max_steps", "-2"),
        ("trainer.max_steps", "0"),
        ("trainer.min_steps", "9"),
        ("trainer.max_stepz", "9"),
        ("trainer.max_time", "abc"),
        ("trainer.devices", "0"),
        ("trainer.devices", "abc"),
        ("trainer.accelerator", "quantum"),
        ("trainer.strategy", "nothing"),
        ("trainer.precision", "17"),
        ("trainer.gradient_clip_val", "-1"),
        ("trainer.gradient_clip_algorithm", "abc"),
        ("trainer.accumulate_grad_batches", "0"),
        ("trainer.val_check_interval", "0"),
        ("trainer.val_check_interval", "1.5"),
        ("trainer.limit_train_batches", "-1"),
        ("trainer.callbacks", "foo"),
        ("trainer.logger", "foo"),
        ("data.seed", "-1"),
        ("data.num_labels", "9"),
        ("data.num_labels", "20.5"),
        ("data.num_labels", "2000"),
        ("data.label_fraction", "0.1"),
        ("data.labels_file", "nothere.txt"),
        ("data.val_per_class", "1000"),
        ("data.batch_size", "0"),
        ("data.batch_size", "100000000000"),
        ("data.unlabeled_batch_size", "100000000000"),
        ("data.eval_batch_size", "-1"),
        ("data.num_workers", "-1"),
        ("data.num_workers", "100000"),
        ("data.image_size", "1"),
        ("data.image_size", "100000"),
        ("data.in_channels", "2"),
        ("data.mean", "[125, 125, 125]"),
        ("data.mean", "[0.5, 0.5]"),
        ("data.std", "[0, 1, 1]"),
        ("data.std", "[58, 58, 58]"),
        ("data.normalize", "abc"),
        ("data.classes", "[a, b]"),
        ("data.fold", "1"),
        ("data.extra", "true"),
        ("data.steps_per_epoch", "0"),
        ("data.steps_per_epoch", "some"),
        ("data.labeled_order", "sorted"),
        ("data.views", "{weak: 3}"),
        ("data.views", "{hard: torch.nn.Identity}"),
        ("data.pseudo_labels", "nothere.csv"),
        ("data.pseudo_threshold", "2"),
        ("data.imbalance_ratio", "10"),
        ("model.threshold", "1.9"),
        ("model.threshold", "nan"),
        ("model.temperature", "0"),
        ("model.lambda_u", "-1"),
        ("model.ema_decay", "1"),
        ("model.ema_half_life", "0"),
        ("model.num_classes", "3"),
        ("model.treshold", "0.9"),
        ("model.backbone", "wrn_9_2"),
        ("model.backbone", "wrn_10_0"),
        ("model.backbone", "wrn_10_99999999"),
        ("model.backbone", "wrn_600004_1"),
        ("model.backbone", "resnet"),
        ("model.backbone", "timm/nothing"),
        ("model.backbone", "null"),
        ("model.backbone_args", "{bn_momentum: 7}"),
        ("model.backbone_args", "{bn_momentum: abc}"),
        ("model.backbone_args", "{bn_eps: 0}"),
        ("model.backbone_args", "[1]"),
        ("model.optimizer.lr", "-1"),
        ("model.optimizer.lr", "abc"),
        ("model.optimizer.name", "rmsprop"),
        ("model.optimizer.momentum", "1"),
        ("model.schedule.name", "linear"),
        ("model.schedule.warmup", "-1"),
        ("model.schedule.milestones", "[3, 2]"),
        ("model.imbalance", "Nothing"),
        ("model.weights", "nothere.ckpt"),
        ("model.weights", "notes.txt"),
        ("run_dir", "notes.txt"),
        ("run_dir", "notes.txt/run"),
        ("run_dir", "run"),
        ("ckpt_path", "nothere.ckpt"),
        ("config", "fixmach"),
    )),
    (("--model", "FixMach"), "FixMatch"),
    (("--data.dataset", "digit"), "digits"),
    (("--data.num_labels",), "--data"),
    (("word",), "word"),
]  # fmt: skip

CONTINUED: list[Row] = [
    (("--model.threshold", "0.5"), "`model.threshold`"),
    (("--model.weights", LAST), "`model.weights`"),
    (("--model.weights_strict", "false"), "`model.weights_strict`"),
    (("--model.optimizer.lr", "1"), "`model.optimizer.lr`"),
    (("--model.backbone", "wrn_10_2"), "`model.backbone`"),
    (("--data.batch_size", "2"), "`data.batch_size`"),
    (("--data.image_size", "8"), "`data.image_size`"),
    (("--seed_everything", "7"), "seed_everything"),
    (("--trainer.precision", "bf16-true"), "`trainer.precision`"),
    (("--trainer.accumulate_grad_batches", "2"), "accumulate_grad_batches"),
]

COMMANDS: list[Row] = [
    *(((name, "-c", "run/config.yaml"), "ckpt_path") for name in ("validate", "test", "predict")),
    (("test", "--model", "FixMatch", "--data.dataset", "digits"), "ckpt_path"),
    *(((*PREDICT, LAST, "--data.root", name), name) for name in ("nothere", "notes.txt", "empty")),
    *(
        ((*PREDICT, LAST, "--predictions.path", path), path)
        for path in ("nothere/a.csv", "photos", "notes.txt/a.csv")
    ),
    ((*PREDICT, LAST, "--trainer.limit_predict_batches", "0"), "limit_predict_batches"),
    (("fitt",), "fit"),
    (("fit",), "--model"),
    (("compare", "--labels", "20"), "labels"),
    (("compare", "--labels", "[20]", "--methods", "[]"), "methods"),
    (("probe", "--ckpt_path", "nothere.ckpt"), "ckpt_path"),
    (("probe", "--ckpt_path", LAST, "--output", "nothere/a/"), "output"),
    (("probe", "--ckpt_path", LAST, "--epochs", "0"), "epochs"),
    (("project", "--ckpt_path", "empty.ckpt"), "ckpt_path"),
    (("pseudo-label", "--ckpt_path", "list.ckpt"), "ckpt_path"),
    (("pseudo-label", "--ckpt_path", LAST, "--output", "a.txt"), "output"),
    (("moam", "--common", "'"), "common"),
    (("quickstart", "--nothing", "1"), "quickstart"),
]

CONFIGS = {
    "empty_model": "model:\n",
    "no_yaml": "model: [\n",
    "list": "- model\n",
    "unknown_key": "modell: FixMatch\n",
    "unknown_group": "trainer: {steps: 3}\n",
    "twice": "model: FixMatch\nmodel: {class_path: [FixMatch]}\n",
    "tab": "trainer:\n\tmax_steps: 3\n",
    "anchor": "data: &a {b: *a}\n",
    "class": "model: os.system\n",
    "module": "model: {class_path: nothere.Method}\n",
    "text": "trainer: {max_steps: three}\n",
    "number": "42\n",
}

LISTS: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "empty.csv', line 1"),
    "header.csv": (b"path,label\n", "header.csv"),
    "blank.csv": (b"\n\n", "blank.csv', line 1"),
    "twice.csv": (b"path,label,label\na/0.png,x,x\n", "twice: label"),
    "column.csv": (b"path,label,weight\na/0.png,x,1\n", "unknown: weight"),
    "missing.csv": (b"path,label\na/0.png,x\na/99.png,y\n", "missing.csv', line 3"),
    "folder.csv": (b"path,label\na/0.png,x\nb,y\n", "folder.csv', line 3"),
    "same.csv": (b"path,label\na/0.png,x\na/0.png,y\n", "same.csv', line 3"),
    "short.csv": (b"path,label\na/0.png\n", "short.csv', line 2"),
    "quote.csv": (b'path,label\na/0.png,"x\n', "quote.csv', line 2"),
    "nothing.csv": (b"path,label\na/0.png,\n", "nothing.csv"),
    "one.csv": (b"path,label\na/0.png,x\na/1.png,x\n", "one.csv"),
    "mark.csv": (b"path,label\na/0.png,1\na/1.png,-1\n", "mark.csv', line 3"),
    "minus.csv": ("path,label\na/0.png,1\na/1.png,\u22121\n".encode(), "minus.csv', line 3"),
    "dash.csv": ("path,label\na/0.png,1\na/1.png,\u20131\n".encode(), "dash.csv', line 3"),
    "nan.csv": (b"path,label\na/0.png,1\na/1.png,nan\n", "nan.csv', line 3"),
    "split.csv": (b"path,label,split\na/0.png,x,dev\n", "split.csv', line 2"),
    "held.csv": (b"path,label,split\na/0.png,x,train\na/1.png,y,val\n", "held.csv', line 3"),
    "utf16.csv": ("path,label\n".encode("utf-16"), "utf16.csv', line 1"),
    "latin.csv": ("path,label\n\u00fc.png,x\n".encode("cp1252"), "latin.csv', line 2"),
    "zero.csv": (b"path,label\na/0.png,\0\n", "zero.csv', line 2"),
    "packed.csv": (gzip.compress(b"path,label\na/0.png,x\n"), "packed.csv', line 1"),
    "excel.csv": (b"PK\x03\x04" + bytes(26), "excel.csv', line 1"),
    "photo.csv": (b"\x89PNG\r\n\x1a\n" + bytes(26), "photo.csv', line 1"),
}

LABELS: dict[str, tuple[bytes, str]] = {
    "comment.txt": (b"# labelled\n1\n2\n", "comment.txt', line 1"),
    "range.txt": (b"1\n99999\n", "range.txt"),
    "again.txt": (b"1\n1\n", "again.txt"),
    "names.txt": (b"a.png\n", "names.txt"),
    "half.json": (b'{"values"', "half.json"),
    "other.json": (b'{"num_train": 3, "labeled": [0], "val": []}', "other.json"),
    "floats.json": (b'{"num_train": 1437, "labeled": [0.5], "val": []}', "floats.json"),
    "cut.npy": (b"\x93NUMPY\x01\x00", "cut.npy"),
    "few.txt": (b"1\n", "needs a label"),
}


def change(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Make a change of one entry of a checkpoint."""
    return lambda checkpoint: {**checkpoint, name: value}


def form(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Make a change of one entry of the record of the data."""
    return lambda c: {**c, "SSLDataModule": {**c["SSLDataModule"], name: value}}


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda checkpoint: [1, 2],
    "tensor": lambda checkpoint: torch.zeros(3),
    "empty": lambda checkpoint: {},
    "no_weights": change("state_dict", {}),
    "no_dict": change("state_dict", 3),
    "names": change("state_dict", {1: torch.zeros(1)}),
    "texts": lambda c: {**c, "state_dict": dict.fromkeys(c["state_dict"], "a")},
    "method": change("method", "os.system"),
    "method_number": change("method", 7),
    "method_none": change("method", "nothere.Method"),
    "options": change("hyper_parameters", [1]),
    "unknown_option": lambda c: {**c, "hyper_parameters": {**c["hyper_parameters"], "zzz": 1}},
    "threshold": lambda c: {**c, "hyper_parameters": {**c["hyper_parameters"], "threshold": 9}},
    "seed": change("seed", "a"),
    "started_from": change("started_from", 3),
    "classes": form("classes", []),
    "one_class": form("classes", ["a"]),
    "size": form("image_size", 10**9),
    "size_text": form("image_size", "a"),
    "mean": form("mean", [0.5]),
    "std": form("std", [0.5, 0.0, 0.5]),
    "mean_255": form("mean", [125.0, 125.0, 125.0]),
    "channels": form("in_channels", 2),
}


def photo(path: Path, shade: int) -> None:
    """Write a small photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade, 100, 255 - shade)).save(path)


FOLDERS: dict[str, str] = {
    "nothere": "nothere",
    "notes.txt": "notes.txt",
    "bare": "bare",
    "empty": "empty",
    "one_class": "one_class",
    "beside": "beside/train",
    "empty_class": "empty_class/train",
    "other_val": "other_val/val",
    "broken": "broken/train/b/0.png",
    "mark": "mark/train",
}


def make(root: Path) -> None:
    """Write everything that the rows need."""
    for folder in ("a", "b", "photos/train/a", "photos/train/b", "photos/test/a", "photos/test/b",
                   "bare", "one_class/train/a", "beside/train/a", "beside/train/b",
                   "empty_class/train/a", "other_val/train/a", "other_val/train/b",
                   "other_val/val/a", "other_val/val/c", "broken/train/a", "broken/train/b",
                   "mark/train/1", "mark/train/-1"):  # fmt: skip
        for i in range(3):
            photo(root / folder / f"{i}.png", shade=40 * i)
    photo(root / "beside/train/0.png", shade=0)
    for folder in ("empty", "empty_class/train/b"):
        (root / folder).mkdir()
    (root / "broken/train/b/0.png").write_text("no image")
    (root / "notes.txt").write_text("notes")
    for name, text in CONFIGS.items():
        (root / f"{name}.yaml").write_text(text)
    for name, (content, _) in (LISTS | LABELS).items():
        (root / name).write_bytes(content)
    main([*PHOTOS, "photos", "--run_dir", "run"])
    checkpoint = torch.load(LAST, weights_only=True)
    for name, damage in CHECKPOINTS.items():
        torch.save(damage(checkpoint), root / f"{name}.ckpt")
    whole = Path(LAST).read_bytes()
    for name, content in {"cut": whole[:-5000], "zeros": bytes(1000), "nothing": b""}.items():
        (root / f"{name}.ckpt").write_bytes(content)


def images(count: int = 8, side: int = 8) -> Any:
    """Random images in an array."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


PYTHON: dict[str, tuple[Callable[[], Any], str]] = {
    "dataset": (lambda: SSLDataModule("digit").source, "dataset"),
    "root": (lambda: SSLDataModule("folder").source, "root"),
    "batch_size": (lambda: SSLDataModule("digits", batch_size=0), "batch_size"),
    "num_workers": (lambda: SSLDataModule("digits", num_workers=10**6), "num_workers"),
    "image_size": (lambda: SSLDataModule("digits", image_size=0).source, "image_size"),
    "mean": (lambda: SSLDataModule("digits", mean=[125, 125, 125]), "mean"),
    "train_dataloader": (lambda: SSLDataModule("digits").train_dataloader(), "trainer"),
    "num_classes": (lambda: FixMatch(1), "num_classes"),
    "threshold": (lambda: FixMatch(10, threshold=2.0), "threshold"),
    "backbone": (lambda: FixMatch(10, backbone="wrn_10_100000"), "backbone"),
    "weights": (lambda: FixMatch(10, weights="nothere").start_from_weights(), "nothere"),
    "load": (lambda: FixMatch.load_from_checkpoint("method.ckpt"), "ckpt_path"),
    "floats": (lambda: from_arrays(images() / 255, np.zeros(8, int)), "images"),
    "targets": (lambda: from_arrays(images(), np.zeros(3, int)), "targets"),
    "no images": (lambda: from_arrays(images(0), np.zeros(0, int)), "images"),
    "one class": (
        lambda: FixMatch(from_arrays(images(), np.zeros(8, int)).num_classes),
        "num_classes",
    ),
}


def rows() -> Iterator[tuple[str, Callable[[], Any], str]]:
    """Every row: what is tried, as a text and as a function, and what has to be said."""
    checkpoints = [((f"{name}.ckpt",), "") for name in (*CHECKPOINTS, "cut", "zeros", "nothing")]
    by_index = (*DIGITS, "--data.num_labels", "null", "--data.labels_file")
    kinds: tuple[tuple[tuple[str, ...], list[Row]], ...] = (
        (DIGITS, OPTIONS),
        (("fit", *QUIET, "-c"), [((f"{name}.yaml",), "") for name in CONFIGS]),
        (TABLE, [((name,), part) for name, (_, part) in LISTS.items()]),
        (by_index, [((name,), part) for name, (_, part) in LABELS.items()]),
        (PHOTOS, [((name,), part) for name, part in FOLDERS.items()]),
        (TEST, checkpoints),
        (PREDICT, checkpoints),
        (AGAIN, CONTINUED),
        ((), COMMANDS),
    )
    for first, listed in kinds:
        for args, part in listed:
            short = [arg for arg in (*first, *args) if arg not in (*QUIET, *NETWORK, *SIZES)]
            yield " ".join((*short[:1], *short[-4:])), partial(main, (*first, *args)), part
    for name, (call, part) in PYTHON.items():
        yield f"Python: {name}", call, part


def files(root: Path) -> dict[str, str]:
    """Every file and folder below a folder, and a digest of its bytes."""
    return {
        str(path): hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def attempt(call: Callable[[], Any], log: Path, seconds: int) -> int:
    """Run a row in a process of its own; returns its status, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(seconds)  # which ends it
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    status = 0
    try:
        call()
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except USER_ERRORS as error:  # in Python, with the traceback that belongs there
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def faults(status: int, said: str, part: str, before: Any, after: Any) -> Iterator[str]:
    """What is wrong with how a row ended."""
    error = said[said.find("error: ") :].strip() if "error: " in said else ""
    if status != 2:
        yield f"status {status}"
    if "Traceback" in said or said.count("error: ") != 1:
        yield "no single error"
    elif "\n" in error and "ROOT/" not in error and "missing in the file" not in error:
        yield "several lines"
    if part not in error:
        yield f"does not say {part}"
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    if changed:
        yield f"changed {', '.join(changed[:3])}"


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="text that a row has to hold")
    parser.add_argument("--seconds", type=int, default=60, help="longest time of a row")
    parser.add_argument("--show", action="store_true", help="print what each row said")
    return parser.parse_args()


def trial(args: argparse.Namespace, root: Path, log: Path) -> int:
    """Try all rows; returns the number of those that did not end as they should."""
    begin, counts = time.monotonic(), Counter[str]()
    before = files(root)
    for what, call, part in rows():
        if args.only not in what:
            continue
        status = attempt(call, log, args.seconds)
        said, after = log.read_text(errors="replace"), files(root)
        wrong = list(faults(status, said, part, before, after))
        before = after
        counts["wrong" if wrong else "as they should"] += 1
        counts.update(fault.partition(" ")[0] for fault in wrong)
        if wrong or args.show:
            print(f"{what}: {'; '.join(wrong) or 'ok'}\n    {said.strip()[-300:]}", flush=True)
    print(f"{sum(counts[k] for k in ('wrong', 'as they should'))} inputs in "
          f"{time.monotonic() - begin:.0f} s: {dict(counts)}")  # fmt: skip
    return counts["wrong"]


if __name__ == "__main__":
    options = parse()
    commands()  # imported before the forks
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as logs:
        os.chdir(folder)
        made = os.fork()
        if not made:  # so that no thread of the trainer is there when the rows are forked
            make(Path())
            os._exit(0)
        os.waitpid(made, 0)
        sys.exit(min(1, trial(options, Path(), Path(logs, "log.txt"))))
