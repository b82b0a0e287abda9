"""What is drawn: ranges, rates, independence, errors; and how transforms combine."""

import math
import pickle

import pytest
import torch

from lightning_ssl import augment
from lightning_ssl.augment import (
    ColorJitter,
    Compose,
    Custom,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    HorizontalFlip,
    Normalize,
    Op,
    PadCrop,
    QuarterTurns,
    RandAugment,
    RandomApply,
    RandomResizedCrop,
    Transform,
    apply_slots,
    color,
    fixmatch_pool,
    tone,
)
from lightning_ssl.augment.base import to_float
from lightning_ssl.seeding import make_generator

N = 4000


def draw(transform, n=N, seed=0):
    return transform.draw(n, make_generator(seed))


def close(rate, p, n=N):
    return abs(rate - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_pad_crop_reaches_every_offset_equally():
    pad, size = 4, 32
    rows = torch.arange(size, dtype=torch.uint8)
    images = (rows[:, None] * 7 + rows).expand(N, 1, size, size)
    result = PadCrop()(images, draw(PadCrop()))
    assert result.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[:1].float(), (pad,) * 4, mode="reflect")[0, 0].byte()
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + size, left : left + size]
            windows[tuple(window.flatten().tolist())] = (top, left)
    counts = torch.zeros(9, 9)
    for image in result[:, 0]:
        counts[windows[tuple(image.flatten().tolist())]] += 1
    expected = N / 81
    assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()


@pytest.mark.parametrize(("size", "pad"), [(8, 1), (32, 4), (96, 12), (7, 0)])
def test_pad_scales_with_the_side(size, pad):
    images = torch.zeros(400, 1, size, size, dtype=torch.uint8)
    images[:, :, size // 2, size // 2] = 1
    out = PadCrop()(images, draw(PadCrop(), 400))
    shifts = out.flatten(1).int().argmax(1) // size - size // 2
    assert (int(shifts.min()), int(shifts.max())) == (-pad, pad)


def test_flip_rate_and_direction():
    images = torch.arange(4, dtype=torch.uint8).expand(N, 1, 4, 4)
    for p in (0.0, 0.5, 1.0):
        flipped = HorizontalFlip(p)(images, draw(HorizontalFlip(p)))[:, 0, 0, 0] == 3
        assert close(flipped.double().mean(), p) or flipped.double().mean() == p


def test_random_apply_rate_and_untouched_rows():
    images = torch.rand(N, 1, 2, 2)
    transform = RandomApply(Op(tone.invert), 0.2)
    drawn = draw(transform)
    result = transform(images, drawn)
    assert close(drawn["apply"].double().mean(), 0.2)
    assert torch.equal(result[~drawn["apply"]], images[~drawn["apply"]])
    assert torch.equal(result[drawn["apply"]], 1 - images[drawn["apply"]])
    never = RandomApply(Op(tone.invert), 0.0)
    assert torch.equal(never(images, draw(never)), images)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.3, 0.75), (0.05, 0.14)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 224), (300, 480), (8, 8)])
def test_crop_boxes_fit_and_have_the_asked_area_and_ratio(scale, height, width):
    crop = RandomResizedCrop(16, scale)
    top, left, h, w = crop.boxes(draw(crop)["crop"], height, width).double().unbind(1)
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + h <= height) & (left + w <= width) & (h > 0) & (w > 0)).all()
    assert (top + h).max() == height
    if height >= 224:
        area, ratio = h * w / (height * width), w / h
        assert scale[0] * 0.95 < area.min() < scale[0] * 1.3
        assert scale[1] * 0.8 < area.max() < scale[1] * 1.05
        assert 0.73 < ratio.min() < 0.8
        assert 1.25 < ratio.max() < 1.37
        # The ratio's logarithm is symmetric where no box is refused.
        assert scale[1] > 0.9 or height < width or abs(ratio.log().mean()) < 0.02


def test_crop_of_a_panorama_falls_back_to_the_centre():
    crop = RandomResizedCrop(16, (0.9, 1.0))
    u = draw(crop)["crop"]
    assert torch.equal(crop.boxes(u, 100, 1000).unique(dim=0), torch.tensor([[0, 433, 100, 133]]))
    assert torch.equal(crop.boxes(u, 1000, 100).unique(dim=0), torch.tensor([[433, 0, 133, 100]]))


def test_box_of_one_row_equals_the_batch():
    crop = RandomResizedCrop(16)
    u = draw(crop, 50)["crop"]
    for row, box in zip(u, crop.boxes(u, 120, 75).tolist(), strict=True):
        assert crop.box(row, 120, 75) == tuple(box)
        assert all(type(x) is int for x in crop.box(row, 120, 75))


def test_cutout_centre_covers_all_pixels_and_side_is_half():
    for size in (8, 32):
        out = Cutout()(torch.zeros(N, 1, size, size), draw(Cutout()))
        painted = (out == 0.5).flatten(1).sum(1)
        assert painted.max() == (size // 2) ** 2
        assert painted.min() == (size // 4) ** 2  # a corner
        drawn = draw(Cutout())["centre"] * size
        assert len(drawn.long().unique(dim=0)) == min(size * size, len(drawn.long().unique(dim=0)))
        assert set(drawn.long().flatten().tolist()) == set(range(size))
        assert set(out.unique().tolist()) == {0.0, 0.5}


def test_jitter_draws_orders_evenly_and_factors_in_range():
    drawn = draw(ColorJitter(0.4, 1.5, 0.2, 0.1))
    orders, counts = drawn["order"].unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (counts - N / 24).abs().max() < 5 * math.sqrt(N / 24)
    low, high = drawn["factor"].amin(0), drawn["factor"].amax(0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.0, 0.8, -0.1]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 2.5, 1.2, 0.1]), atol=0.01, rtol=0)


def test_jitter_leaves_out_what_is_zero():
    images = torch.rand(64, 3, 8, 8)
    jitter = ColorJitter(hue=0.3)
    result = jitter(images, draw(jitter, 64))
    torch.testing.assert_close(result.amax(1), images.amax(1))
    assert not torch.allclose(result, images, atol=0.05)
    assert torch.equal(ColorJitter()(images, draw(ColorJitter(), 64)), images)


def test_jitter_of_one_channel_is_brightness_and_contrast():
    images = torch.rand(64, 1, 8, 8)
    jitter = ColorJitter(saturation=0.9, hue=0.3)
    assert torch.equal(jitter(images, draw(jitter, 64)), images)


def test_rand_augment_draws_ops_evenly_and_magnitudes_in_the_papers_ranges():
    drawn = draw(RandAugment(3))
    assert drawn["op"].shape == (N, 3)
    counts = drawn["op"].flatten().bincount(minlength=14)
    assert (counts - 3 * N / 14).abs().max() < 4.5 * math.sqrt(3 * N / 14)
    # Slots are independent: pairs of the first two are uniform over 196.
    pairs = (drawn["op"][:, 0] * 14 + drawn["op"][:, 1]).bincount(minlength=196)
    assert ((pairs - N / 196) ** 2 / (N / 196)).sum() < 196 + 5 * math.sqrt(2 * 196)
    spans = {op.name: (op.low, op.high) for op in fixmatch_pool() if op.low is not None}
    enhance, geometry = (0.05, 0.95), (-0.3, 0.3)
    assert spans == {
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), enhance),
        **dict.fromkeys(("shear_x", "shear_y", "translate_x", "translate_y"), geometry),
        "rotate": (-30, 30),
        "solarize": (0, 256 / 255),
        "posterize": (4, 9),
    }
    bits = fixmatch_pool()[6].magnitude(drawn["level"][:, 0]).floor().unique()
    assert bits.tolist() == [4, 5, 6, 7, 8]


def test_rand_augment_probability():
    drawn = draw(RandAugment(2, 0.5))
    assert close((drawn["op"] < 0).double().mean(), 0.5, 2 * N)
    images = torch.rand(32, 3, 8, 8)
    off = RandAugment(2, 0.0)
    assert torch.equal(off(images, draw(off, 32)), images)
    assert torch.equal(RandAugment(0)(images, draw(RandAugment(0), 32)), images)


def test_rand_augment_takes_another_pool():
    images = torch.rand(200, 3, 8, 8)
    transform = RandAugment(1, pool=[Op(tone.invert), Op(color.brightness, 0.5, 0.5)])
    drawn = draw(transform, 200)
    result = transform(images, drawn)
    inverted = drawn["op"][:, 0] == 0
    torch.testing.assert_close(result[inverted], 1 - images[inverted])
    torch.testing.assert_close(result[~inverted], images[~inverted] / 2)


def test_slots_apply_in_the_order_each_image_drew():
    values = torch.rand(50, 1, 1, 1)
    before = values.clone()
    choice = torch.randint(3, (50, 4))
    functions = [
        None,
        lambda x, rows, slot: x + slot,
        lambda x, rows, slot: x * (2 + rows.view(-1, 1, 1, 1)),
    ]
    result = apply_slots(values, choice, functions)
    for i in range(50):
        expected = values[i].item()
        for slot, number in enumerate(choice[i].tolist()):
            expected = (expected, expected + slot, expected * (2 + i))[number]
        assert math.isclose(result[i].item(), expected, rel_tol=1e-5)
    assert torch.equal(values, before)
    assert torch.equal(apply_slots(values, choice, functions, overwrite=True), result)
    assert apply_slots(before[:0], choice[:0], functions).shape == (0, 1, 1, 1)


def test_noise_blur_and_turns_draw_in_range():
    noise = draw(GaussianNoise((1, 2, 2), 0.15), 5000)["noise"]
    assert abs(noise.std() - 1) < 0.03
    out = GaussianNoise((1, 2, 2), 0.15)(torch.full((5000, 1, 2, 2), 0.5), {"noise": noise})
    assert abs(out.std() - 0.15) < 0.01
    sigma = draw(GaussianBlur())["sigma"]
    assert 0.1 <= sigma.min() < 0.12
    assert 1.98 < sigma.max() <= 2.0
    counts = draw(QuarterTurns())["turns"].bincount(minlength=4)
    assert (counts - N / 4).abs().max() < 5 * math.sqrt(N / 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_normalize(dtype):
    images = torch.randint(0, 256, (4, 3, 5, 5)).byte()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    given = images if dtype == torch.uint8 else images.to(dtype) / 255
    before = given.clone()
    result = Normalize(mean, std)(given, {})
    expected = (images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    assert torch.equal(given, before)
    assert result.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    torch.testing.assert_close(result, expected.to(result.dtype), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"channel \(1\), got 3"):
        Normalize(mean, std)(given[:, :1], {})


def test_compose_flattens_and_keys_draws_by_position():
    flip, crop = HorizontalFlip(), PadCrop(1)
    nested = Compose([Compose([flip, crop]), Cutout(2)])
    drawn = draw(nested, 5)
    assert list(drawn) == ["0", "1", "2"]
    assert list(drawn["2"]) == ["centre"]
    images = torch.rand(5, 3, 8, 8)
    expected = Cutout(2)(crop(flip(images, drawn["0"]), drawn["1"]), drawn["2"])
    assert torch.equal(nested(images, drawn), expected)


def test_compose_converts_bytes_late_and_never_writes_to_its_input():
    class Spy(Transform):
        def forward(self, images, drawn):
            self.dtype = images.dtype
            return images

        def overwrite(self, images, drawn):
            return self.forward(images, drawn).zero_()

    images = torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)
    spy = Spy()
    pipeline = Compose([HorizontalFlip(), spy, Custom(lambda x: x + 1)])
    assert torch.equal(pipeline(images, draw(pipeline, 2)), torch.ones(2, 1, 4, 4))
    assert spy.dtype == torch.float32
    floats = to_float(images)
    torch.testing.assert_close(floats, torch.full((2, 1, 4, 4), 0.2))
    kept = floats.clone()
    pipeline = Compose([spy, spy])  # returns its input, which must then survive
    pipeline(floats, draw(pipeline, 2))
    assert torch.equal(floats, kept)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RandomApply(PadCrop(), 1.5), r"`p` must be in \[0, 1\], got 1.5"),
        (lambda: HorizontalFlip(-0.1), r"`p` must be in \[0, 1\], got -0.1"),
        (lambda: RandomResizedCrop(0), "`size` must be at least 1, got 0"),
        (lambda: RandomResizedCrop(8, (0.9, 0.1)), r"`scale` .*got \(0.9, 0.1\)"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), r"`ratio` .*got \(0.0, 1.0\)"),
        (lambda: PadCrop(-1), "`pad` must be at least 0, got -1"),
        (lambda: PadCrop(9)(torch.rand(1, 1, 8, 8), draw(PadCrop(), 1)), "`pad` must be below"),
        (lambda: ColorJitter(brightness=-1), "`brightness` must be at least 0, got -1"),
        (lambda: ColorJitter(hue=0.6), r"`hue` .*got \(0.0, 0.6\)"),
        (lambda: RandAugment(-1), "`num_ops` must be at least 0, got -1"),
        (lambda: RandAugment(1, 2.0), r"`probability` must be in \[0, 1\], got 2.0"),
        (lambda: RandAugment(pool=[]), "`pool` must hold at least one operation"),
        (lambda: Cutout(-2), "`side` must be at least 0, got -2"),
        (lambda: GaussianBlur((0.0, 1.0)), r"`sigma` .*got \(0.0, 1.0\)"),
        (lambda: GaussianNoise((1, 2, 2), -1), "`std` must be at least 0, got -1"),
        (lambda: Normalize((0.5,), (0.0,)), "`std` must have one value above 0"),
    ],
)
def test_errors_name_argument_and_value(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_all_is_sorted_and_complete_and_everything_pickles():
    assert set(augment.__all__) <= set(dir(augment))
    for name in augment.PRESETS:
        transform = augment.preset(name, 32)
        copy = pickle.loads(pickle.dumps(transform))
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        drawn = draw(transform, 4)
        assert torch.equal(copy(images, drawn), transform(images, drawn))
