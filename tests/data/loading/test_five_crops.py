"""Five crops against numpy's padding and torchvision's crops."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import five_crop, pil_to_tensor

from lightning_ssl.data.loading.five_crops import FiveCropFetch, shifted
from lightning_ssl.data.sources.images import FileImages, ResidentImages, resize_center, to_tensor


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [4, 8, 20, 32])
def test_shifts_are_corners_of_the_reflected_image(size):
    images = torch.randint(0, 256, (3, 2, size, size), dtype=torch.uint8)
    crops = shifted(images)
    pad, end = size // 8, 2 * (size // 8)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    assert torch.equal(crops[:, 0], images)
    for crop, (y, x) in enumerate([(0, 0), (0, end), (end, 0), (end, end)], start=1):
        expected = padded[:, :, y : y + size, x : x + size]
        np.testing.assert_array_equal(crops[:, crop].numpy(), expected)


def test_resident_images():
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    fetch = FiveCropFetch(ResidentImages(pixels, torch.zeros(6, dtype=torch.int64)), 16)
    crops, indices = fetch(torch.tensor([4, 1]))
    assert indices.tolist() == [4, 1]
    assert torch.equal(crops, shifted(pixels[[4, 1]]))


@pytest.mark.parametrize(("height", "width"), [(128, 160), (150, 128)])
def test_corners_of_photos(tmp_path, height, width):
    # With a short side of 256/224 of the crop nothing is resized, so pixels are only cut out.
    photo = noise(height, width)
    photo.save(tmp_path / "a.png")
    images = FileImages([str(tmp_path / "a.png")], torch.tensor([-1]))
    crops, _ = FiveCropFetch(images, 112)(torch.tensor([0]))
    *corners, center = (pil_to_tensor(crop) for crop in five_crop(photo, [112, 112]))
    for crop, expected in zip(crops[0], (center, *corners), strict=True):
        assert torch.equal(crop, expected)


def test_the_first_crop_is_what_evaluation_sees_and_broken_files_are_left_out(tmp_path):
    for name in ("a", "c"):
        noise(100, 70, seed=ord(name)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    images = FileImages(paths, torch.full((3,), -1))
    for size in (72, 32):
        crops, indices = FiveCropFetch(images, size)(torch.arange(3))
        assert indices.tolist() == [0, 2]
        for crop, index in zip(crops[:, 0], (0, 2), strict=True):
            assert torch.equal(crop, to_tensor(resize_center(images.decode(index), size)))
        if size == 32:
            assert torch.equal(crops, shifted(crops[:, 0]))
    crops, indices = FiveCropFetch(images, 72)(torch.tensor([1]))
    assert crops.shape == (0, 5, 3, 72, 72)
    assert len(indices) == 0
