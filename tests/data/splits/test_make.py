"""Which images are labelled, unlabelled and held out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.sources.images import FileImages
from lightning_ssl.data.splits import files as splits_files
from lightning_ssl.data.splits.make import (
    Split,
    label_counts,
    load_split,
    make_split,
    save_split,
    val_counts,
)

FIRST_LABELED = [4, 6, 12, 15, 17, 31, 38, 39]
FIRST_VAL = [97, 118, 195, 214, 253, 284, 361, 400]
BALANCED = torch.arange(1000) * 7 % 10  # 100 images of each of 10 classes, interleaved
SIZES = (600, 300, 90, 10)
LONG = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[
    torch.randperm(1000, generator=torch.Generator().manual_seed(1))
]


def counts(targets: torch.Tensor, indices: torch.Tensor) -> list[int]:
    return torch.bincount(targets[indices], minlength=int(targets.max()) + 1).tolist()


def same(a: Split, b: Split) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("labeled", "unlabeled", "val"))


class TestSelectors:
    def test_number_that_divides_is_balanced(self):
        split = make_split(BALANCED, 10, num_labels=40)
        assert counts(BALANCED, split.labeled) == [4] * 10
        assert split.unlabeled.tolist() == list(range(1000))
        assert split.val.tolist() == []
        assert split.labeled.dtype == split.val.dtype == torch.int64

    def test_balanced_even_where_classes_are_not(self):
        assert counts(LONG, make_split(LONG, 4, num_labels=16).labeled) == [4] * 4

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (101, [61, 30, 9, 1]),  # quotas 60.6 30.3 9.09 1.01
            (50, [30, 15, 4, 1]),  # 30 15 4.5 0.5: one at least, taken from who is above its quota
            (10, [5, 3, 1, 1]),  # 6 3 0.9 0.1
            (5, [2, 1, 1, 1]),  # 3 1.5 0.45 0.05
            (999, [599, 300, 90, 10]),
        ],
    )
    def test_other_numbers_are_proportional_by_largest_remainder(self, number, expected):
        assert label_counts(SIZES, num_labels=number).tolist() == expected
        split = make_split(LONG, 4, num_labels=number, val_per_class=0)
        assert counts(LONG, split.labeled) == expected

    def test_share_against_a_restatement(self):
        rng = np.random.default_rng(0)
        for _ in range(300):
            sizes = rng.integers(1, 60, rng.integers(2, 12))
            number = int(rng.integers(len(sizes), sizes.sum() + 1))
            if number % len(sizes) == 0:
                continue
            got = label_counts(sizes, num_labels=number)
            assert got.sum() == number
            assert (got >= 1).all()
            assert (got <= sizes).all()
            quota = number * sizes / sizes.sum()
            if (quota >= 1).all():
                assert (np.abs(got - quota) < 1).all()
                rounded_up = quota[got > np.floor(quota)] % 1
                rounded_down = quota[got == np.floor(quota)] % 1
                if rounded_up.size and rounded_down.size:
                    assert rounded_up.min() >= rounded_down.max() - 1e-9

    def test_labels_per_class(self):
        split = make_split(LONG, 4, labels_per_class=7)
        assert counts(LONG, split.labeled) == [7] * 4

    def test_no_selector_takes_all_known_labels(self):
        targets = torch.cat([BALANCED[:100], torch.full((50,), -1)])
        split = make_split(targets, 10)
        assert split.labeled.tolist() == list(range(100))
        assert split.unlabeled.tolist() == list(range(150))

    @pytest.mark.parametrize(
        ("fraction", "expected"),
        [(1.0, list(SIZES)), (0.1, [60, 30, 9, 1]), (0.012, [7, 3, 1, 1]), (0.01, [5, 3, 1, 1])],
    )
    def test_fraction_is_proportional(self, fraction, expected):
        split = make_split(LONG, 4, label_fraction=fraction, val_per_class=0)
        assert counts(LONG, split.labeled) == expected

    def test_fraction_stays_proportional_where_the_number_divides(self):
        assert label_counts(SIZES, label_fraction=0.1).tolist() == [60, 30, 9, 1]
        assert label_counts(SIZES, num_labels=40).tolist() == [10] * 4

    def test_fraction_is_rounded(self):
        assert label_counts(SIZES, label_fraction=0.0156).sum() == 16
        assert label_counts(SIZES, label_fraction=0.0154).sum() == 15

    def test_coin_flip_is_suncets_loop(self):
        for seed in (0, 3):
            generator = torch.Generator().manual_seed(seed)
            expected = [
                i
                for i in range(1000)
                if torch.bernoulli(torch.tensor(0.9), generator=generator) == 0
            ]
            split = make_split(
                BALANCED, 10, label_fraction=0.1, coin_flip=True, val_per_class=0, seed=seed
            )
            assert split.labeled.tolist() == expected

    def test_coin_flip_does_not_depend_on_the_chunks(self, monkeypatch):
        options = {"label_fraction": 0.3, "coin_flip": True}
        expected = make_split(BALANCED, 10, **options)
        monkeypatch.setattr("lightning_ssl.data.splits.make._CHUNK", 64)
        assert same(make_split(BALANCED, 10, **options), expected)

    def test_pool(self):
        pool = torch.arange(500, 700)
        split = make_split(BALANCED, 10, num_labels=40, pool=pool)
        assert counts(BALANCED, split.labeled) == [4] * 10
        assert set(split.labeled.tolist()) <= set(pool.tolist())
        assert len(split.unlabeled) == 1000
        assert make_split(BALANCED, 10, pool=pool).labeled.tolist() == pool.tolist()

    def test_unknown_labels_are_never_drawn(self):
        targets = BALANCED.clone()
        targets[:500] = -1
        assert int(make_split(targets, 10, num_labels=50).labeled.min()) >= 500

    def test_without_labelled_images_among_the_unlabelled(self):
        split = make_split(BALANCED, 10, num_labels=300, include_labeled=False)
        lists = [split.labeled, split.unlabeled, split.val]
        assert torch.cat(lists).sort().values.tolist() == list(range(1000))
        assert [len(part) for part in lists] == [270, 700, 30]


class TestHeldOut:
    @pytest.mark.parametrize(("labels", "held"), [(24, 0), (25, 2), (29, 2), (30, 3), (100, 10)])
    def test_default_is_a_tenth_from_25_labels_on(self, labels, held):
        split = make_split(BALANCED, 10, labels_per_class=labels)
        assert counts(BALANCED, split.val) == [held] * 10
        assert counts(BALANCED, split.labeled) == [labels - held] * 10
        both = set(split.labeled.tolist()) | set(split.unlabeled.tolist())
        assert not both & set(split.val.tolist())
        assert len(split.unlabeled) == 1000 - 10 * held
        chosen = make_split(BALANCED, 10, labels_per_class=labels, val_per_class=0).labeled
        assert torch.cat([split.labeled, split.val]).sort().values.tolist() == chosen.tolist()

    def test_the_smallest_class_decides(self):
        assert val_counts([600, 24]).tolist() == [0, 0]
        assert val_counts([600, 25]).tolist() == [60, 2]

    def test_own_number(self):
        split = make_split(LONG, 4, val_per_class=3)
        assert counts(LONG, split.val) == [3] * 4
        assert counts(LONG, split.labeled) == [597, 297, 87, 7]

    def test_nothing_where_the_data_set_has_its_own(self):
        assert len(make_split(BALANCED, 10, has_val=True).val) == 0
        assert len(make_split(BALANCED, 10, has_val=True, val_per_class=0).val) == 0
        with pytest.raises(ValueError, match=r"`val_per_class`.*of its own, got 3"):
            make_split(BALANCED, 10, has_val=True, val_per_class=3)

    def test_must_leave_a_label(self):
        with pytest.raises(ValueError, match=r"val_per_class.* 10 leaves no label of class 3"):
            make_split(LONG, 4, val_per_class=10)
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            make_split(LONG, 4, val_per_class=-1)

    def test_choice_depends_on_the_seed(self):
        splits = [make_split(BALANCED, 10, seed=seed) for seed in (0, 1)]
        assert not torch.equal(splits[0].val, splits[1].val)


class TestDeterminism:
    def test_same_seed_same_lists(self):
        assert same(
            make_split(BALANCED, 10, num_labels=300), make_split(BALANCED, 10, num_labels=300)
        )
        torch.manual_seed(5)
        before = torch.get_rng_state()
        assert same(
            make_split(BALANCED, 10, num_labels=40, seed=3),
            make_split(BALANCED, 10, num_labels=40, seed=3),
        )
        assert torch.equal(torch.get_rng_state(), before)

    def test_lists_never_change_between_versions(self):
        split = make_split(BALANCED, 10, num_labels=250)
        assert split.labeled[:8].tolist() == FIRST_LABELED
        assert split.val[:8].tolist() == FIRST_VAL

    def test_seeds_differ(self):
        lists = {tuple(make_split(BALANCED, 10, num_labels=40, seed=s).labeled.tolist())
                 for s in range(20)}  # fmt: skip
        assert len(lists) == 20

    def test_lists_of_a_seed_are_nested(self):
        small = make_split(BALANCED, 10, num_labels=40).labeled
        large = make_split(BALANCED, 10, num_labels=500, val_per_class=0).labeled
        assert set(small.tolist()) < set(large.tolist())

    def test_every_image_can_be_drawn_equally(self):
        drawn = torch.zeros(1000)
        for seed in range(400):
            drawn[make_split(BALANCED, 10, num_labels=100, seed=seed).labeled] += 1
        # binomial(400, 0.1): mean 40, deviation 6
        assert drawn.min() > 15
        assert drawn.max() < 70
        assert drawn.std().item() == pytest.approx(6, abs=0.6)

    def test_lists_increase(self):
        split = make_split(BALANCED, 10, num_labels=300, include_labeled=False)
        for part in (split.labeled, split.unlabeled, split.val):
            assert (part.diff() > 0).all()

    def test_many_classes(self):
        targets = torch.arange(80_000) % 40_000  # more than 16 bits hold
        split = make_split(targets, 40_000, labels_per_class=1)
        assert counts(targets, split.labeled) == [1] * 40_000


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_labels": 4, "labels_per_class": 1},
             "`num_labels` .--data.num_labels. and `labels_per_class` .--data.labels_per_class."),
            ({"label_fraction": 0.1, "labels_file": "x"}, "`label_fraction`.* and `labels_file`"),
            ({"num_labels": 1001}, "`num_labels`.* 1001 exceeds the 1000 known"),
            ({"num_labels": 3}, "`num_labels`.* 3 is less than one label for each of 4 classes"),
            ({"num_labels": 0}, "`num_labels`.* 0 is less than"),
            ({"num_labels": 44}, "44 needs 11 labels of class 3 .'d'., which has 10; 1 of 4"),
            ({"labels_per_class": 91}, "91 needs 91 labels of class 2 .'c'., which has 90; 2 of 4"),
            ({"labels_per_class": 0}, "`labels_per_class`.* must be positive, got 0"),
            ({"label_fraction": 0.0}, r"`label_fraction`.* must be in \(0, 1\], got 0.0"),
            ({"label_fraction": 1.5}, r"must be in \(0, 1\], got 1.5"),
            ({"label_fraction": 0.003}, r"0.003 \(3 labels\) is less than one label"),
            ({"coin_flip": True}, "`coin_flip`.* needs `label_fraction`"),
            ({"label_fraction": 0.002, "coin_flip": True}, "of 4 have none; the first: class"),
            ({"pool": torch.arange(4)}, "Every class needs a label"),
        ],
    )  # fmt: skip
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            make_split(LONG, 4, classes="abcd", **options)

    def test_class_without_known_label(self):
        with pytest.raises(ValueError, match=r"1 of 5 have none; the first: class 4"):
            make_split(LONG, 5, num_labels=10)

    def test_targets_out_of_range(self):
        with pytest.raises(ValueError, match=r"`targets` must be in \[-1, 2\], got 3"):
            make_split(LONG, 3)
        with pytest.raises(ValueError, match="got -2"):
            make_split(torch.tensor([0, -2]), 1)

    def test_pool_without_label(self):
        with pytest.raises(ValueError, match="`pool` lists 1 images whose label is not known"):
            make_split(torch.tensor([0, -1]), 1, pool=torch.tensor([0, 1]))


NAMES = [f"/root/train/c{BALANCED[i]}/n{i:04d}.png" for i in range(1000)]
CHOSEN = list(range(10, 40))[::-1]  # three per class; files need not be in order


class TestFiles:
    def check(self, path, names=NAMES, **options):
        split = make_split(BALANCED, 10, labels_file=path, names=names, **options)
        assert split.labeled.tolist() == sorted(CHOSEN)
        assert len(split.unlabeled) == 1000

    def test_npy(self, tmp_path):
        for dtype in (np.int64, np.int32, np.uint16):
            np.save(tmp_path / "a.npy", np.array(CHOSEN, dtype=dtype))
            self.check(tmp_path / "a.npy")

    def test_text_of_indices(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n".join(map(str, CHOSEN)) + "\n\n")
        self.check(tmp_path / "a.txt", names=None)

    @pytest.mark.parametrize("parts", [1, 2, 4])
    def test_text_of_names(self, tmp_path, parts):
        lines = ["/".join(NAMES[i].split("/")[-parts:]) for i in CHOSEN]
        (tmp_path / "a.txt").write_text("\r\n".join(lines))
        self.check(tmp_path / "a.txt")
        self.check(tmp_path / "a.txt", names=NAMES.__getitem__)
        self.check(str(tmp_path / "a.txt"), names=FileImages(NAMES, BALANCED))

    def test_s4l_json(self, tmp_path):
        names = [NAMES[i].split("/")[-1] for i in CHOSEN]
        (tmp_path / "label_map").write_text(json.dumps({"values": names}))
        self.check(tmp_path / "label_map")

    def test_s4l_list_of_imagenet(self, make_folder, tmp_path):
        """Synset after synset, random inside, names without folders, and no ending of the file."""
        synsets = {"n01440764": 5, "n01443537": 4, "n01484850": 6}
        root = make_folder({f"{p}/{s}": n for s, n in synsets.items() for p in ("train", "val")})
        for part in ("train", "val"):
            for path in sorted((root / part).rglob("*.png")):
                path.rename(path.with_name(f"{path.parent.name}_{int(path.stem)}.JPEG"))
        chosen = [f"{s}_{i}.JPEG" for s in synsets for i in np.random.permutation(4)[:2]]
        (tmp_path / "label_map_count_6_index_0").write_text(json.dumps({"values": chosen}))
        data = SSLDataModule(
            "imagenet", root=str(root), labels_file=tmp_path / "label_map_count_6_index_0"
        )
        names = {Path(data.source.train.name(i)).name for i in data.split.labeled}
        assert names == set(chosen)
        assert data.class_counts == [2, 2, 2]
        assert data.num_unlabeled == 15
        assert [data.train_name(i) for i in (0, 14)] == [
            "train/n01440764/n01440764_0.JPEG",
            "train/n01484850/n01484850_5.JPEG",
        ]

    def test_ambiguous_name_needs_its_folder(self, tmp_path):
        names = [f"/root/c{BALANCED[i]}/{i // 10:03d}.png" for i in range(1000)]
        (tmp_path / "a.txt").write_text("001.png\n")
        with pytest.raises(ValueError, match=r"'001.png'.*several images: .*List it with its"):
            make_split(BALANCED, 10, labels_file=tmp_path / "a.txt", names=names)
        lines = ["/".join(names[i].split("/")[-2:]) for i in CHOSEN]
        (tmp_path / "a.txt").write_text("\n".join(lines))
        self.check(tmp_path / "a.txt", names=names)

    def test_held_out_images_are_cut_from_a_list(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(300))
        split = make_split(BALANCED, 10, labels_file=tmp_path / "a.npy")
        assert counts(BALANCED, split.val) == [3] * 10
        assert len(split.labeled) == 270

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("1\n1000\n-1\n", r"2 indices are not in \[0, 999\].* the first: 1000"),
            ("1\n2\n1\n", "lists 1 images twice; the first: 1"),
            ("n0001.png\nn0001.png\n", "lists 1 images twice"),
            ("n0001.png\nx.png\ny.png", "2 of 3 file names are not among .* first: 'x.png'"),
            ("# labelled\n\n3\n4", "line 1: '# labelled' is no index, as most other lines are"),
            ("3\n4\n\n5,\n", "line 4: '5,' is no index"),
            ('{"values": ["x.png"]}', "1 of 1 file names"),
            ('{"other": []}', "`labels_file`.* must be a split written by this package"),
            ("[1, 2]", "`labels_file`.* must be a split"),
            ('{"values"', "`labels_file`.* must be a split"),
            (b"\xff\xfe\x00n", "`labels_file`.* must be a split"),
            ("", "Every class needs a label"),
            ("0\n", "9 of 10 have none; the first: class 1"),
        ],
    )
    def test_bad_content(self, tmp_path, content, message):
        path = tmp_path / "labels"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=message):
            make_split(BALANCED, 10, labels_file=path, names=NAMES)

    @pytest.mark.parametrize("array", [np.ones(3), np.ones((2, 2), dtype=int)])
    def test_bad_npy(self, tmp_path, array):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match="must hold a list of indices"):
            make_split(BALANCED, 10, labels_file=tmp_path / "a.npy")

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"--data.labels_file.*none.txt"):
            make_split(BALANCED, 10, labels_file=tmp_path / "none.txt")

    def test_names_where_images_have_none(self, tmp_path):
        (tmp_path / "a.txt").write_text("n0001.png\n")
        with pytest.raises(ValueError, match="only indices"):
            make_split(BALANCED, 10, labels_file=tmp_path / "a.txt")

    def test_listed_image_without_label(self, tmp_path):
        targets = torch.cat([BALANCED, torch.tensor([-1])])
        (tmp_path / "a.txt").write_text("\n".join(map(str, [*range(10), 1000])))
        with pytest.raises(ValueError, match=r"lists 1 images whose label is not known.* 1000"):
            make_split(targets, 10, labels_file=tmp_path / "a.txt")


class TestStored:
    @pytest.mark.parametrize("include", [True, False])
    @pytest.mark.parametrize("labels", [4, 30])
    def test_round_trip(self, tmp_path, include, labels):
        split = make_split(BALANCED, 10, labels_per_class=labels, include_labeled=include, seed=4)
        path = tmp_path / "new" / "split.json"
        save_split(path, split, 1000)
        assert same(load_split(path, 1000), split)
        assert same(make_split(BALANCED, 10, labels_file=path, seed=9), split)
        content = json.loads(path.read_text())
        assert content["num_train"] == 1000
        assert content["include_labeled"] is include
        assert len(content["val"]) == len(split.val)
        assert "unlabeled" not in content

    def test_labelled_images_can_be_left_out_later(self, tmp_path):
        save_split(tmp_path / "s", make_split(BALANCED, 10, num_labels=300), 1000)
        split = make_split(BALANCED, 10, labels_file=tmp_path / "s", include_labeled=False)
        assert len(split.unlabeled) == 700

    def test_holds_its_own_validation_images(self, tmp_path):
        save_split(tmp_path / "s", make_split(BALANCED, 10, num_labels=300), 1000)
        with pytest.raises(ValueError, match=r"`val_per_class`.* holds out 30 images.* got 0"):
            make_split(BALANCED, 10, labels_file=tmp_path / "s", val_per_class=0)

    def test_of_another_data_set(self, tmp_path):
        save_split(tmp_path / "s", make_split(BALANCED, 10), 1000)
        with pytest.raises(ValueError, match=r"split of 1000 training images.* has 999"):
            make_split(BALANCED[:999], 10, labels_file=tmp_path / "s")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"val": [1]}, "both labelled and held out"),
            ({"val": [1000]}, r"not in \[0, 999\]"),
            ({"labeled": ["a"]}, "must hold a list of indices"),
            ({"labeled": 3}, "must hold a list of indices"),
        ],
    )
    def test_damaged(self, tmp_path, change, message):
        content = {"num_train": 1000, "labeled": [0, 1], "val": [], "include_labeled": True}
        (tmp_path / "s").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            load_split(tmp_path / "s", 1000)

    def test_held_out_image_without_label(self, tmp_path):
        save_split(tmp_path / "s", make_split(BALANCED, 10, num_labels=300), 1000)
        targets = BALANCED.clone()
        targets[load_split(tmp_path / "s", 1000).val[:2]] = -1
        with pytest.raises(ValueError, match="lists 2 images whose label is not known"):
            make_split(targets, 10, labels_file=tmp_path / "s")

    def test_list_is_no_split(self, tmp_path):
        (tmp_path / "s").write_text("1\n2\n")
        with pytest.raises(ValueError, match="is a list of labels, not a split"):
            load_split(tmp_path / "s", 1000)

    def test_no_held_out_image_is_unlabelled(self, tmp_path):
        split = Split(torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([2]))
        with pytest.raises(
            ValueError, match=r"`split.unlabeled` must hold no image of `split.val`"
        ):
            save_split(tmp_path / "s", split, 5)
        assert not list(tmp_path.iterdir())

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        save_split(tmp_path / "s", make_split(BALANCED, 10, num_labels=40), 1000)
        before = (tmp_path / "s").read_text()

        def fail(content, file):
            file.write("{")
            raise OSError("disk full")

        monkeypatch.setattr(splits_files.json, "dump", fail)
        with pytest.raises(OSError, match="disk full"):
            save_split(tmp_path / "s", make_split(BALANCED, 10), 1000)
        assert (tmp_path / "s").read_text() == before
        assert [path.name for path in tmp_path.iterdir()] == ["s"]
