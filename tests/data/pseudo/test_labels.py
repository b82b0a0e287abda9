"""Training on a table of pseudo-labels: lists, targets, order, files, and what stays hidden."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.data.pseudo.table import (
    COLUMNS,
    LABEL_COLUMNS,
    PseudoTable,
    read_table,
    write_table,
)
from lightning_ssl.data.record import check_resumed, digest
from lightning_ssl.data.splits.make import save_split
from lightning_ssl.methods import FixMatch, Supervised

N = 60
SMALL = {"backbone": "wrn_10_1", "ema_decay": 0}
CLASSES = ("red, dark", 'gr"een', "blue")
TRUE = torch.arange(N) % 3
GENERATOR = torch.Generator().manual_seed(1)
PIXELS = torch.randint(0, 256, (N, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`ema_decay`"),
    pytest.mark.filterwarnings("ignore:BatchNorm momentum"),
    pytest.mark.filterwarnings("ignore:The .* list .* is shorter than its batch"),
    pytest.mark.filterwarnings("ignore:The .*Loader object does not have many workers"),
]


def table(labeled, seed: int = 3, **changes) -> PseudoTable:
    """Random predictions by a model that was trained with the labels of `labeled`; one is empty."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.full((N,), -1)
    given[labeled] = TRUE[labeled]
    values = {"given": given}
    for column in LABEL_COLUMNS:
        values[column] = torch.randint(0, 3, (N,), generator=generator)
        probability = 0.34 + 0.66 * torch.rand(N, generator=generator, dtype=torch.float64)
        values[column.replace("label", "probability")] = probability.mul(1e6).round().div(1e6)
        values[column][50] = -1
        values[column.replace("label", "probability")][50] = 0
    return PseudoTable(**(values | changes))


def soft_table(labeled, seed: int = 3) -> PseudoTable:
    """What three models might say by votes, with scores; the same image is empty."""
    plain = table(labeled, seed)
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randint(0, 3, (N, 3), generator=generator)
    probs = torch.nn.functional.one_hot(votes, 3).double().mean(dim=1)
    probability, label = probs.max(dim=1)
    score = 2 * torch.rand(N, generator=generator, dtype=torch.float64) - 1
    label[50], probability[50], probs[50], score[50] = -1, 0, 0, 0
    return PseudoTable(plain.given, label, probability, probs=probs, outlier_score=score)


def make(path: str | None = "t.csv", targets=TRUE, **options) -> SSLDataModule:
    source = from_arrays(PIXELS, targets, classes=CLASSES, test=(PIXELS[:6], TRUE[:6]))
    defaults = {"num_labels": 12, "val_per_class": 1, "batch_size": 8, "unlabeled_batch_size": 8}
    return SSLDataModule.from_source(source, pseudo_labels=path, seed=0, **(defaults | options))


LABELED = make(None).split.labeled
HELD_OUT = make(None).split.val


@pytest.fixture
def written(tmp_path) -> PseudoTable:
    found = table(LABELED)
    write_table("t.csv", found, str, CLASSES)
    return found


class TestTable:
    @pytest.mark.parametrize("path", ["new/t.csv", "t.parquet"])
    @pytest.mark.parametrize("make_table", [table, soft_table])
    def test_round_trip(self, path, make_table):
        whole = make_table(LABELED)
        write_table(path, whole, lambda i: f"a/{i},é.png", CLASSES)
        found = read_table(path, lambda i: f"a/{i},é.png", N, CLASSES)
        for name, values in vars(whole).items():
            if values is None:
                assert getattr(found, name) is None, name
            else:
                torch.testing.assert_close(getattr(found, name), values, rtol=0, atol=2e-6)
        assert [p.name for p in Path(path).parent.iterdir() if p.is_file()] == [Path(path).name]

    def test_content_as_csv(self, written):
        with open("t.csv", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == list(COLUMNS)
        for i, row in enumerate(rows):
            assert row[0] == str(i)
            assert row[1] == (CLASSES[TRUE[i]] if i in LABELED.tolist() else "")
            if i == 50:
                assert row[2:] == [""] * 4
            else:
                assert row[2] == CLASSES[written.label[i]]
                assert float(row[5]) == written.averaged_probability[i]

    def test_nothing_is_left_of_a_failed_write(self, written):
        before = Path("t.csv").read_bytes()
        with pytest.raises(ZeroDivisionError):
            write_table("t.csv", written, lambda i: str(1 // (40 - i)), CLASSES)
        assert Path("t.csv").read_bytes() == before
        assert [path.name for path in Path().iterdir()] == ["t.csv"]


class TestLists:
    @pytest.mark.parametrize("column", LABEL_COLUMNS)
    @pytest.mark.parametrize("threshold", [0.0, 0.7])
    def test_by_loop(self, written, column, threshold):
        data = make(pseudo_column=column, pseudo_threshold=threshold)
        expected = {}
        for i in range(N):
            label = int(getattr(written, column)[i])
            probability = getattr(written, column.replace("label", "probability"))[i]
            if i in LABELED.tolist():
                expected[i] = int(TRUE[i])
            elif i not in HELD_OUT.tolist() and label >= 0 and probability >= threshold:
                expected[i] = label
        assert data.labeled.rows.tolist() == list(expected)
        assert data.labeled.target.tolist() == list(expected.values())
        assert data.num_labeled == len(expected)
        assert data.class_counts == [list(expected.values()).count(c) for c in range(3)]
        assert data.num_unlabeled == N - len(HELD_OUT)
        assert torch.equal(data.split.labeled, LABELED)
        assert torch.equal(data.split.val, HELD_OUT)
        assert 9 < len(expected) < N - 3

    def test_a_probability_at_the_threshold_counts(self, written):
        outside = [i for i in range(N) if i not in [*LABELED.tolist(), *HELD_OUT.tolist()]]
        highest = float(written.probability[outside].max())
        rows = make(pseudo_threshold=highest).pseudo.rows.tolist()
        assert rows == [i for i in outside if written.probability[i] == highest]

    def test_without_a_table_nothing_changes(self):
        data = make(None)
        assert data.pseudo is None
        assert torch.equal(data.labeled.rows, data.split.labeled)
        assert torch.equal(data.labeled.target, TRUE[data.split.labeled])


class TestSoft:
    def test_by_loop(self):
        whole = soft_table(LABELED)
        write_table("t.csv", whole, str, CLASSES)
        data = make(pseudo_column="soft", pseudo_threshold=0.5)
        seen = 0
        for row, target, probs in zip(*data.labeled, strict=True):
            if int(row) in LABELED.tolist():
                expected = [float(c == TRUE[row]) for c in range(3)]
                assert target == TRUE[row]
            else:
                expected = [float(p) for p in whole.probs[row]]
                assert target == whole.label[row]
                assert max(expected) >= 0.5
                seen += max(expected) < 1
            assert probs.tolist() == pytest.approx(expected, abs=1e-6)
        assert seen > 5
        assert torch.equal(data.labeled.probs.argmax(1), data.labeled.target)
        assert make(pseudo_threshold=0.5).labeled.probs is None

    def test_batches_carry_them(self):
        write_table("t.csv", soft_table(LABELED), str, CLASSES)
        data = make(pseudo_column="soft")
        batches, _ = train(data, Supervised(3, **SMALL, soft_targets=True))
        for batch in batches:
            assert torch.equal(batch.labeled.probs, data.labeled.probs[batch.labeled.index])
            assert batch.unlabeled is None

    def test_split_file_repeats_them(self):
        write_table("t.csv", soft_table(LABELED), str, CLASSES)
        first = make(pseudo_column="soft")
        save_split("split.json", first.split, N, first.pseudo)
        again = make("split.json", pseudo_column="soft", labels_file="split.json",
                     num_labels=None, val_per_class=None)  # fmt: skip
        for values, repeated in zip(first.labeled, again.labeled, strict=True):
            assert torch.equal(values, repeated)
        record = first.state_dict()
        assert again.state_dict()["pseudo_labels"] == record["pseudo_labels"]
        # Other probabilities are other labels, even where their classes are the same.
        changed = first.pseudo.probs.clone()
        changed[0] = (changed[0] + 0.01).div(1.03)
        other = first.pseudo._replace(probs=changed)
        assert digest(*other) != record["pseudo_labels"]
        assert make().state_dict()["pseudo_labels"] != record["pseudo_labels"]

    @pytest.mark.parametrize(
        ("options", "method", "message"),
        [
            ({"pseudo_column": "soft"}, "FixMatch", "'soft' needs a method .*got FixMatch"),
            ({}, "Supervised", "`model.soft_targets` true needs probabilities"),
            ({"pseudo_column": "averaged_label"}, "FixMatch", "needs a table of one checkpoint"),
            ({"pseudo_column": "soft", "pseudo_labels": "plain.csv"}, "Supervised",
             "needs a table of several checkpoints"),
            ({"pseudo_column": "soft", "pseudo_labels": "sum.csv"}, "Supervised",
             r"image 0: the probabilities of the classes must sum to 1, got 0\."),
            ({"pseudo_labels": "lacks.csv"}, "FixMatch", "missing: prob_blue"),
        ],
    )  # fmt: skip
    def test_bad_input(self, options, method, message):
        whole = soft_table(LABELED)
        write_table("t.csv", whole, str, CLASSES)
        write_table("plain.csv", table(LABELED), str, CLASSES)
        write_table("sum.csv", replace(whole, probs=whole.probs * 0.9), str, CLASSES)
        with open("t.csv", newline="") as file:
            lines = [row[:6] + row[7:] for row in csv.reader(file)]
        with open("lacks.csv", "w", newline="") as file:
            csv.writer(file).writerows(lines)
        path = options.pop("pseudo_labels", "t.csv")
        learner = {
            "Supervised": lambda: Supervised(3, **SMALL, soft_targets=True),
            "FixMatch": lambda: FixMatch(3, **SMALL),
        }
        with pytest.raises(ValueError, match=message):
            train(make(path, **options), learner[method]())


class Seen(pl.Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)


def train(data: SSLDataModule, method=None, steps: int = 6, **flags) -> tuple[list, dict]:
    """Batches and final weights."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    seen = Seen()
    torch.manual_seed(0)
    method = method or FixMatch(3, **SMALL, threshold=0.4)
    pl.Trainer(**(quiet | flags), callbacks=[seen], max_steps=steps).fit(method, data)
    return seen.batches, method.state_dict()


class TestTraining:
    @pytest.mark.parametrize("order", ["shuffled", "balanced"])
    def test_batches_carry_pixels_with_their_pseudo_label(self, written, order):
        data = make(labeled_order=order, views={"weak": torch.nn.Identity()})
        batches, _ = train(data, steps=8)
        seen = {}
        for batch in batches:
            for image, target, position in zip(
                batch.labeled.views["weak"][0],
                batch.labeled.target.tolist(),
                batch.labeled.index.tolist(),
                strict=True,
            ):
                row = int(data.labeled.rows[position])
                pixels = PIXELS[row].float() / 255
                mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
                torch.testing.assert_close(image, (pixels - mean) / std)
                seen[row] = target
            if order == "balanced":
                counts = torch.bincount(batch.labeled.target, minlength=3)
                assert int(counts.max() - counts.min()) <= 1
        for row, target in seen.items():
            known = TRUE if row in LABELED.tolist() else written.label
            assert target == int(known[row])
        assert len(seen) > 30
        hidden = batches[0].unlabeled
        assert hidden.target is None
        assert torch.equal(hidden.hidden_target, TRUE[data.split.unlabeled[hidden.index]])

    def test_hidden_classes_change_nothing(self, written):
        _, state = train(make())
        wrong = (TRUE + 1) % 3
        wrong[LABELED], wrong[HELD_OUT] = TRUE[LABELED], TRUE[HELD_OUT]
        Path("split.json").write_text(json.dumps({
            "num_train": N, "labeled": LABELED.tolist(), "val": HELD_OUT.tolist(),
        }))  # fmt: skip
        options = {"num_labels": None, "val_per_class": None, "labels_file": "split.json"}
        _, poisoned = train(make(targets=wrong, **options))
        assert all(torch.equal(value, poisoned[name]) for name, value in state.items())
        # The labels of the table do.
        write_table("t.csv", table(LABELED, seed=4), str, CLASSES)
        _, other = train(make())
        assert not all(torch.equal(value, other[name]) for name, value in state.items())

    def test_the_split_of_the_run_stands_in_for_the_table(self, written, tmp_path):
        data = make(pseudo_threshold=0.6, pseudo_column="averaged_label")
        train(data, steps=1, enable_checkpointing=True, default_root_dir=tmp_path)
        (stored,) = tmp_path.rglob("split.json")
        Path("t.csv").unlink()
        options = {"num_labels": None, "val_per_class": None, "labels_file": str(stored)}
        again = make(str(stored), **options)
        assert torch.equal(again.labeled.rows, data.labeled.rows)
        assert torch.equal(again.labeled.target, data.labeled.target)
        # As a list of labels alone it gives away no label that training had not.
        alone = make(None, **options)
        assert torch.equal(alone.labeled.rows, LABELED)
        with pytest.raises(ValueError, match=r"run on 9 labels.*choose other 12.*labels_file"):
            _ = make(str(stored), val_per_class=0).labeled


class TestResume:
    def test_the_same_labels_from_another_file(self, written):
        record = make().state_dict()
        Path("t.csv").rename("u.csv")
        data = make("u.csv")
        check_resumed(record, data.split, 0, (), data.state_dict()["pseudo_labels"])

    @pytest.mark.parametrize(
        "change", [{"path": None}, {"pseudo_threshold": 0.8}, {"pseudo_column": "averaged_label"}]
    )
    def test_others_are_refused(self, written, change):
        record = make().state_dict()
        data = make(**change)
        with pytest.raises(ValueError, match="trained on other pseudo-labels"):
            check_resumed(record, data.split, 0, (), data.state_dict()["pseudo_labels"])

    def test_a_checkpoint_from_before_there_were_any(self, written):
        record = make(None).state_dict()
        del record["pseudo_labels"]
        check_resumed(record, make(None).split, 0, ())
        with pytest.raises(ValueError, match="trained on other pseudo-labels"):
            check_resumed(record, make().split, 0, (), "digest")


def edit(old: str, new: str) -> None:
    text = Path("t.csv").read_text()
    assert old in text
    Path("t.csv").write_text(text.replace(old, new))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pseudo_threshold": 1.5}, r"`pseudo_threshold` .* must be in \[0, 1\], got 1.5"),
            ({"pseudo_threshold": -0.1}, r"must be in \[0, 1\], got -0.1"),
            ({"pseudo_column": "labels"}, "`pseudo_column` .*'averaged_label'.*, got 'labels'"),
            ({"path": None, "pseudo_threshold": 0.5}, "need a table, `pseudo_labels`"),
            ({"path": None, "pseudo_column": "averaged_label"}, "need a table"),
            ({"pseudo_threshold": 1.0}, "no pseudo-label .* at least 1.0: lower"),
            ({"num_labels": 15}, r"trained with 9 labels; .* choose 12, and \d+ images differ"),
            ({"seed": 1}, "trained with 9 labels; .* choose 9, and .*labels_file"),
        ],
    )
    def test_options(self, written, options, message):
        options = {"seed": 0} | options
        with pytest.raises(ValueError, match=message):
            _ = SSLDataModule.from_source(
                from_arrays(PIXELS, TRUE, classes=CLASSES),
                pseudo_labels=options.pop("path", "t.csv"),
                **({"num_labels": 12, "val_per_class": 1} | options),
            ).labeled

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("given", "gift", r"columns image,given.*unknown: gift; missing: given"),
            ("image,given", "image,image", "missing: given"),
            ("\n7,", "\n8,", "belongs to another data set: image 7 is '8' there and '7' here"),
            ("blue", "pink", r"column `\w+`, image \d+: 'pink' is none of the 3 classes"),
            (",0.", ",2.", r"`probability`, image 0: a probability must be in \[0, 1\], got '2\."),
            (",0.", ",a.", r"must be in \[0, 1\], got 'a\."),
            (",0.", ",nan0.", r"must be in \[0, 1\], got 'nan"),
            ("\n7,", "\n7,,", "line 9: the header has 6 columns, this line 7"),
            ("\n50,,,,,\n", "\n", "a table of 59 images, but this data set has 60"),
            ('dark"', 'dark"x', "cannot be read as CSV"),
        ],
    )
    def test_content(self, written, old, new, message):
        edit(old, new)
        with pytest.raises(ValueError, match=message):
            _ = make().labeled

    def test_other_files(self, written):
        with pytest.raises(FileNotFoundError, match=r"--data.pseudo_labels.*no file 'none.csv'"):
            _ = make("none.csv").labeled
        Path("empty.csv").touch()
        with pytest.raises(ValueError, match=r"'empty.csv' cannot be read as CSV"):
            _ = make("empty.csv").labeled
        Path("bytes.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"'bytes.csv' cannot be read as CSV"):
            _ = make("bytes.csv").labeled
        Path("t.csv").rename("t.parquet")
        with pytest.raises(ValueError, match=r"'t.parquet' cannot be read as Parquet"):
            _ = make("t.parquet").labeled
        Path("t.parquet").rename("t.txt")
        with pytest.raises(ValueError, match=r"must end in .csv or .parquet, got 't.txt'"):
            _ = make("t.txt").labeled

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_train": 61}, "split of 61 training images"),
            ({"pseudo_labels": None}, "must be a table or the split.json"),
            ({"pseudo_labels": {"images": [1, 2], "labels": [0]}}, "one pseudo-label for each"),
            ({"pseudo_labels": {"images": [2, 1], "labels": [0, 0]}}, "one pseudo-label for each"),
            ({"pseudo_labels": {"images": [60], "labels": [0]}}, r"not in \[0, 59\]"),
            ({"pseudo_labels": {"images": [1], "labels": [3]}}, r"not in \[0, 2\]"),
            ({"pseudo_labels": {"images": [1], "labels": ["a"]}}, "must be a table or"),
        ],
    )
    def test_damaged_split(self, change, message):
        content = {"num_train": N, "labeled": LABELED.tolist(), "val": HELD_OUT.tolist()}
        content["pseudo_labels"] = {"images": [], "labels": []}
        Path("split.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            _ = make("split.json").labeled
