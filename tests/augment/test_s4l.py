"""S4L's crop and colour noise: what they draw."""

import math

import pytest
import torch

from lightning_ssl.augment import Compose, HSVNoise, InceptionCrop, Views, color
from lightning_ssl.seeding import make_generator

N = 20_000


def boxes(height, width, n=N):
    crop = InceptionCrop(16)
    return crop.boxes(crop.draw(n, make_generator(0))["crop"], height, width).double()


@pytest.mark.parametrize(
    ("height", "width", "median"), [(375, 500, 0.354), (400, 400, 0.389), (32, 32, 0.389)]
)
def test_areas_are_those_of_tensorflow(height, width, median):
    top, left, h, w = boxes(height, width).unbind(1)
    area = h * w / (height * width)
    assert area.median().item() == pytest.approx(median, abs=0.01)
    assert 0.1 <= area.min() < 0.11
    assert 0.95 < area.max() <= 1
    assert ((top + h <= height) & (left + w <= width)).all()
    assert (top.min(), left.min(), (top + h).max(), (left + w).max()) == (0, 0, height, width)
    ratio = w / h
    assert 0.75 - 0.5 / h.min() <= ratio.min()
    assert ratio.max() <= 1.33 + 0.5 / h.min()


def test_of_a_shape_each_height_is_equally_likely():
    crop = InceptionCrop(16)
    u = crop.draw(N, make_generator(0))["crop"]
    u[:, :100] = (1 - 0.75) / 0.58  # width = height
    h = crop.boxes(u, 200, 200)[:, 2].double()
    low, high = math.ceil(0.1**0.5 * 200), 200
    assert (h.min(), h.max()) == (low, high)
    counts = h.long().bincount()[low:]
    expected = N / (high - low + 1)
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_a_panorama_that_no_box_covers_is_kept_whole():
    assert torch.equal(boxes(1000, 20, 10).unique(dim=0)[0], torch.tensor([0, 0, 1000, 20.0]))


def test_workers_cut_the_box_of_the_batch():
    views = Views({"labeled": {"weak": 2}}, 16, overrides={"weak": Compose([InceptionCrop(16)])})
    uniforms = views.worker_crops("labeled", 3, 0, 1, 5)["weak"]
    crop = views.crop("labeled", "weak")
    assert isinstance(crop, InceptionCrop)
    together = crop.boxes(uniforms.flatten(0, 1), 50, 40).tolist()
    alone = [crop.box(row, 50, 40) for row in uniforms.flatten(0, 1)]
    assert [tuple(box) for box in together] == alone
    # What workers cut is what the device would have cut.
    photo = torch.randint(0, 256, (5, 3, 50, 40), dtype=torch.uint8)
    whole, _ = views("labeled", photo, 3)
    cut = torch.stack(
        [
            photo[i % 5, :, top : top + h, left : left + w].float()[None]
            for i, (top, left, h, w) in enumerate(together[:1])
        ]
    )
    expected = torch.nn.functional.interpolate(
        cut[0], (16, 16), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(whole["weak"][0, :1], expected / 255 * 2 - 1, atol=1e-5, rtol=0)


def test_noise_draws_its_ranges_independently():
    drawn = HSVNoise().draw(N, make_generator(1))
    columns = torch.cat(
        [drawn["shift"][:, None], drawn["exponent"].log2(), drawn["scale"].log2(), drawn["offset"]],
        1,
    )
    width = torch.tensor([0.1, 2, 2, 0.5, 0.5, 0.1, 0.1])
    torch.testing.assert_close(columns.amax(0), width, rtol=0.01, atol=0)
    torch.testing.assert_close(columns.amin(0), -width, rtol=0.01, atol=0)
    torch.testing.assert_close(columns.std(0), width / 3**0.5, rtol=0.03, atol=0)
    assert (torch.corrcoef(columns.T) - torch.eye(7)).abs().max() < 0.04


def test_grey_images_get_a_colour_and_one_channel_its_brightness():
    grey = torch.full((3, 3, 1, 1), 0.25, dtype=torch.float64)
    zero, two = torch.zeros(3), torch.ones(3, 2)
    offset = torch.tensor([[0.1, 0.0], [-0.1, 0.0], [0.0, 0.1]])
    found = color.hsv_noise(grey, zero, two, two, offset)[:, :, 0, 0]
    expected = [[0.25, 0.225, 0.225], [0.25, 0.25, 0.25], [0.35, 0.35, 0.35]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    single = color.hsv_noise(grey[:, :1], zero, 2 * two, two, offset)[:, 0, 0, 0]
    expected = torch.tensor([0.0625, 0.0625, 0.1625], dtype=torch.float64)
    torch.testing.assert_close(single, expected)
