"""CTAugment: its operations against PIL and torchvision, what it draws, what it learns."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as tv

from lightning_ssl.augment import Compose, CTAugment, CTAugmentProbe, Cutout, View, Views, preset
from lightning_ssl.augment.ctaugment import OPERATIONS
from lightning_ssl.seeding import make_generator

NAMES = [operation.name for operation in OPERATIONS]
# From the table of arXiv 1911.09785: name to bins of each learned level.
BINS = {
    **dict.fromkeys(("autocontrast", "blur", "brightness", "color", "contrast"), (17,)),
    **{"cutout": (17,), "equalize": (17,), "identity": (), "invert": (17,), "posterize": (8,)},
    **{"rescale": (17, 6), "rotate": (17,), "sharpness": (17,), "shear_x": (17,)},
    **{"shear_y": (17,), "smooth": (17,), "solarize": (17,)},
    **{"translate_x": (17,), "translate_y": (17,)},
}
RESAMPLING = ("LANCZOS", "BICUBIC", "BILINEAR", "BOX", "HAMMING", "NEAREST")


def make_images(n=9, channels=3, height=20, width=20):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).float() / 255


def to_pil(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pil(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def degrees(slope):
    return math.degrees(math.atan(slope))


def signed(v):
    return 0.3 * (2 * v - 1)


def pil_blend(function):
    return lambda x, v: from_pil(Image.blend(to_pil(x), function(to_pil(x)), v))


def pil_enhance(kind):
    return lambda x, v: from_pil(kind(to_pil(x)).enhance(0.1 + 1.9 * v))


def shear(x, angles):
    return tv.affine(x, 0.0, [0, 0], 1.0, angles, center=[0, 0])


def shift(x, pixels):
    return tv.affine(x, 0.0, pixels, 1.0, [0.0, 0.0])


def square(x, v, place):
    _, height, width = x.shape
    side = 1 + int(v * min(width, height) * 0.499)
    row, column = divmod(int(place * height * width), width)
    x = x.clone()
    top, left = row - side // 2, column - side // 2
    x[:, max(0, top) : top + side, max(0, left) : left + side] = 127 / 255
    return x


def cropped(x, v, method):
    _, height, width = x.shape
    s = 0.25 * v
    box = (s * width, s * height, width * (1 - s), height * (1 - s))
    mode = Image.Resampling[RESAMPLING[int(method * 6)]]
    channels = [Image.fromarray(c.numpy()).crop(box).resize((width, height), mode) for c in x]
    return torch.stack([torch.from_numpy(np.array(c)) for c in channels]).clamp(0, 1)


# Each on one image; and how many levels of 255 PIL's rounding may be off.
REFERENCE = {
    "autocontrast": (pil_blend(ImageOps.autocontrast), 2),
    "blur": (pil_blend(lambda i: i.filter(ImageFilter.BLUR)), 2),
    "brightness": (pil_enhance(ImageEnhance.Brightness), 1),
    "color": (pil_enhance(ImageEnhance.Color), 2),
    "contrast": (pil_enhance(ImageEnhance.Contrast), 2),
    "cutout": (square, 1e-4),
    "equalize": (pil_blend(ImageOps.equalize), 1),
    "identity": (lambda x: x, 0),
    "invert": (pil_blend(ImageOps.invert), 1),
    "posterize": (lambda x, v: tv.posterize(x, 1 + int(7.999 * v)), 1e-3),
    "rescale": (cropped, 3e-3),
    "rotate": (lambda x, v: from_pil(to_pil(x).rotate(round((2 * v - 1) * 45))), 1e-3),
    "sharpness": (pil_enhance(ImageEnhance.Sharpness), 2),
    "shear_x": (lambda x, v: shear(x, [degrees(signed(v)), 0.0]), 1e-3),
    "shear_y": (lambda x, v: shear(x, [0.0, degrees(signed(v))]), 1e-3),
    "smooth": (pil_blend(lambda i: i.filter(ImageFilter.SMOOTH)), 2),
    "solarize": (lambda x, v: from_pil(ImageOps.solarize(to_pil(x), int(255.999 * v))), 1e-3),
    "translate_x": (lambda x, v: shift(x, [signed(v) * x.shape[2], 0]), 1e-3),
    "translate_y": (lambda x, v: shift(x, [0, signed(v) * x.shape[1]]), 1e-3),
}


def test_the_table_is_the_papers():
    assert {op.name: tuple(n for n in op.bins if n) for op in OPERATIONS} == BINS
    assert len(NAMES) == len(BINS) == 19


@pytest.mark.parametrize("size", [(20, 20), (17, 23)])
@pytest.mark.parametrize("name", REFERENCE)
def test_operations_equal_pil_and_torchvision(name, size):
    images = make_images(height=size[0], width=size[1])
    # The last uniform that torch draws must not leave the range of a floor.
    first = torch.tensor([0.0, 0.0317, 0.2113, 0.4011, 0.5219, 0.6323, 0.7701, 0.9029, 1 - 2**-24])
    levels = torch.stack([first, first[[2, 0, 8, 4, 3, 6, 1, 5, 7]]], 1)
    operation = OPERATIONS[NAMES.index(name)]
    count = len(operation.bins)
    result = operation.function(images, *levels[:, :count].unbind(1))
    reference, tolerance = REFERENCE[name]
    for x, y, values in zip(images, result, levels.tolist(), strict=True):
        assert (y - reference(x, *values[:count])).abs().max() * 255 <= tolerance


@pytest.mark.parametrize("kind", [CTAugment, CTAugmentProbe])
def test_shifts_in_pixels_move_nothing_as_in_the_original(kind):
    """Which PIL confirms: the nearest pixel to a place 0.3 pixels off is the same one."""
    images = make_images(32)
    for name in NAMES:
        drawn = {"op": torch.full((32, 2), NAMES.index(name)), "uniform": torch.rand(32, 2, 2)}
        drawn["op"][:, 1] = NAMES.index("identity")
        moved = kind()(images, drawn)
        same = kind(translation="pixels")(images, drawn)
        if not name.startswith("translate"):
            assert torch.equal(same, moved)
            continue
        assert not torch.equal(moved, images)
        assert torch.equal(same, images)
        for image, level in zip(images, drawn["uniform"][:, 0, 0].tolist(), strict=True):
            delta = (0, signed(level))[:: 1 if name.endswith("y") else -1]
            matrix = (1, 0, delta[0], 0, 1, delta[1])
            pil = to_pil(image).transform((20, 20), Image.Transform.AFFINE, matrix)
            assert torch.equal(from_pil(pil), image)


def test_the_side_of_a_cutout_is_the_papers():
    """One more than 0.499 of the level: where half of it is a whole number, half would be more."""
    cutout = OPERATIONS[NAMES.index("cutout")].function
    levels, middle = torch.tensor([0.0, 15 / 16, 1.0]), torch.full((3,), (16 * 32 + 16) / 1024)
    changed = cutout(torch.zeros(3, 3, 32, 32), levels, middle)[:, 0] > 0
    assert changed.any(1).sum(1).tolist() == changed.any(2).sum(1).tolist() == [1, 15, 16]


@pytest.mark.parametrize("kind", [CTAugment, CTAugmentProbe])
def test_operations_follow_each_other(kind):
    images = make_images(600)
    transform = kind()
    drawn = transform.draw(600, make_generator(0))
    before = images.clone()
    result = transform(images, drawn)
    assert torch.equal(images, before)
    # With all rates at 1 every level is equally likely, so both mean the uniforms by them.
    for i in range(600):
        x = images[i : i + 1]
        for op, uniform in zip(drawn["op"][i].tolist(), drawn["uniform"][i], strict=True):
            operation = OPERATIONS[op]
            x = operation.function(x, *uniform[: len(operation.bins), None])
        # Rounding may move a level over a step of an operation that has some.
        assert (result[i] - x[0]).abs().mean() < 0.02
    assert torch.equal(transform.overwrite(images, drawn), result)
    assert drawn["op"].unique(return_counts=True)[1].min() > 600 * 2 / 19 / 2


def sampled_levels(transform, name, n=20_000):
    op = torch.full((n, 2), NAMES.index(name))
    uniform = torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(5))
    return transform.levels({"op": op, "uniform": uniform}).flatten(0, 1)


def test_bins_are_drawn_in_proportion_to_their_weights():
    transform = CTAugment()
    rates = 0.5 + 0.5 * torch.rand(17, generator=torch.Generator().manual_seed(3))
    row = NAMES.index("rotate")
    transform.rates[row, 0] = rates
    levels = sampled_levels(transform, "rotate")[:, 0]
    weights = (rates + 0.01) / (rates + 0.01).max()
    weights[weights < 0.8] = 0
    assert 3 < (weights > 0).sum() < 15
    counts = (levels * 17).long().bincount(minlength=17) / len(levels)
    torch.testing.assert_close(counts, weights / weights.sum(), atol=0.005, rtol=0)
    assert not counts[weights == 0].any()
    # Uniform inside the bin.
    inside = (levels * 17).frac()
    torch.testing.assert_close(inside.histc(10, 0, 1) / len(levels), torch.full((10,), 0.1),
                               atol=0.01, rtol=0)  # fmt: skip
    # Another operation, and a level without bins, are as before.
    other = sampled_levels(transform, "cutout")
    for column in other.unbind(1):
        counts = (column * 17).long().bincount(minlength=17) / len(column)
        torch.testing.assert_close(counts, torch.full((17,), 1 / 17), atol=0.005, rtol=0)


def test_levels_with_fewer_bins_use_all_of_their_range():
    transform = CTAugment()
    row = NAMES.index("rescale")
    transform.rates[row, 1, :6] = torch.tensor([1, 0.2, 1, 0.9, 0, 0.95])
    methods = (sampled_levels(transform, "rescale")[:, 1] * 6).long().bincount(minlength=6)
    expected = torch.tensor([1.01, 0, 1.01, 0.91, 0, 0.96])
    torch.testing.assert_close(
        methods / methods.sum(), expected / expected.sum(), atol=0.01, rtol=0
    )
    bits = 1 + (sampled_levels(transform, "posterize")[:, 0] * 7.999).long()
    assert bits.unique().tolist() == [*range(1, 9)]


def rates_by_loop(batches, decay):
    """Every probe by itself, as in the papers' code."""
    rates = {name: [[1.0] * n for n in bins] for name, bins in BINS.items()}
    for drawn, agreement in batches:
        for ops, uniforms, omega in zip(
            drawn["op"].tolist(), drawn["uniform"].tolist(), agreement.tolist(), strict=True
        ):
            for op, uniform in zip(ops, uniforms, strict=True):
                for rate, u in zip(rates[NAMES[op]], uniform, strict=False):
                    k = int(u * len(rate))
                    rate[k] = decay * rate[k] + (1 - decay) * omega
    return rates


def assert_rates(transform, rates):
    for i, name in enumerate(NAMES):
        for column in range(2):
            wanted = rates[name][column] if column < len(rates[name]) else []
            padded = torch.tensor([*wanted, *[-1.0] * (17 - len(wanted))], dtype=torch.float64)
            torch.testing.assert_close(transform.rates[i, column], padded, rtol=1e-11, atol=1e-11)


def probes(count, size):
    generator = make_generator(7)
    for _ in range(count // size):
        drawn = CTAugmentProbe().draw(size, generator)
        yield drawn, torch.rand(size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("size", "ranks"), [(1, 1), (60, 1), (60, 4), (3000, 1), (3000, 2)])
@pytest.mark.parametrize("decay", [0.99, 0.7])
def test_rates_after_3000_probes_equal_a_loop(size, ranks, decay):
    batches = list(probes(3000, size))
    transform = CTAugment(threshold=0.95, decay=decay).double()
    for drawn, agreement in batches:
        parts = zip(*(x.chunk(ranks) for x in (drawn["op"], drawn["uniform"], agreement)),
                    strict=True)  # fmt: skip
        transform.update(
            torch.stack([transform.learned({"op": o, "uniform": u}, a) for o, u, a in parts])
        )
    rates = rates_by_loop(batches, decay)
    assert_rates(transform, rates)
    # Which bins can still be drawn.
    flat = [[(r + 1 - decay) / (max(rate) + 1 - decay) >= 0.95 for r in rate]
            for bins in rates.values() for rate in bins]  # fmt: skip
    usable = sum(map(sum, flat)) / sum(map(len, flat))
    assert transform.usable().item() == pytest.approx(usable)
    assert 0 < usable < 1


def test_a_bin_without_agreement_falls_out_after_23_hits():
    transform = CTAugment()
    row = NAMES.index("solarize")
    op, uniform = torch.full((1, 2), row), torch.zeros(1, 2, 2)
    op[0, 1] = NAMES.index("identity")
    for hits in range(1, 31):
        transform.update(transform.learned({"op": op, "uniform": uniform}, torch.zeros(1))[None])
        assert transform.rates[row, 0, 0].item() == pytest.approx(0.99**hits, rel=1e-5)
        drawn = (sampled_levels(transform, "solarize", 2000)[:, 0] < 1 / 17).any().item()
        assert drawn is (hits < 23), hits
    assert (transform.rates[row, 0, 1:] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_keeps_rates_in_float32(dtype):
    """Rates fall by a hundredth at most, and bfloat16 has steps of 1/256 below 1."""
    transform, half = CTAugment(), CTAugment().to(dtype)
    drawn = half.draw(64, make_generator(0))
    for module in (transform, half):
        module.update(module.learned(drawn, torch.full((64,), 0.25))[None])
    assert half.rates.dtype == torch.float32
    assert torch.equal(half.rates, transform.rates)
    assert CTAugment().double().rates.dtype == torch.float64


def test_a_uniform_next_to_1_draws_the_last_bin_in_use():
    transform = CTAugment()
    transform.rates[NAMES.index("rotate"), 0, 16] = 0.5
    last = {"op": torch.full((1, 2), NAMES.index("rotate")), "uniform": torch.ones(1, 2, 2)}
    last["uniform"] -= 2**-24
    assert 15 / 17 < transform.levels(last)[0, 0, 0].item() < 16 / 17 + 1e-6


def test_agreement_brings_a_bin_back():
    transform = CTAugment()
    row = NAMES.index("rotate")
    transform.rates[row, 0, 4] = 0
    drawn = {"op": torch.full((1, 2), row), "uniform": torch.full((1, 2, 2), 4.5 / 17)}
    for _ in range(100):
        transform.update(transform.learned(drawn, torch.ones(1))[None])
    assert transform.rates[row, 0, 4].item() == pytest.approx(1 - 0.99**200, rel=1e-4)
    assert (sampled_levels(transform, "rotate", 2000)[:, 0] * 17).long().eq(4).any()


def test_no_images_teach_nothing():
    transform = CTAugment()
    step = transform.learned(transform.draw(0, make_generator(0)), torch.zeros(0))
    transform.update(step[None])
    assert torch.equal(transform.rates, CTAugment().rates)


def declared(transform):
    return {
        "labeled": {
            "strong": View(transform, after="weak"),
            "probe": View(CTAugmentProbe(), after="weak"),
        },
        "unlabeled": {"weak": 1, "strong": View(Compose([transform, Cutout()]), 3, "weak")},
    }


def test_a_view_comes_after_a_preset_and_returns_its_own_draws():
    images = make_images(8, height=32, width=32).mul(255).byte()
    transform = CTAugment()
    views = Views(declared(transform), 32)
    out, drawn = views("labeled", images, 4)
    assert set(drawn) == {"strong", "probe"}
    generator = make_generator(0, "views", "labeled", "probe", 4)
    weak, probe = preset("weak", 32), CTAugmentProbe()
    geometry, own = weak.draw(8, generator), probe.draw(8, generator)
    expected = probe(weak(images, geometry) / 255, own)
    torch.testing.assert_close(out["probe"][0] / 2 + 0.5, expected, atol=1e-6, rtol=0)
    for name in ("op", "uniform"):
        assert torch.equal(drawn["probe"][name], own[name])

    out, drawn = views("unlabeled", images, 4)
    assert out["strong"].shape == (3, 8, 3, 32, 32)
    assert list(drawn) == ["strong"]
    assert {k: set(v) for k, v in drawn["strong"].items()} == {"0": {"op", "uniform"},
                                                               "1": {"centre"}}  # fmt: skip
    assert len(drawn["strong"]["0"]["op"]) == 24
    assert len({tuple(x.flatten().tolist()) for x in out["strong"][:, 0]}) == 3


def test_the_rates_of_the_owner_are_the_ones_that_count():
    images = make_images(64, height=32, width=32).mul(255).byte()
    transform = CTAugment()
    views = Views(declared(transform), 32)
    before = views("unlabeled", images, 0)[0]["strong"]
    assert torch.equal(views("unlabeled", images, 0)[0]["strong"], before)
    transform.rates[transform.rates >= 0] = torch.linspace(
        0.1, 1, int((transform.rates >= 0).sum())
    )
    assert not torch.equal(views("unlabeled", images, 0)[0]["strong"], before)
    probe = views("labeled", images, 0)[0]["probe"]
    transform.rates.fill_(1)
    assert torch.equal(views("labeled", images, 0)[0]["probe"], probe)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_see_the_slices_of_one(world):
    images = make_images(8, height=32, width=32).mul(255).byte()
    transform = CTAugment()
    transform.rates[:, :, ::2] *= 0.5
    views = Views(declared(transform), 32)
    for stream in ("labeled", "unlabeled"):
        whole, drawn = views(stream, images, 9)
        for rank, part in enumerate(images.chunk(world)):
            out, own = views(stream, part, 9, rank=rank, world_size=world)
            size = len(part)
            for name, view in out.items():
                rows = whole[name][:, rank * size : (rank + 1) * size]
                torch.testing.assert_close(view, rows, atol=1e-6, rtol=0)
        if stream == "labeled":
            assert torch.equal(own["probe"]["op"], drawn["probe"]["op"][-size:])


def test_user_overrides_what_comes_first():
    images = make_images(4, height=32, width=32).mul(255).byte()
    black = Views(declared(CTAugment()), 32, overrides={"weak": torch.zeros_like})
    white = Views(declared(CTAugment()), 32, overrides={"weak": torch.ones_like})
    for stream, name in (("unlabeled", "weak"), ("labeled", "probe")):
        one, two = (v(stream, images, 0)[0][name] for v in (black, white))
        assert not torch.equal(one, two)
    assert (black("unlabeled", images, 0)[0]["weak"] == -1).all()


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (View(CTAugmentProbe(), 0), "at least 1, got 0"),
        (View(CTAugmentProbe(), 1, "week"), "must name presets .* got 'week'"),
    ],
)
def test_errors_of_a_declaration(view, text):
    with pytest.raises(ValueError, match=text):
        Views({"labeled": {"own": view}}, 32)
    with pytest.raises(ValueError, match=r"method's own.*got \('own',\)"):
        Views({"labeled": {"own": View(CTAugment())}}, 32, overrides={"own": Cutout()})


def test_errors_of_the_arguments():
    with pytest.raises(ValueError, match=r"`threshold` must be in \[0, 1\], got 1.5"):
        CTAugment(threshold=1.5)
    for decay in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"`decay` must be in \(0, 1\), got {decay}"):
            CTAugment(decay=decay)


def test_nothing_waits_for_the_device():
    transform = CTAugment().to("meta")
    images = make_images(64).to("meta")
    drawn = transform.draw(64, make_generator(0))
    assert transform(images, drawn).device.type == "meta"
    step = transform.learned(drawn, torch.rand(64, device="meta"))
    transform.update(step[None])
    assert transform.usable().device.type == "meta"


def test_rates_are_saved_and_travel():
    transform = CTAugment()
    transform.rates.mul_(0.5)
    assert list(transform.state_dict()) == ["rates"]
    copy = pickle.loads(pickle.dumps(transform))
    assert torch.equal(copy.rates, transform.rates)
    assert not list(CTAugmentProbe().state_dict())
