"""The command `pseudo-label`: its table against loops, ranks, interruptions, broken files."""

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ssl.cli import main
from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.pseudo.table import read_table
from lightning_ssl.methods import Supervised
from lightning_ssl.models import WideResNet

from runs import SMALL, differences, fit, load

module = importlib.import_module("lightning_ssl.commands.pseudo_label")
QUIET = ("--accelerator", "cpu", "--progress_bar", "false", "--num_workers", "0")
LAST = "a/checkpoints/last.ckpt"


def rows(path: str = "pseudo_labels.csv") -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def label(*args: str) -> None:
    main(["pseudo-label", "--ckpt_path", LAST, *QUIET, *args])


def network(state: dict[str, torch.Tensor]) -> Any:
    """The logits of one normalised image, in float64, by a network that was put together here."""
    backbone = WideResNet(10, 1).double().eval()
    backbone.load_state_dict(
        {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
    )
    weight, bias = state["classifier.weight"].double(), state["classifier.bias"].double()

    def logits(image: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return (backbone(torch.from_numpy(image.copy())[None]) @ weight.T + bias)[0]

    return logits


def test_every_row_by_hand() -> None:
    fit("Supervised", "a", 60, "--data.num_labels", "300", "--data.val_per_class", "2")
    label()
    found = rows()
    data = SSLDataModule("digits", num_labels=300, val_per_class=2, seed=0)
    train, labeled = data.source.train, set(data.split.labeled.tolist())
    assert [row["image"] for row in found] == [str(i) for i in range(1437)]
    # Held-out images and all others that training saw without a label have none here either.
    assert len(labeled) == 280
    expected = [str(int(train.targets[i])) if i in labeled else "" for i in range(1437)]
    assert [row["given"] for row in found] == expected

    logits = network(load("a")["state_dict"])
    trained = network(load("a")["current_model_state"])
    others, differ = 0, 0
    for index in range(0, 1437, 7):
        pixels = train.pixels[index].double().numpy() / 255
        image = (pixels - 0.3054) / 0.3753
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
        crops = [image, *(padded[:, y : y + 8, x : x + 8] for y in (0, 2) for x in (0, 2))]
        views = [np.rot90(crop, k, (1, 2)) for crop in crops for k in range(4)]
        single = logits(image).softmax(0)
        averaged = torch.stack([logits(view) for view in views]).mean(0).softmax(0)
        for column, probs in (("", single), ("averaged_", averaged)):
            row = found[index]
            assert int(row[f"{column}label"]) == int(probs.argmax())
            probability = float(row[f"{column}probability"])
            assert probability == pytest.approx(float(probs.max()), abs=5e-6)
        differ += found[index]["label"] != found[index]["averaged_label"]
        others += abs(float(trained(image).softmax(0).max()) - float(single.max())) > 1e-3
    assert differ > 0
    assert others > 100  # it is the averaged weights that predict, not the trained ones


def test_a_view_is_turned_once() -> None:
    """A model that averages rotations in evaluation gives the table of one that does not."""
    fit("S4LRotation", "a", 20)
    label("--output", "single.csv")
    checkpoint = load("a")
    checkpoint["hyper_parameters"]["average_rotations"] = True
    torch.save(checkpoint, LAST)
    label("--output", "averaging.csv")
    assert Path("averaging.csv").read_bytes() == Path("single.csv").read_bytes()
    assert any(row["label"] != row["averaged_label"] for row in rows("single.csv"))


def test_parquet_says_the_same(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fit("Supervised", "a", 5)
    label()
    label("--output", "new/table.parquet")
    data = SSLDataModule("digits")
    tables = [
        read_table(path, data.train_name, 1437, data.classes)
        for path in ("pseudo_labels.csv", "new/table.parquet")
    ]
    for name in ("given", "label", "probability", "averaged_label", "averaged_probability"):
        assert torch.equal(*(getattr(table, name) for table in tables)), name
    assert (tables[0].probability > 0).all()
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(SystemExit):
        label("--output", "b.parquet")
    assert (
        "error: 'b.parquet' needs pyarrow, which is not installed: pip" in capsys.readouterr().err
    )


@pytest.mark.ddp
def test_two_ranks_write_the_same_table(two_ranks: Any) -> None:
    fit("FixMatch", "a", 10)
    label("--batch_size", "50")
    counts = two_ranks.run(_count, "--batch_size", "50", "--output", "two.csv", "--devices", "2")
    assert sum(counts) == 1437
    assert abs(counts[0] - counts[1]) <= 50
    assert Path("two.csv").read_bytes() == Path("pseudo_labels.csv").read_bytes()
    # More ranks than batches.
    two_ranks.run(label, "--batch_size", "2000", "--output", "large.csv", "--devices", "2")
    assert [r["label"] for r in rows("large.csv")] == [r["label"] for r in rows()]


def _count(*args: str) -> int:
    """Label, and count what this process predicted."""
    seen: list[int] = []
    step = module._Labeler.predict_step

    def count(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append(len(batch[1]))
        return step(self, batch, batch_idx)

    module._Labeler.predict_step = count
    try:
        label(*args)
    finally:
        module._Labeler.predict_step = step
    return sum(seen)


def test_an_interrupted_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fit("Supervised", "a", 10)
    label("--batch_size", "100", "--output", "whole.csv")
    label("--batch_size", "100")
    Path("pseudo_labels.csv").write_text("old")
    monkeypatch.setattr(module, "_BATCHES_PER_PART", 2)
    seen: list[int] = []
    step = module._Labeler.predict_step

    def stop_in_the_eighth(self: Any, batch: Any, batch_idx: int) -> Any:
        if len(seen) == 7:
            raise KeyboardInterrupt
        seen.append(len(batch[1]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module._Labeler, "predict_step", stop_in_the_eighth)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        label("--batch_size", "100")
    assert Path("pseudo_labels.csv").read_text() == "old"

    # Another batch size is another job, which must not take over what this one did.
    monkeypatch.setattr(module._Labeler, "predict_step", step)
    assert _count("--batch_size", "90", "--output", "b.csv") == 1437
    assert _count("--batch_size", "100") == 1437 - 600
    assert Path("pseudo_labels.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert list(Path().glob(".*")) == []


@pytest.mark.parametrize("size", [16, 72])
def test_files_are_named_below_root_and_broken_ones_stay_empty(size: int) -> None:
    for number in range(6):
        for part in ("labeled/cat", "labeled/dog", "unlabeled"):
            pixels = np.random.default_rng((number, len(part))).integers(0, 256, (90, 80, 3))
            Path("images", part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(f"images/{part}/{number}.png")
    Path("images/unlabeled/3.png").write_text("no image")
    options = ("--data.dataset", "folder", "--data.root", "images", "--data.num_labels", "null",
               "--data.image_size", str(size), "--data.num_workers", "0")  # fmt: skip
    fit("Supervised", "a", 4, *options)
    Path("images").rename("moved")
    with pytest.warns(UserWarning, match=r"1 of 18 images could not be read.*: unlabeled/3.png"):
        label("--root", "moved", "--num_workers", "2", "--batch_size", "4")
    found = {row["image"]: row for row in rows()}
    assert len(found) == 18
    assert found["labeled/dog/2.png"]["given"] == "dog"
    assert found["unlabeled/2.png"]["given"] == ""
    main(["predict", "--ckpt_path", LAST, "--data.root", "moved", "--data.num_workers", "0",
          "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    for row in rows("predictions.csv"):
        own = found[row["path"].removeprefix("moved/")]
        assert own["label"] == row["label"]
        if own["label"]:
            assert float(own["probability"]) == pytest.approx(float(row["probability"]), abs=2e-6)
    broken = found["unlabeled/3.png"]
    assert {broken[c] for c in broken if c != "image"} == {""}


def test_several_models_vote(capsys: Any) -> None:
    """Votes and probabilities by hand, of runs that see images of another mean."""
    fit("Supervised", "a", 20)
    fit("Supervised", "b", 30, "--data.normalize", "symmetric", "--model.backbone", "wrn_16_1")
    pair = ("--ckpt_path", "[a/checkpoints/last.ckpt, b/checkpoints/last.ckpt]")
    label(*pair, "--output", "votes.parquet")
    label(*pair, "--output", "mean.csv", "--ensemble", "probabilities")
    data = SSLDataModule("digits")
    votes, mean = (
        read_table(path, data.train_name, 1437, data.classes)
        for path in ("votes.parquet", "mean.csv")
    )
    models = []
    for run, deviation in (("a", None), ("b", 0.5)):
        method = Supervised.load_from_checkpoint(f"{run}/checkpoints/last.ckpt").eval()
        center = (0.3054, 0.3753) if deviation is None else (0.5, 0.5)
        pixels = data.source.train.pixels.float() / 255
        with torch.no_grad():
            models.append(method((pixels - center[0]) / center[1]).softmax(dim=1).double())
    torch.testing.assert_close(mean.probs, sum(models) / 2, rtol=0, atol=5e-4)
    hard = [torch.nn.functional.one_hot(model.argmax(dim=1), 10).double() for model in models]
    sure = torch.stack([m.topk(2).values.diff().abs()[:, 0] > 1e-3 for m in models]).all(dim=0)
    torch.testing.assert_close(votes.probs[sure], (sum(hard) / 2)[sure])
    assert 0 < (votes.probability[sure] == 0.5).sum() < sure.sum()
    assert torch.equal(votes.given, mean.given)
    assert torch.equal(votes.probs.gather(1, votes.label[:, None])[:, 0], votes.probability)
    assert not list(Path().glob(".*.parts"))

    # Of other labels: no table.
    fit("Supervised", "c", 1, "--data.num_labels", "30")
    path = "c/checkpoints/last.ckpt"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        label("--ckpt_path", f"[{LAST},{path}]", "--output", "none.csv")
    said = capsys.readouterr().err
    assert f"`ckpt_path` must be of runs on the same data, got '{path}' with other " in said
    assert f"labelled images than '{LAST}'" in said
    assert not Path("none.csv").exists()


def test_several_go_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    fit("Supervised", "a", 5)
    fit("Supervised", "b", 6)
    pair = ("--ckpt_path", "[a/checkpoints/last.ckpt,b/checkpoints/last.ckpt]")
    options = (*pair, "--batch_size", "200")
    label(*options, "--output", "whole.csv")
    monkeypatch.setattr(module, "_BATCHES_PER_PART", 1)
    step, seen = module._Labeler.predict_step, []

    def counted(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(seen) == 11:  # in the second of two times eight batches
            raise RuntimeError("stop")
        seen.append(len(batch[1]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module._Labeler, "predict_step", counted)
    with pytest.raises(RuntimeError, match="stop"):
        label(*options, "--output", "cut.csv")
    assert len(list(Path().glob(".cut.csv.*.parts"))) == 2
    assert not Path("cut.csv").exists()
    seen.clear()
    label(*options, "--output", "cut.csv")
    assert len([number for number in seen if number]) == 5  # the first has nothing left
    assert Path("cut.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert not list(Path().glob(".cut.csv.*.parts"))


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--ckpt_path", "none.ckpt"), ("`ckpt_path`", "'none.ckpt'")),
        (("--output", "a.txt"), ("`output`", ".csv or .parquet", "'a.txt'")),
        (("--batch_size", "0"), ("`batch_size`", "at least 1", "0")),
        (("--num_workers", "-1"), ("`num_workers`", "at least 0", "-1")),
        (("--ensemble", "votes"), ("`ensemble` needs checkpoints, several", "got 1")),
        (("--ckpt_path", "[]"), ("`ckpt_path` needs checkpoints", "got 0")),
        (("--ckpt_path", "strange.ckpt"), ("`ckpt_path`", "nowhere.Method", "cannot be found")),
        (("--ckpt_path", "foreign.ckpt"), ("`ckpt_path`", "SSLDataModule", "foreign.ckpt")),
    ],
)
def test_bad_input(args: tuple[str, ...], parts: tuple[str, ...], capsys: Any) -> None:
    fit("Supervised", "a", 1)
    content = load("a")
    torch.save(content | {"method": "nowhere.Method"}, "strange.ckpt")
    kept = ("state_dict", "pytorch-lightning_version")
    torch.save({name: content[name] for name in kept}, "foreign.ckpt")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        label(*args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
    assert not Path("pseudo_labels.csv").exists()


STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
TABLE = ("--data.pseudo_labels", "pseudo_labels.csv")


def test_a_second_run_trains_on_it_and_resumes(capsys: Any) -> None:
    fit("Supervised", "a", 30)
    label()
    options = ("--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
               "--trainer.callbacks.filename", "each",
               "--trainer.callbacks.every_n_train_steps", "1")  # fmt: skip
    cli = fit("FixMatch", "whole", 6, *TABLE, *options)
    assert cli.datamodule.num_labeled == 1437
    guess = torch.tensor([int(row["given"] or row["label"]) for row in rows()])
    assert torch.equal(cli.datamodule.labeled.target, guess)
    killed = ("--trainer.callbacks+=probes.Die", "--trainer.callbacks.step", "3")
    with pytest.raises(SystemExit):
        fit("FixMatch", "cut", 6, *TABLE, *options, *killed)
    resume = ("--ckpt_path", "cut/checkpoints/each.ckpt")
    capsys.readouterr()
    half = ("--data.pseudo_threshold", sorted(row["probability"] for row in rows())[700])
    with pytest.raises(SystemExit):
        main(["fit", *SMALL, *resume, "--run_dir", "other", *half])
    assert "error: `ckpt_path` was trained on other pseudo-labels" in capsys.readouterr().err
    # The table may be gone: the run has what it needs of it, and evaluation needs nothing.
    Path("pseudo_labels.csv").unlink()
    stored = ("--data.pseudo_labels", "cut/split.json")
    fit("FixMatch", "resumed", 6, *stored, *resume)
    whole, resumed = load("whole"), load("resumed")
    assert [d for n in STATES for d in differences(whole[n], resumed[n], n)] == []
    main(["test", "--ckpt_path", "whole/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"])


@pytest.mark.ddp
def test_two_ranks_train_on_it_as_one(two_ranks: Any) -> None:
    fit("Supervised", "a", 10)
    label()
    options = ("--model.backbone_args", "{norm: none}", "--trainer.precision", "64-true", *TABLE,
               "--model.optimizer.lr", "0.01", "--data.labeled_order", "balanced")  # fmt: skip
    fit("Supervised", "one", 3, *options)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_fit, "Supervised", "two", 3, *options, *ddp)
    one, two = load("one")["state_dict"], load("two")["state_dict"]
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-10, atol=1e-10)


def _fit(*args: Any) -> None:
    fit(*args)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--data.pseudo_labels", "none.csv"), ("--data.pseudo_labels", "'none.csv'")),
        (("--data.pseudo_column", "best"), ("pseudo_column", "averaged_label", "best")),
        (("--data.pseudo_threshold", "1.5"), ("`pseudo_threshold`", "[0, 1]", "1.5")),
        (("--data.pseudo_labels", "few.csv"), ("'few.csv'", "2 images", "1437")),
    ],
)
def test_bad_options_of_a_run(args: tuple[str, ...], parts: tuple[str, ...], capsys: Any) -> None:
    header = "image,given,label,probability,averaged_label,averaged_probability"
    Path("few.csv").write_text(f"{header}\n0,,1,0.5,1,0.5\n1,,1,0.5,1,0.5\n")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "Supervised", *SMALL, "--run_dir", "a", *args])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
