"""Images to predict: by one path, or in Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ssl.data.sources.given import GivenImages, images_at
from lightning_ssl.data.sources.images import BrokenImageError

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.fixture
def files() -> None:
    Path("photos/inner").mkdir(parents=True)
    for name in ("b.png", "inner/c.png"):
        Image.fromarray(PIXELS).save(f"photos/{name}")
    Path("photos/list.txt").write_text("inner/c.png\n\n b.png \n")
    Path("photos/table.csv").write_text("rank;path;note\n1;inner/c.png;x\n\n2;b.png;y\n")


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ("photos/b.png", ["b.png"]),
        ("photos", ["b.png", "inner/c.png"]),
        ("photos/list.txt", ["inner/c.png", "b.png"]),
        ("photos/table.csv", ["inner/c.png", "b.png"]),
    ],
)
@pytest.mark.usefixtures("files")
def test_a_path_means_images(root: str, found: list[str]) -> None:
    images = images_at(root, 3, True)
    assert [images.name(i) for i in range(len(images))] == [f"photos/{name}" for name in found]
    assert np.array_equal(images.decode(0), PIXELS)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "image\nb.png\n", "line 1: it must have one column path, got image"),
        ("a.csv", "label,path\nx\n", "line 2: `path` must be a file, got nothing"),
        ("a.csv", 'path\n"b\n', "it cannot be read as CSV"),
        ("a.txt", " \n", "'a.txt' must list images, got none"),
    ],
)
def test_lists_that_are_none(name: str, text: str, told: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(ValueError, match=told):
        images_at(name, 3, True)


def test_nothing_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"`images` must be an image, a folder .* 'no'"):
        images_at("no", 3, True, "images")


@pytest.mark.usefixtures("files")
def test_what_a_program_has_is_read_as_from_its_file() -> None:
    channels_first = torch.from_numpy(PIXELS).permute(2, 0, 1)
    given = [
        *("photos/b.png", Path("photos/b.png"), Image.open("photos/b.png"), PIXELS),
        *(PIXELS / 255, channels_first, channels_first.float() / 255),
        np.dstack([PIXELS, np.full((5, 7), 9, np.uint8)]),  # transparency is dropped
    ]
    images = GivenImages(given)
    assert [images.name(i) for i in (0, 1, 2, 7)] == ["photos/b.png", "photos/b.png", "2", "7"]
    assert all(np.array_equal(images.decode(i), PIXELS) for i in range(len(given)))
    gray = GivenImages([PIXELS[:, :, 0], PIXELS[:, :, :1]])
    assert all(np.array_equal(gray.decode(i), PIXELS[:, :, [0, 0, 0]]) for i in (0, 1))

    tags = Image.Exif()
    tags[0x0112] = 6  # the camera was turned
    Image.fromarray(PIXELS).save("turned.png", exif=tags)
    turned = Image.open("turned.png")
    assert np.array_equal(
        GivenImages([turned], exif_orientation=True).decode(0), np.rot90(PIXELS, -1)
    )
    wide = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257)
    assert np.array_equal(GivenImages([wide], channels=1).decode(0), PIXELS[:, :, 0])


@pytest.mark.parametrize(
    ("image", "error", "told"),
    [
        (3, TypeError, r"`images\[1\]` must be the name .* got a int"),
        (PIXELS.astype(np.int64), ValueError, r"uint8, or floats in \[0, 1\], got int64"),
        (PIXELS / 52, ValueError, r"floats in \[0, 1\], got float64, from 0.0 to 2.0"),
        (PIXELS[:, :, :2], ValueError, r"with 1, 3 or 4 channels, got \(5, 7, 2\)"),
        (PIXELS[None], ValueError, r"got \(1, 5, 7, 3\)"),
        (PIXELS[:0], ValueError, "must have the shape"),
        (torch.tensor([[float("nan")]]), ValueError, r"floats in \[0, 1\]"),
    ],
)
def test_what_is_no_image(image: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        GivenImages([PIXELS, image])


def test_an_image_that_pillow_cannot_read_names_its_place() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:2000])
    with pytest.raises(BrokenImageError, match="Cannot read the image '1'"):
        GivenImages([PIXELS, Image.open("cut.png")]).decode(1)
