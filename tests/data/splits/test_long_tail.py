"""Long tails of labelled and of unlabelled images."""

import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.data.pseudo.table import PseudoTable, write_table
from lightning_ssl.data.record import check_resumed
from lightning_ssl.data.splits.make import Split, label_counts, load_split, make_split, save_split
from lightning_ssl.data.splits.select import long_tail
from lightning_ssl.methods import FixMatch

BALANCED = torch.arange(2000) * 7 % 10  # 200 images of each of 10 classes, interleaved
LABELS = {"labels_per_class": 40, "imbalance_ratio": 10}
REST = {"unlabeled_per_class": 100, "unlabeled_imbalance_ratio": 50}
FIRST_UNLABELED = [10, 13, 29, 32, 33, 40, 50, 53]


def counts(indices: torch.Tensor, targets: torch.Tensor = BALANCED) -> list[int]:
    return torch.bincount(targets[indices], minlength=10).tolist()


def same(a: Split, b: Split) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("labeled", "unlabeled", "val"))


def others(split: Split) -> torch.Tensor:
    """Unlabelled images that are not labelled."""
    return torch.tensor(sorted({*split.unlabeled.tolist()} - {*split.labeled.tolist()}))


class TestProfile:
    @pytest.mark.parametrize("classes", [2, 10, 100])
    @pytest.mark.parametrize("ratio", [1, 2, 10, 20, 50, 100, 150])
    @pytest.mark.parametrize("largest", [150, 450, 500, 1000, 1500, 3000, 4000])
    def test_the_formula_in_integers(self, largest, ratio, classes):
        """n is the rounded-down size exactly if n^(C-1) g^k <= N^(C-1) < (n+1)^(C-1) g^k."""
        last = classes - 1
        for k, n in enumerate(long_tail(largest, ratio, classes).tolist()):
            assert n**last * ratio**k <= largest**last < (n + 1) ** last * ratio**k

    def test_published_sizes(self):
        """CIFAR-10 of DARP, ABC and DASO with 1,500 labels of the first class and ratio 100."""
        expected = [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
        assert long_tail(1500, 100, 10).tolist() == expected
        assert long_tail(3000, 100, 10).sum() == 7443

    def test_no_rounding_error_below_an_integer(self):
        assert long_tail(1000, 1000, 4).tolist() == [1000, 100, 10, 1]
        assert long_tail(125, 125, 4).tolist() == [125, 25, 5, 1]

    def test_reversed(self):
        for ratio in (2, 7.5, 100):
            assert (
                long_tail(300, 1 / ratio, 10).tolist() == long_tail(300, ratio, 10).tolist()[::-1]
            )
        assert long_tail(300, 0.01, 10)[[0, -1]].tolist() == [3, 300]


class TestLabelled:
    @pytest.mark.parametrize("ratio", [1, 3.3, 40, 0.1])
    def test_counts(self, ratio):
        options = {"labels_per_class": 40, "imbalance_ratio": ratio}
        split = make_split(BALANCED, 10, val_per_class=0, **options)
        assert counts(split.labeled) == long_tail(40, ratio, 10).tolist()
        assert label_counts([200] * 10, **options).tolist() == counts(split.labeled)
        assert split.unlabeled.tolist() == list(range(2000))

    def test_without_a_ratio_nothing_changes(self):
        split = make_split(BALANCED, 10, labels_per_class=4)
        assert same(split, make_split(BALANCED, 10, labels_per_class=4, imbalance_ratio=1))

    def test_the_smallest_class_decides_about_validation_images(self):
        assert counts(make_split(BALANCED, 10, **LABELS).val) == [0] * 10
        split = make_split(BALANCED, 10, labels_per_class=100, imbalance_ratio=4)
        sizes = long_tail(100, 4, 10)
        assert counts(split.val) == (sizes // 10).tolist()
        assert counts(split.labeled) == (sizes - sizes // 10).tolist()

    def test_lists_of_a_seed_are_nested(self):
        splits = [
            make_split(BALANCED, 10, labels_per_class=n, imbalance_ratio=r, val_per_class=0)
            for n, r in ((20, 10), (40, 10), (40, 2), (40, None))
        ]
        chosen = [{*split.labeled.tolist()} for split in splits]
        assert chosen[0] < chosen[1] < chosen[2] < chosen[3]


class TestUnlabelled:
    @pytest.mark.parametrize("ratio", [None, 2.5, 50, 0.02])
    @pytest.mark.parametrize("include", [True, False])
    def test_counts(self, ratio, include):
        options = REST | {"unlabeled_imbalance_ratio": ratio}
        split = make_split(
            BALANCED, 10, **LABELS, **options, val_per_class=1, include_labeled=include
        )
        sizes = long_tail(100, ratio or 1, 10)
        assert counts(others(split)) == sizes.tolist()
        labels = {*split.labeled.tolist()}
        inside = labels & {*split.unlabeled.tolist()}
        assert inside == (labels if include else set())
        assert not {*split.val.tolist()} & {*split.unlabeled.tolist()}
        assert (split.unlabeled.diff() > 0).all()
        assert split.unlabeled.dtype == torch.int64

    def test_the_labels_stay_what_they_are(self):
        split, whole = (make_split(BALANCED, 10, **LABELS, **rest) for rest in (REST, {}))
        assert torch.equal(split.labeled, whole.labeled)

    def test_of_all_that_is_left(self):
        options = {"labels_per_class": 40, "unlabeled_per_class": 160, "val_per_class": 0}
        split = make_split(BALANCED, 10, **options)
        assert same(split, make_split(BALANCED, 10, labels_per_class=40, val_per_class=0))

    def test_lists_of_a_seed_are_nested(self):
        chosen = [
            {*others(make_split(BALANCED, 10, **LABELS, unlabeled_per_class=n)).tolist()}
            for n in (10, 50, 120)
        ]
        assert chosen[0] < chosen[1] < chosen[2]

    def test_lists_never_change_between_versions(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        split = make_split(BALANCED, 10, **LABELS, **REST, include_labeled=False)
        assert torch.equal(torch.get_rng_state(), before)
        assert split.unlabeled[:8].tolist() == FIRST_UNLABELED
        seeds = {tuple(make_split(BALANCED, 10, **LABELS, **REST, seed=s).unlabeled.tolist())
                 for s in range(10)}  # fmt: skip
        assert len(seeds) == 10

    def test_every_image_can_be_drawn_equally(self):
        drawn, free = torch.zeros(2000), torch.zeros(2000)
        for seed in range(200):
            options = {"labels_per_class": 20, "unlabeled_per_class": 90, "include_labeled": False}
            split = make_split(BALANCED, 10, **options, seed=seed)
            drawn[split.unlabeled] += 1
            free += 1
            free[split.labeled] -= 1
        # binomial(about 180, 1/2): the deviation is 0.037
        assert (drawn / free - 0.5).abs().max() < 0.16
        assert (drawn / free).mean() == pytest.approx(0.5, abs=0.005)

    def test_beside_a_list_of_labels(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(100))
        split = make_split(BALANCED, 10, labels_file=tmp_path / "a.npy", **REST)
        assert split.labeled.tolist() == list(range(100))
        assert counts(others(split)) == long_tail(100, 50, 10).tolist()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"imbalance_ratio": 10}, r"`imbalance_ratio` .* needs `labels_per_class` \(--data"),
            ({"num_labels": 40, "imbalance_ratio": 10}, "needs `labels_per_class`"),
            ({"label_fraction": 0.5, "imbalance_ratio": 10}, "needs `labels_per_class`"),
            ({"labels_file": "x", "imbalance_ratio": 10}, "needs `labels_per_class`"),
            ({"labels_per_class": 9, "imbalance_ratio": 10}, "between 1/9 and 9, .* got 10"),
            ({"labels_per_class": 9, "imbalance_ratio": 0.1}, "between 1/9 and 9, .* got 0.1"),
            ({"labels_per_class": 9, "imbalance_ratio": 0}, "between 1/9 and 9, .* got 0"),
            ({"labels_per_class": 9, "imbalance_ratio": -2}, "got -2"),
            ({"labels_per_class": 9, "imbalance_ratio": float("nan")}, "got nan"),
            ({"labels_per_class": 201, "imbalance_ratio": 100}, "201 labels of class 0 .* has 200"),
            ({"unlabeled_imbalance_ratio": 9}, "`unlabeled_imb.* needs `unlabeled_per_class`"),
            ({"unlabeled_per_class": 0}, "`unlabeled_per_class` .* must be positive, got 0"),
            (
                {"unlabeled_per_class": 9, "unlabeled_imbalance_ratio": 10},
                r"`unlabeled_imbalance_ratio` \(--data.* between 1/9 and 9",
            ),
            (
                LABELS | {"unlabeled_per_class": 161},
                r"needs 161 images without label of class 0 \('a'\), which has 160; 1 of 10",
            ),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            make_split(BALANCED, 10, classes="abcdefghij", **options)

    def test_images_of_unknown_class(self):
        targets = torch.cat([BALANCED, torch.tensor([-1, -1])])
        with pytest.raises(ValueError, match=r"needs the class of every.* 2 of 2002 are not"):
            make_split(targets, 10, labels_per_class=4, unlabeled_per_class=5)


class TestStored:
    @pytest.mark.parametrize("include", [True, False])
    def test_round_trip(self, tmp_path, include):
        options = LABELS | REST | {"val_per_class": 1, "include_labeled": include, "seed": 4}
        split, path = make_split(BALANCED, 10, **options), tmp_path / "split.json"
        save_split(path, split, 2000)
        assert same(load_split(path, 2000), split)
        assert same(make_split(BALANCED, 10, labels_file=path, seed=9), split)
        assert json.loads(path.read_text())["include_labeled"] is include

    def test_labelled_images_can_be_left_out_later(self, tmp_path):
        split = make_split(BALANCED, 10, **LABELS, **REST)
        save_split(tmp_path / "s", split, 2000)
        later = make_split(BALANCED, 10, labels_file=tmp_path / "s", include_labeled=False)
        assert torch.equal(later.labeled, split.labeled)
        assert torch.equal(later.unlabeled, others(split))

    def test_holds_its_own_unlabelled_images(self, tmp_path):
        save_split(tmp_path / "s", make_split(BALANCED, 10, **LABELS, **REST), 2000)
        with pytest.raises(ValueError, match=r"`unlabeled_per_class` .* stored split.* got 5"):
            make_split(BALANCED, 10, labels_file=tmp_path / "s", unlabeled_per_class=5)

    @pytest.mark.parametrize(
        ("unlabeled", "message"),
        [
            ([3, 5], "both unlabelled and held out"),
            ([2000], r"not in \[0, 1999\]"),
            ([4, 4], "lists 1 images twice"),
            (7, "must hold a list of indices"),
        ],
    )
    def test_damaged(self, tmp_path, unlabeled, message):
        content = {"num_train": 2000, "labeled": [0, 1], "val": [5], "unlabeled": unlabeled}
        (tmp_path / "s").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_split(tmp_path / "s", 2000)


N = 200
TARGETS = torch.arange(N) % 4
GENERATOR = torch.Generator().manual_seed(1)
PIXELS = torch.randint(0, 256, (N, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8)
TAILS = {
    **{"labels_per_class": 8, "imbalance_ratio": 4},
    **{"unlabeled_per_class": 27, "unlabeled_imbalance_ratio": 0.037037037037037035},
}


def make(**options) -> SSLDataModule:
    source = from_arrays(PIXELS, TARGETS, test=(PIXELS[:6], TARGETS[:6]))
    sizes = {"batch_size": 4, "unlabeled_batch_size": 8}
    return SSLDataModule.from_source(source, **({"seed": 0} | sizes | TAILS | options))


class Seen(pl.Callback):
    def __init__(self):
        self.labeled, self.unlabeled = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.labeled.append(batch.labeled)
        self.unlabeled.append(batch.unlabeled)


@pytest.mark.filterwarnings(
    "ignore:`ema_decay`", "ignore:BatchNorm momentum", "ignore:The .*Loader"
)
class TestRuns:
    def test_training_sees_these_images_only(self, tmp_path):
        data, seen = make(views={"weak": torch.nn.Identity()}), Seen()
        assert data.class_counts == [8, 5, 3, 2]
        assert data.num_unlabeled == 18 + 1 + 3 + 9 + 27
        method = FixMatch(4, backbone="wrn_10_1", ema_decay=0)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(
            **quiet, accelerator="cpu", callbacks=[seen], max_steps=16, limit_val_batches=0,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(method, data)
        mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
        table = {bytes(image.flatten().tolist()): i for i, image in enumerate(PIXELS)}
        rows = {"labeled": set(), "unlabeled": set()}
        for part, found in rows.items():
            for samples in getattr(seen, part):
                pixels = ((samples.views["weak"][0] * std + mean) * 255).round().byte()
                found.update(table[bytes(image.flatten().tolist())] for image in pixels)
        assert rows["labeled"] == {*data.split.labeled.tolist()}
        assert rows["unlabeled"] == {*data.split.unlabeled.tolist()}
        (stored,) = tmp_path.rglob("split.json")
        again = make(**dict.fromkeys(TAILS), labels_file=str(stored))
        assert same(again.split, data.split)

    @pytest.mark.parametrize(
        "change",
        [
            {"unlabeled_per_class": 28},
            {"unlabeled_imbalance_ratio": 1},
            {"unlabeled_per_class": None, "unlabeled_imbalance_ratio": None},
            {"include_labeled": False},
        ],
    )
    def test_a_resumed_run_refuses_other_unlabelled_images(self, change):
        record, data = make().state_dict(), make(**change)
        check_resumed(record, make().split, 0, ())
        with pytest.raises(ValueError, match=r"other unlabelled images than .*split.json of its"):
            check_resumed(record, data.split, 0, ())
        del record["unlabeled"]  # a checkpoint from before it was kept
        check_resumed(record, data.split, 0, ())

    def test_only_unlabelled_images_get_a_pseudo_label(self):
        split = make().split
        given = torch.full((N,), -1)
        given[split.labeled] = TARGETS[split.labeled]
        sure, labels = torch.ones(N, dtype=torch.float64), torch.full((N,), 2)
        write_table("t.csv", PseudoTable(given, labels, sure, labels, sure), str, list("0123"))
        data = make(pseudo_labels="t.csv")
        assert torch.equal(data.pseudo.rows, others(split))
        assert {*data.labeled.rows.tolist()} == {*split.unlabeled.tolist()}
