"""Data sets by name, from arrays, from folders and CSVs."""

import gzip
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from sklearn.datasets import load_digits

from lightning_ssl.data.sources.arrays import from_arrays
from lightning_ssl.data.sources.decoding import HEIF_SUFFIXES
from lightning_ssl.data.sources.images import BrokenImageError, FileImages, ResidentImages
from lightning_ssl.data.sources.listing import SUFFIXES
from lightning_ssl.data.sources.named import DATASETS, open_source, prepare_source

CIFAR10_ROOT = os.environ.get("CIFAR10_ROOT")


def relative(images: FileImages, root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in images.paths]


class TestArguments:
    def test_unknown_dataset(self):
        with pytest.raises(ValueError, match=r"`dataset`.*--data.dataset.*cifar10.*Did you mean"):
            open_source("cifar-10", "/x")
        with pytest.raises(ValueError, match="got 'q'"):
            prepare_source("q")

    @pytest.mark.parametrize("dataset", [d for d in DATASETS if d != "digits"])
    def test_root_is_needed(self, dataset):
        with pytest.raises((ValueError, FileNotFoundError), match=r"`root` \(--data.root\)"):
            open_source(dataset)

    @pytest.mark.parametrize(
        ("options", "flag"),
        [
            ({"in_channels": 2}, "in_channels"),
            ({"image_size": 0}, "image_size"),
            ({"classes": ["a"]}, "classes"),
            ({"extra": True}, "extra"),
            ({"fold": 1}, "fold"),
        ],
    )
    def test_bad_options(self, options, flag):
        with pytest.raises(ValueError, match=f"`{flag}` .--data.{flag}.*got"):
            open_source("digits", **options)

    def test_fold_out_of_range(self):
        with pytest.raises(ValueError, match=r"`fold` .*\[0, 9\], got 10"):
            open_source("stl10", "/x", fold=10)

    def test_prepare_needs_nothing_for_own_files(self):
        prepare_source("digits")
        prepare_source("folder", "/nowhere", download=True)


class TestDigits:
    def test_split_and_values(self):
        source = open_source("digits")
        digits = load_digits()
        assert (source.num_train, source.num_classes, source.size) == (1437, 10, 8)
        assert source.test is not None
        assert len(source.test) == 360
        assert source.val is None
        assert not source.hflip
        assert source.labeled is None
        assert source.train.targets.tolist() == digits.target[:1437].tolist()
        assert source.test.targets.tolist() == digits.target[1437:].tolist()
        pixels = source.train.pixels
        assert pixels.shape == (1437, 3, 8, 8)
        assert (pixels.min(), pixels.max()) == (0, 255)
        expected = [round(v * 255 / 16) for v in digits.images[5].ravel()]
        assert pixels[5, 2].flatten().tolist() == expected

    def test_constants_are_those_of_the_training_pixels(self):
        source = open_source("digits", in_channels=1)
        pixels = source.train.pixels.double() / 255
        assert pixels.shape[1] == 1
        assert source.mean == pytest.approx([pixels.mean().item()], abs=1e-4)
        assert source.std == pytest.approx([pixels.std(unbiased=False).item()], abs=1e-4)
        assert open_source("digits").mean == source.mean * 3

    def test_counts(self):
        source = open_source("digits")
        assert sum(source.class_counts) == 1437
        assert source.class_counts[:3] == (143, 146, 142)

    def test_image_size(self):
        source = open_source("digits", image_size=32)
        assert source.size == 32
        assert source.train.pixels.shape == (1437, 3, 32, 32)
        means = [s.train.pixels.double().mean() for s in (source, open_source("digits"))]
        assert means[0] == pytest.approx(means[1], abs=1.0)


class TestArrays:
    def test_numpy_channels_last_with_unknown_labels(self):
        images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
        source = from_arrays(
            images, [0, 1, -1, 1, -1, 0], val=(images[:2], [0, 1]), classes=["a", "b"]
        )
        assert source.train.pixels.shape == (6, 3, 5, 5)
        assert source.train.pixels[1, 2, 3, 4] == images[1, 3, 4, 2]
        assert source.classes == ("a", "b")
        assert source.class_counts == (2, 2)
        assert source.val is not None
        assert source.test is None
        assert source.mean == pytest.approx(images.mean((0, 1, 2)) / 255)
        assert source.std == pytest.approx(images.std((0, 1, 2)) / 255)

    def test_gray_stays_gray_unless_asked(self):
        images = torch.randint(0, 256, (4, 6, 6), dtype=torch.uint8)
        assert from_arrays(images, torch.zeros(4).long()).channels == 1
        rgb = from_arrays(images, torch.zeros(4).long(), in_channels=3, mean=(0.5,), std=(0.2,))
        assert torch.equal(rgb.train.pixels[:, 2], images)
        assert (rgb.mean, rgb.std) == ((0.5,) * 3, (0.2,) * 3)

    def test_colour_to_gray_is_pillows(self):
        from PIL import Image

        images = torch.randint(0, 256, (3, 6, 6, 3), dtype=torch.uint8)
        source = from_arrays(images, [0, 0, 0], in_channels=1)
        for got, image in zip(source.train.pixels, images.numpy(), strict=True):
            assert np.array_equal(got[0], np.asarray(Image.fromarray(image).convert("L")))

    @pytest.mark.parametrize(
        ("images", "targets", "message"),
        [
            (torch.zeros(2, 3, 4, 4), [0, 1], "`images` must be square uint8.*float32"),
            (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), [0, 1], r"square.*\(2, 3, 4, 5\)"),
            (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), [0, 1], "1 or 3 channels"),
            (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [], "must be square uint8 images"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, -2], r"in \[-1, 0\], got -2"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0.0, 1.0], "must be integers"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1, 1], "one entry per image"),
        ],
    )
    def test_bad_arrays(self, images, targets, message):
        with pytest.raises(ValueError, match=message):
            from_arrays(images, targets)

    def test_held_out_images_need_labels(self):
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        with pytest.raises(ValueError, match=r"\[0, 1\], got -1"):
            from_arrays(images, [0, 1], test=(images, [0, -1]))


class TestFolder:
    def test_train_layout(self, make_folder):
        root = make_folder(
            {"train/dog": 2, "train/cat": 3, "val/cat": 1, "val/dog": 1, "test/cat": 1,
             "test/dog": 2}
        )  # fmt: skip
        source = open_source("folder", root)
        assert source.classes == ("cat", "dog")
        assert source.labeled is None
        assert source.train.targets.tolist() == [0, 0, 0, 1, 1]
        assert relative(source.train, root)[2:4] == ["train/cat/002.png", "train/dog/000.png"]
        assert source.class_counts == (3, 2)
        assert (len(source.val), len(source.test)) == (2, 3)
        assert (source.size, source.channels, source.hflip) == (8, 3, True)

    def test_labeled_and_unlabeled_layout(self, make_folder):
        root = make_folder(
            {"labeled/b": 1, "labeled/a": 2, "unlabeled": 2, "unlabeled/x/deep": 1,
             "unlabeled/a": 1}
        )  # fmt: skip
        source = open_source("folder", root)
        assert source.classes == ("a", "b")
        assert source.labeled.tolist() == [0, 1, 2]
        assert source.train.targets.tolist() == [0, 0, 1, -1, -1, -1, -1]
        assert relative(source.train, root)[3:] == [
            "unlabeled/000.png",
            "unlabeled/001.png",
            "unlabeled/a/000.png",
            "unlabeled/x/deep/000.png",
        ]
        assert source.val is None
        assert source.test is None

    def test_train_with_further_unlabelled_images(self, make_folder):
        source = open_source("folder", make_folder({"train/a": 1, "train/b": 1, "unlabeled": 2}))
        assert source.train.targets.tolist() == [0, 1, -1, -1]
        assert source.labeled is None

    def test_hidden_files_other_files_and_nesting(self, make_folder):
        root = make_folder({"train/a": 1, "train/a/.cache": 1, "train/a/b": 1, "train/.git": 1})
        (root / "train/a/notes.txt").write_text("no image")
        (root / "train/a/.hidden.png").write_bytes(b"no image")
        (root / "train/a/000.png").rename(root / "train/a/BIG.PNG")
        (root / "train/LICENSE").write_text("no image")
        source = open_source("folder", root)
        assert source.classes == ("a",)
        assert relative(source.train, root) == ["train/a/BIG.PNG", "train/a/b/000.png"]

    def test_order_does_not_depend_on_the_file_system(self, make_folder, monkeypatch):
        root = make_folder({"train/b": 2, "train/a": 2, "train/B": 1})
        scandir = os.scandir

        class Reversed:
            def __init__(self, folder):
                self.entries = sorted(scandir(folder), key=lambda e: e.name, reverse=True)

            def __enter__(self):
                return iter(self.entries)

            def __exit__(self, *_):
                pass

        expected = relative(open_source("folder", root).train, root)
        monkeypatch.setattr(os, "scandir", Reversed)
        assert relative(open_source("folder", root).train, root) == expected == sorted(expected)

    def test_classes_fix_the_order(self, make_folder):
        root = make_folder({"train/a": 1, "train/b": 2, "val/a": 1, "val/b": 1})
        source = open_source("folder", root, classes=["b", "a"])
        assert source.classes == ("b", "a")
        assert source.class_counts == (2, 1)
        assert relative(source.train, root)[0] == "train/b/000.png"
        assert relative(source.val, root)[0] == "val/b/000.png"

    def test_given_classes_must_match(self, make_folder):
        root = make_folder({"train/a": 1, "train/b": 1})
        with pytest.raises(ValueError, match="missing: c; unknown: b"):
            open_source("folder", root, classes=["a", "c"])
        with pytest.raises(ValueError, match=r"`classes`.*twice: a"):
            open_source("folder", root, classes=["a", "b", "a"])

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_held_out_classes_must_match(self, make_folder, part):
        root = make_folder({"labeled/a": 1, "labeled/b": 1, "unlabeled": 1, f"{part}/a": 1,
                            f"{part}/bb": 1})  # fmt: skip
        with pytest.raises(ValueError, match=f"{part}' differ.*missing: b; unknown: bb"):
            open_source("folder", root)

    @pytest.mark.parametrize(
        "tree",
        [{"a": 1, "b": 1}, {"labeled/a": 1}, {"train/a": 1, "labeled/a": 1, "unlabeled": 1}, {}],
    )
    def test_neither_layout(self, make_folder, tree, tmp_path):
        root = make_folder(tree)
        with pytest.raises(FileNotFoundError) as caught:
            open_source("folder", root)
        message = str(caught.value)
        assert "ROOT/train/<class>" in message
        assert "ROOT/labeled/<class>" in message
        found = sorted({folder.split("/")[0] + "/" for folder in tree})
        assert (", ".join(found) or "does not exist") in message

    def test_class_without_images(self, make_folder):
        root = make_folder({"train/a": 1, "train/b": 0, "train/c": 0})
        with pytest.raises(FileNotFoundError, match=r"no images.*: b, c"):
            open_source("folder", root)

    def test_no_classes(self, make_folder):
        with pytest.raises(FileNotFoundError, match="one folder per class, but has none"):
            open_source("folder", make_folder({"train": 0}))

    def test_images_beside_the_classes(self, make_folder):
        with pytest.raises(ValueError, match=r"images lie in it: 000\.png, 001\.png"):
            open_source("folder", make_folder({"train/a": 1, "train": 2}))

    def test_nothing_unlabelled(self, make_folder):
        with pytest.raises(FileNotFoundError, match=r"found none in .*unlabeled"):
            open_source("folder", make_folder({"labeled/a": 1, "unlabeled/x": 0}))

    @pytest.mark.parametrize(
        ("size", "expected"), [((48, 32), 32), ((64, 64), 64), ((80, 65), 224), ((500, 60), 60)]
    )
    def test_size_from_the_header(self, make_folder, size, expected):
        root = make_folder({"train/a": 1}, size=size)
        assert open_source("folder", root).size == expected
        assert open_source("folder", root, image_size=100).size == 100

    def test_size_when_the_first_images_are_broken(self, make_folder):
        root = make_folder({"train/a": 3})
        (root / "train/a/000.png").write_bytes(b"no image")
        assert open_source("folder", root).size == 8
        for path in root.rglob("*.png"):
            path.write_bytes(b"no image")
        with pytest.raises(BrokenImageError, match=r"--data.image_size"):
            open_source("folder", root)

    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ([(20, 20), (300, 400), (300, 300), (500, 300)], 224),
            ([(300, 300), (20, 20), (30, 30)], 30),
            ([(1, 200), (32, 32), (32, 40)], 32),
            ([(200, 1), (900, 900), (800, 900)], 224),
        ],
    )
    def test_one_image_does_not_decide_the_size(self, tmp_path, sizes, expected):
        for i, size in enumerate(sizes):
            (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(tmp_path / "train" / "a" / f"{i}.png")
        least = sizes.index(min(sizes, key=min))
        with pytest.warns(
            UserWarning, match=rf"{min(sizes[least])} \('.*{least}\.png'\).*to {expected};"
        ):
            assert open_source("folder", tmp_path).size == expected

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("sizes", [[(65, 70), (900, 500)], [(32, 32), (32, 60)]])
    def test_sizes_that_agree_do_not_warn(self, tmp_path, sizes):
        (tmp_path / "train" / "a").mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / "train" / "a" / f"{i}.png")
        assert open_source("folder", tmp_path).size == (224 if sizes[0][0] > 64 else 32)

    def test_strips_have_no_size(self, make_folder):
        root = make_folder({"train/a": 2}, size=(1, 200))
        with pytest.raises(
            ValueError, match=r"`image_size` \(--data.image_size\) must be given.* 1"
        ):
            open_source("folder", root)
        assert open_source("folder", root, image_size=32).size == 32

    def test_unlabelled_images_do_not_outvote_the_labelled_ones(self, make_folder):
        root = make_folder({"labeled/a": 3, "unlabeled": 1}, size=(32, 32))
        Image.new("RGB", (400, 400)).save(root / "unlabeled" / "x.png")
        with pytest.warns(UserWarning, match="400"):
            assert open_source("folder", root).size == 32

    def test_numeric_folders_sort_as_numbers(self, make_folder):
        root = make_folder({f"train/{name}": 1 for name in ("10", "9", "100", "1")})
        assert open_source("folder", root).classes == ("1", "9", "10", "100")
        (root / "train" / "10").rename(root / "train" / "10a")
        assert open_source("folder", root).classes == ("1", "100", "10a", "9")

    @pytest.mark.parametrize(
        "name", ["a.GIF", "a.jfif", "a.jpe", "a.avif", "a.jp2", "a.tga", "a.ico"]
    )
    def test_what_pillow_reads_is_listed_and_read(self, make_folder, name):
        if name == "a.avif" and not features.check("avif"):
            pytest.skip("this Pillow reads no AVIF")
        root = make_folder({"train/a": 1})
        Image.open(root / "train/a/000.png").save(root / "train/a" / name)
        source = open_source("folder", root)
        assert relative(source.train, root) == ["train/a/000.png", f"train/a/{name}"]
        assert source.train.decode(1).size == (8, 8)

    def test_every_format_of_pillow_is_listed_or_cannot_be_read(self):
        Image.init()
        known = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        # Without decoder, with the help of another program, or no image.
        no_images = {
            ".bufr",
            ".grib",
            ".h5",
            ".hdf",
            ".mpg",
            ".mpeg",
            ".eps",
            ".ps",
            ".wmf",
            ".emf",
            ".iim",
        }
        assert known - set(SUFFIXES) - set(HEIF_SUFFIXES) <= no_images

    def test_what_is_left_out_is_counted(self, make_folder, monkeypatch):
        monkeypatch.setattr("lightning_ssl.data.sources.listing.heif_is_installed", lambda: False)
        root = make_folder({"train/a": 1, "train/b": 1, "unlabeled": 1, "test/a": 1, "test/b": 1})
        for name in ("train/a/1.HEIC", "train/b/2.heic", "unlabeled/c.mp4", "test/a/LICENSE"):
            (root / name).write_bytes(b"x")
        os.mkfifo(root / "train/a/pipe.png")
        (root / "unlabeled" / "loop").symlink_to(root)
        with pytest.warns(UserWarning, match="Left out") as caught:
            assert open_source("folder", root).num_train == 3
        (said,) = [str(w.message) for w in caught]
        for part in ("2 .heic", "1 .mp4", "1 without extension", "1 pipes or devices",
                     "1 links in a circle", "lightning_ssl[heic]"):  # fmt: skip
            assert part in said
        (root / "train/a/000.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"no images: a\..*2 \.heic"):
            open_source("folder", root)

    def test_opening_reads_no_pixels(self, make_folder, monkeypatch):
        root = make_folder({"train/a": 2, "test/a": 1})
        monkeypatch.setattr(FileImages, "decode", lambda *_: pytest.fail("pixels were read"))
        assert open_source("folder", root, in_channels=1).mean == pytest.approx((0.449,))

    def test_listing_opens_no_file(self, tmp_path, monkeypatch):
        for name in ("a", "b"):
            (tmp_path / "train" / name).mkdir(parents=True)
            for i in range(50):
                os.mknod(tmp_path / "train" / name / f"{i}.jpg")

        def refuse(*args, **kwargs):
            raise AssertionError("a listing opened a file")

        monkeypatch.setattr("builtins.open", refuse)
        monkeypatch.setattr("PIL.Image.open", refuse)
        source = open_source("folder", tmp_path, image_size=32)
        monkeypatch.undo()
        assert source.num_train == 100


class TestImagenet:
    def test_val_is_the_test_set(self, make_folder):
        root = make_folder({"train/n01": 2, "train/n02": 1, "val/n01": 1, "val/n02": 1})
        source = open_source("imagenet", root)
        assert source.val is None
        assert len(source.test) == 2
        assert (source.size, source.classes) == (224, ("n01", "n02"))
        assert source.mean == (0.485, 0.456, 0.406)

    def test_missing_part(self, make_folder):
        with pytest.raises(FileNotFoundError, match=r"ROOT/val/<class>.*\n.*holds: train/"):
            open_source("imagenet", make_folder({"train/n01": 1}))


def write_csv(root: Path, text: str) -> Path:
    path = root / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


class TestCsv:
    def test_labels_and_splits(self, make_folder):
        root = make_folder({"x": 6, "y z": 1})
        path = write_csv(
            root,
            "label,path,split\ndog,x/000.png,train\ncat,x/001.png,train\n,x/002.png,train\n"
            'dog,x/003.png,val\ncat,x/004.png,test\ncat,x/005.png,train\ndog,"y z/000.png",train\n',
        )
        source = open_source("csv", path)
        assert source.classes == ("cat", "dog")
        assert source.train.targets.tolist() == [1, 0, -1, 0, 1]
        assert source.labeled.tolist() == [0, 1, 3, 4]
        assert source.class_counts == (2, 2)
        assert source.val.targets.tolist() == [1]
        assert relative(source.test, root) == ["x/004.png"]
        assert source.train.load(8).pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 5, 6]
        assert source.size == 8

    def test_without_split_and_with_byte_order_mark(self, make_folder):
        root = make_folder({"x": 4})
        path = root / "list.csv"
        rows = "".join(f"x/00{i}.png,{label}\r\n" for i, label in enumerate(["10", "9", "9", "10"]))
        path.write_bytes(b"\xef\xbb\xbfpath,label\r\n" + rows.encode())
        source = open_source("csv", path)
        assert source.classes == ("9", "10")  # numbers sort as numbers
        assert source.val is None
        assert source.test is None
        assert open_source("csv", path, classes=["10", "9"]).train.targets.tolist() == [0, 1, 1, 0]
        with pytest.raises(ValueError, match="missing: 8; unknown: 10"):
            open_source("csv", path, classes=["8", "9"])

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("path,class\nx/000.png,a\n", ValueError, "unknown: class; missing: label"),
            ("path,label,weight\nx/000.png,a,1\n", ValueError, r"line 1: .*\(unknown: weight\)"),
            ("path,label,label\nx/000.png,a,a\n", ValueError, r"line 1: .*\(twice: label\)"),
            ("", ValueError, "line 1: .*path,label.*got an empty line or file"),
            ("path,label\nx,a\n", FileNotFoundError, "line 2: .*, only a folder of that name"),
            ("path,label\nx/000.png,a\nx/9.png,a\n", FileNotFoundError, r"line 3: .*x/9\.png"),
            ("path,label\nq/000.png,a\n", FileNotFoundError, r"line 2: .*q/000\.png"),
            ("path,label\nx/000.png,\n", ValueError, "no training image with a label"),
            ("path,label\nx/000.png,a\nx/000.png,b\n", ValueError, "line 3: .* in line 2 already"),
            ("path,label\nx/000.png,a,b\n", ValueError, "line 2: the header has 2 columns"),
            ("path,label\nx/000.png\n", ValueError, "line 2: the header has 2 columns"),
            ("path,label,split\nx/000.png,a,dev\n", ValueError, "line 2: `split` .* got 'dev'"),
            (
                "path,label,split\nx/000.png,a,train\nx/001.png,b,val\n",
                ValueError,
                "line 3: a val image .* got 'b'",
            ),
            (
                "path,label,split\nx/000.png,a,train\nx/001.png,,test\n",
                ValueError,
                "line 3: a test image .* got ''",
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_errors(self, make_folder, text, error, message):
        path = write_csv(make_folder({"x": 2}), text)
        with pytest.raises(error, match=message):
            open_source("csv", path)

    @pytest.mark.parametrize(
        "mark",
        [
            "-1",
            "-1.0",
            "-9",
            "nan",
            "NaN",
            "-nan",
            "NA",
            "N/A",
            "#N/A",
            "<NA>",
            "null",
            "NULL",
            "NaT",
            "inf",
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_a_mark_for_no_label_is_no_class(self, make_folder, mark):
        text = f"path,label\nx/000.png,1\nx/001.png,{mark}\nx/002.png,1\nx/003.png,3.0\n"
        path = write_csv(make_folder({"x": 4}), text)
        with pytest.raises(
            ValueError,
            match=rf"list\.csv', line 3: '{mark.removesuffix('.0')}'.*empty.*--data\.classes",
        ):
            open_source("csv", path)
        classes = [mark, "1", "3"]
        assert open_source("csv", path, classes=classes).classes == (mark, "1", "3")

    @pytest.mark.parametrize("word", ["none", "None", "?", "unknown", "unlabelled", "-"])
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_a_word_that_may_be_a_class_warns(self, make_folder, word):
        path = write_csv(
            make_folder({"x": 3}), f"path,label\nx/000.png,a\nx/001.png,{word}\nx/002.png,a\n"
        )
        with pytest.warns(
            UserWarning, match=rf"'{re.escape(word)}' \(.*list\.csv', line 3\).*empty"
        ):
            assert set(open_source("csv", path).classes) == {"a", word}

    @pytest.mark.parametrize("sign", "\u2212\u2013\u2014\u2011\uff0d")
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_a_minus_sign_of_a_word_processor(self, make_folder, sign):
        path = write_csv(make_folder({"x": 2}), f"path,label\nx/000.png,1\nx/001.png,{sign}1\n")
        with pytest.raises(ValueError, match=rf"line 3: '{sign}1' looks like a mark"):
            open_source("csv", path)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Cat", "cat"),
            ("caf\u00e9", "cafe\u0301"),
            ("a b", "a  b"),
            ("ab", "a\u200bb"),
            ("01", "1"),
            ("\uff11", "1"),
            ("stra\u00dfe", "STRASSE"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_names_that_look_alike_warn(self, make_folder, one, other):
        text = f"path,label\nx/000.png,{one}\nx/001.png,{other}\nx/002.png,dog\n"
        path = write_csv(make_folder({"x": 3}), text)
        with pytest.warns(UserWarning, match="Taken for different classes: .* and ") as warned:
            names = open_source("csv", path).classes
        assert len(names) == 3
        said = next(str(w.message) for w in warned if "Taken" in str(w.message))
        assert repr(one) in said
        assert repr(other) in said
        assert "dog" not in said
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Taken for")
            open_source("csv", path, classes=names)  # who lists them means them

    def test_numbers_beside_words_that_look_alike_warn(self, make_folder):
        text = "path,label\nx/000.png,1\nx/001.png,1.0\nx/002.png,dog\n"
        with pytest.warns(UserWarning, match="'1' and '1.0'"):
            open_source("csv", write_csv(make_folder({"x": 3}), text))

    def test_a_mark_as_a_class_folder(self, make_folder):
        with pytest.raises(ValueError, match=r"train': '-1' looks like a mark.*ROOT/unlabeled"):
            open_source("folder", make_folder({"train/0": 1, "train/-1": 1}))

    @pytest.mark.parametrize(
        "text",
        [
            ",path,label\n0,x/000.png,3.0\n1,x/001.png,10.0\n2,x/002.png,3.0\n3,x/003.png,\n",
            "Unnamed: 0,path,label\n0,x/000.png,3\n1,x/001.png,10\n2,x/002.png,3.0\n3,x/003.png,\n",
            "index;path;label\n0;x/000.png;3\n1;x/001.png;10\n2;x/002.png;3\n3;x/003.png;\n",
            "path;label\r\nx/000.png;3\r\nx/001.png;10\r\nx/002.png;3\r\nx/003.png;\r\n\r\n",
            "path\tlabel\nx/000.png\t3\nx/001.png\t10\nx/002.png\t3\nx/003.png\t\n",
            "Path, Label\rx/000.png,3\rx/001.png,10\rx/002.png,3\rx/003.png,\r",
            '"path","label"\n"x/000.png","3"\n"x/001.png","10"\n"x/002.png","3"\n"x/003.png",""\n;;\n'.replace(
                ";;", ","
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_as_pandas_and_excel_write_it(self, make_folder, text):
        source = open_source("csv", write_csv(make_folder({"x": 4}), text))
        assert source.classes == ("3", "10")
        assert source.train.targets.tolist() == [0, 1, 0, -1]

    @pytest.mark.filterwarnings("ignore:.*one training image only")
    def test_classes_of_an_earlier_run_stay(self, make_folder):
        path = write_csv(make_folder({"x": 2}), "path,label\nx/000.png,3.0\nx/001.png,10.0\n")
        assert open_source("csv", path, classes=["10.0", "3.0"]).train.targets.tolist() == [1, 0]
        assert open_source("csv", path, classes=["10", "3"]).train.targets.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "path,label\nx/000.png,a\nü.png,b\n".encode("cp1252"),
                "line 3: the byte .* 'ü'.*save as UTF-8",
            ),
            (
                "path,label\nx/000.png,a\n".encode("utf-16"),
                "line 1: the text is UTF-16: save as UTF-8",
            ),
            (b"path,label\nx/0\x0000.png,a\n", "line 2: a zero byte"),
            (gzip.compress(b"path,label\n", mtime=0), "line 1: it is packed by gzip, no text"),
            (b"PK\x03\x04\x14\0\x06", r"line 1: it is a zip archive or a workbook .*\.xlsx"),
            (b'path,label\nx/000.png,"a\n', "line 2: it cannot be read as CSV"),
            (b"path,label\n,a\n", "line 2: `path` must be a file"),
        ],
    )
    def test_other_encodings_and_broken_lines(self, make_folder, content, message):
        path = make_folder({"x": 1}) / "list.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"list\.csv', {message}"):
            open_source("csv", path)

    def test_class_that_occurs_once(self, make_folder):
        path = write_csv(make_folder({"x": 3}), "path,label\nx/000.png,a\nx/001.png,a\nx/002.png,b")
        with pytest.warns(UserWarning, match="one training image only has the label: b"):
            open_source("csv", path)

    def test_no_such_csv(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"must be a CSV file, got"):
            open_source("csv", tmp_path)


@pytest.mark.skipif(CIFAR10_ROOT is None, reason="CIFAR10_ROOT is not set")
class TestRealImages:
    def test_cifar10_as_folders(self):
        source = open_source("folder", CIFAR10_ROOT)
        assert source.class_counts == (5000,) * 10
        assert (source.size, len(source.test)) == (32, 10_000)
        some = FileImages(source.train.paths[::50], source.train.targets[::50])
        loaded = some.load(source.size)
        assert isinstance(loaded, ResidentImages)
        mean = loaded.pixels.double().mean((0, 2, 3)) / 255
        assert mean.tolist() == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.02)
