"""Lists of images in RAM and in files."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_ssl.data.sources.depth import warn_of_few_levels
from lightning_ssl.data.sources.images import (
    BrokenImageError,
    FileImages,
    ResidentImages,
    center_box,
    resize_center,
    to_tensor,
)
from lightning_ssl.data.sources.packed import PackedStrings


def files(folder: Path, targets: list[int] | None = None, channels: int = 3) -> FileImages:
    paths = sorted(str(path) for path in folder.rglob("*.*"))
    labels = torch.zeros(len(paths)) if targets is None else torch.tensor(targets)
    return FileImages(paths, labels.long(), channels)


def photo(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth image: a coarse random one, enlarged."""
    random_pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(random_pixels).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert(mode)


class TestPackedStrings:
    def test_is_the_list(self):
        strings = ["", "a/b.png", "ü/日本.png", "", "c" * 300, os.fsdecode(b"bad-\xff.png")]
        packed = PackedStrings(strings)
        assert list(packed) == strings
        assert packed[-2] == "c" * 300
        assert packed[1:3] == strings[1:3]
        assert list(pickle.loads(pickle.dumps(packed))) == strings

    @pytest.mark.parametrize("index", [2, -3])
    def test_index_out_of_range(self, index):
        with pytest.raises(IndexError):
            PackedStrings(["a", "b"])[index]

    def test_empty(self):
        assert list(PackedStrings([])) == []


class TestResidentImages:
    def test_deferred_reads_once_and_not_for_its_length(self):
        calls = []

        def read():
            calls.append(1)
            return torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)

        images = ResidentImages.deferred(3, read)
        assert len(images) == 3
        assert images.name(2) == "2"
        assert not calls
        assert images.pixels.shape == (3, 1, 2, 2)
        assert images.targets.tolist() == [0, 1, 2]
        assert len(calls) == 1

    def test_deferred_length_is_checked(self):
        images = ResidentImages.deferred(
            4, lambda: (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
        )
        with pytest.raises(ValueError, match="hold 3 images, but this data set has 4"):
            _ = images.targets

    def test_bad_arrays(self):
        with pytest.raises(ValueError, match=r"`pixels` must be uint8 .* got torch.float32"):
            ResidentImages(torch.zeros(3, 1, 2, 2), torch.arange(3))
        with pytest.raises(ValueError, match=r"`targets` must have one entry per image"):
            ResidentImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(2))


class TestDecode:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_png_modes(self, tmp_path, mode, channels):
        image = photo(6, 5, mode)
        image.save(tmp_path / "a.png")
        expected = image.convert("RGB" if channels == 3 else "L")
        decoded = files(tmp_path, channels=channels).decode(0)
        assert decoded.mode == expected.mode
        assert np.array_equal(np.asarray(decoded), np.asarray(expected))

    def test_cmyk_jpeg(self, tmp_path):
        photo(8, 8, "CMYK").save(tmp_path / "a.jpg")
        assert files(tmp_path).decode(0).mode == "RGB"

    @pytest.mark.filterwarnings("error")
    def test_palette_with_transparency_does_not_warn(self, tmp_path):
        photo(6, 5, "P").save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
        assert files(tmp_path).decode(0).mode == "RGB"

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_gray_is_scaled_not_clipped(self, tmp_path, suffix):
        wide = np.array([[0, 256, 257], [32768, 65278, 65535]], dtype=np.uint16)
        Image.fromarray(wide).save(tmp_path / f"a.{suffix}")
        gray = np.asarray(files(tmp_path, channels=1).decode(0))
        assert gray.tolist() == [[0, 1, 1], [128, 254, 255]]
        assert np.asarray(files(tmp_path).decode(0))[1, 0].tolist() == [128] * 3

    def test_floating_point_pixels_are_refused(self, tmp_path):
        Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(BrokenImageError, match=r"a\.tif.*floating-point"):
            files(tmp_path).decode(0)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "mpo"])
    @pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9, 77])
    def test_exif_orientation(self, tmp_path, suffix, orientation):
        exif = Image.Exif()
        exif[274] = orientation
        photo(16, 8).save(tmp_path / f"a.{suffix}", exif=exif)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert upright.shape == ((16, 8, 3) if orientation in (5, 6, 7, 8) else (8, 16, 3))
        images = files(tmp_path)
        if suffix != "tif":  # which Pillow always turns
            assert images.decode(0).size == (16, 8)
        images.exif_orientation = True
        assert np.array_equal(np.asarray(images.decode(0)), upright)

    @pytest.mark.parametrize(
        "damaged", [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0no", b"\xff" * 9]
    )
    def test_damaged_exif_data_turn_nothing(self, tmp_path, damaged):
        photo(16, 8).save(tmp_path / "a.jpg", exif=damaged)
        images = files(tmp_path)
        images.exif_orientation = True
        assert images.decode(0).size == (16, 8)

    @pytest.mark.parametrize("value", [-1, 65536])
    def test_integers_beyond_16_bits_are_refused(self, tmp_path, value):
        Image.fromarray(np.full((3, 3), value, dtype=np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(BrokenImageError, match=rf"a\.tif.*{value}, beyond 16 bits"):
            files(tmp_path).decode(0)

    def test_heic(self, tmp_path):
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(photo(64, 48)).save(tmp_path / "a.heic")
        assert files(tmp_path).decode(0).size == (64, 48)

    def test_heic_without_the_extra(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lightning_ssl.data.sources.decoding.heif_is_installed", lambda: False)
        (tmp_path / "a.heic").write_bytes(b"some")
        with pytest.raises(BrokenImageError, match=r"a\.heic.*lightning_ssl\[heic\]"):
            files(tmp_path).decode(0)

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
    def test_what_is_no_regular_file_does_not_hang(self, tmp_path, make):
        make(tmp_path / "a.png")
        with pytest.raises(BrokenImageError, match=r"a\.png"):
            FileImages([str(tmp_path / "a.png")], torch.zeros(1)).decode(0)

    def test_name_is_the_path(self, tmp_path):
        photo(4, 4).save(tmp_path / "a.png")
        assert files(tmp_path).name(0) == str(tmp_path / "a.png")


def broken_bytes(kind: str, suffix: str, folder: Path) -> bytes:
    photo(64, 64, seed=1).save(folder / f"whole.{suffix}")
    whole = (folder / f"whole.{suffix}").read_bytes()
    (folder / f"whole.{suffix}").unlink()
    return {"empty": b"", "text": b"no image", "truncated": whole[: len(whole) // 2]}[kind]


class TestBroken:
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
    @pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
    def test_error_holds_the_path(self, tmp_path, kind, suffix):
        (tmp_path / f"a.{suffix}").write_bytes(broken_bytes(kind, suffix, tmp_path))
        with pytest.raises(BrokenImageError, match=rf"a\.{suffix}") as caught:
            files(tmp_path).decode(0)
        assert caught.value.path == str(tmp_path / f"a.{suffix}")

    def test_missing_file(self):
        images = FileImages(["/nowhere/a.png"], torch.zeros(1))
        with pytest.raises(BrokenImageError, match=r"/nowhere/a.png"):
            images.decode(0)

    def test_survives_pickling_and_a_message(self):
        error = BrokenImageError("/x/it's.png", "OSError: no")
        for copy in (pickle.loads(pickle.dumps(error)), BrokenImageError(f"In worker 0: {error}")):
            assert copy.path == "/x/it's.png"
            assert "OSError: no" in str(copy)

    def test_survives_a_worker(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no image")
        loader = DataLoader(
            range(1), batch_size=None, num_workers=1, collate_fn=files(tmp_path).decode
        )
        with pytest.raises(BrokenImageError) as caught:
            next(iter(loader))
        assert caught.value.path == str(tmp_path / "a.png")


class TestFewLevels:
    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_12_bits_in_16_warn(self, tmp_path, suffix):
        pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
        with pytest.warns(UserWarning, match=rf"a\.{suffix}' use 17 of 256 .* 4095 of 65535"):
            warn_of_few_levels(files(tmp_path))

    @pytest.mark.filterwarnings("error")
    def test_others_do_not_warn(self, tmp_path):
        photo(6, 5).point(lambda value: value // 32).save(tmp_path / "dark.png")
        (tmp_path / "broken.png").write_bytes(b"no image")
        warn_of_few_levels(files(tmp_path))
        Image.fromarray(np.array([[40000]], dtype=np.uint16)).save(tmp_path / "a.png")
        Image.fromarray(np.array([[40]], dtype=np.uint16)).save(tmp_path / "b.png")
        warn_of_few_levels(files(tmp_path))


class TestLoad:
    def test_pixels_targets_and_names(self, make_folder):
        root = make_folder({"x": 150})  # more than two tasks of the thread pool
        images = files(root, targets=list(range(150)))
        loaded = images.load(8, num_threads=3)
        assert loaded.pixels.shape == (150, 3, 8, 8)
        assert loaded.pixels[:, 0, 0, 0].tolist() == list(range(150))
        assert loaded.targets.tolist() == list(range(150))
        assert loaded.name(3) == images.paths[3]

    def test_is_the_evaluation_geometry(self, tmp_path):
        for i, size in enumerate([(40, 20), (32, 32), (33, 57)]):
            photo(*size, seed=i).save(tmp_path / f"{i}.png")
        images = files(tmp_path)
        loaded = images.load(16)
        for i in range(3):
            assert torch.equal(loaded.pixels[i], to_tensor(resize_center(images.decode(i), 16)))

    def test_gray(self, make_folder):
        loaded = files(make_folder({"x": 3}), channels=1).load(8)
        assert loaded.pixels[:, :, 0, 0].tolist() == [[0], [1], [2]]

    def test_broken_unlabelled_images_become_their_neighbours(self, make_folder):
        root = make_folder({"x": 6})
        for number in (1, 2, 5):
            (root / "x" / f"{number:03d}.png").write_bytes(b"no image")
        images = files(root, targets=[0, 1, 2, 3, 4, 5])
        replace_ok = torch.tensor([False, True, True, True, True, True])
        with pytest.warns(UserWarning, match=r"3 of 6 images.*001\.png.*002\.png") as caught:
            loaded = images.load(8, replace_ok=replace_ok)
        assert len(caught) == 1
        assert loaded.pixels[:, 0, 0, 0].tolist() == [
            0,
            3,
            3,
            3,
            4,
            3,
        ]  # past the end, never image 0
        assert loaded.targets.tolist() == [0, -1, -1, 3, 4, -1]
        assert images.targets.tolist() == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize("replace_ok", [None, torch.tensor([True, False, True])])
    def test_broken_labelled_image_is_an_error(self, make_folder, replace_ok):
        root = make_folder({"x": 3})
        (root / "x" / "001.png").write_bytes(b"no image")
        with pytest.raises(BrokenImageError, match=r"001\.png"):
            files(root).load(8, replace_ok=replace_ok)

    def test_all_broken(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(BrokenImageError, match="all 1 images"):
            files(tmp_path).load(8, replace_ok=torch.tensor([True]))


class TestGeometry:
    @pytest.mark.parametrize(
        ("image", "size", "box"),
        [
            ((32, 32), 32, (0, 0, 32, 32)),
            ((100, 50), 32, (25, 0, 75, 50)),
            ((50, 100), 64, (0, 25, 50, 75)),
            ((500, 256), 224, (138, 16, 362, 240)),  # short side 256, then the middle 224
            ((8, 8), 224, (0.5, 0.5, 7.5, 7.5)),
        ],
    )
    def test_box(self, image, size, box):
        assert center_box(*image, size) == pytest.approx(box)

    def test_box_never_leaves_the_image(self):
        numbers = random.Random(0)
        for _ in range(3000):
            width, height = numbers.randint(1, 700), numbers.randint(1, 700)
            left, top, right, bottom = center_box(width, height, numbers.randint(1, 300))
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height

    @pytest.mark.parametrize("size", [(640, 480), (333, 500), (501, 375), (257, 300), (400, 400)])
    def test_large_photo_is_resize_256_and_crop_224(self, size):
        """On noise, of which a crop half a pixel away would be another one."""
        noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        expected = np.asarray(v2.CenterCrop(224)(v2.Resize(256)(image))).astype(int)
        got = np.asarray(resize_center(image, 224)).astype(int)
        assert np.abs(got - expected).max() <= 1

    def test_small_image_of_the_right_size_is_untouched(self):
        image = photo(32, 32)
        assert np.array_equal(np.asarray(resize_center(image, 32)), np.asarray(image))

    def test_shrinking_is_antialiased(self):
        stripes = np.zeros((64, 64), dtype=np.uint8)
        stripes[:, ::2] = 255
        small = np.asarray(resize_center(Image.fromarray(stripes), 16))
        assert small.min() > 100
        assert small.max() < 155

    def test_to_tensor(self):
        image = photo(5, 3)
        tensor = to_tensor(image)
        assert tensor.dtype == torch.uint8
        assert tensor.shape == (3, 3, 5)
        assert tuple(tensor[:, 2, 4].tolist()) == image.getpixel((4, 2))
        assert to_tensor(image.convert("L")).shape == (1, 3, 5)
