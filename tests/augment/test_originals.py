"""The strong views of google-research/fixmatch and of the toolboxes, re-stated on PIL images."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from lightning_ssl.augment import Cutout, RandAugment
from lightning_ssl.seeding import make_generator

SIDE = 32
AFFINE = Image.Transform.AFFINE


def to_pil(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def make_images(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator).float() / 255


def moved(image, matrix):
    """With transparent borders, which the original makes grey."""
    return image.convert("RGBA").transform(image.size, AFFINE, matrix)


def solid(function):
    return lambda i, *args: function(i.convert("RGB"), *args)


# Of a level from 1 to 9 and a sign: the table of third_party/auto_augment/augmentations.py.
GOOGLE = {
    "autocontrast": lambda i, v, s: ImageOps.autocontrast(i),
    "brightness": lambda i, v, s: ImageEnhance.Brightness(i).enhance(0.1 + 0.18 * v),
    "color": lambda i, v, s: ImageEnhance.Color(i).enhance(0.1 + 0.18 * v),
    "contrast": lambda i, v, s: ImageEnhance.Contrast(i).enhance(0.1 + 0.18 * v),
    "equalize": lambda i, v, s: ImageOps.equalize(i),
    "identity": lambda i, v, s: i,
    "posterize": lambda i, v, s: ImageOps.posterize(i, 4 - int(v * 4 / 10)),
    "rotate": lambda i, v, s: i.convert("RGBA").rotate(s * int(v * 30 / 10)),
    "sharpness": lambda i, v, s: ImageEnhance.Sharpness(i).enhance(0.1 + 0.18 * v),
    "shear_x": lambda i, v, s: moved(i, (1, s * v * 0.03, 0, 0, 1, 0)),
    "shear_y": lambda i, v, s: moved(i, (1, 0, 0, s * v * 0.03, 1, 0)),
    "solarize": lambda i, v, s: ImageOps.solarize(i, 256 - int(v * 256 / 10)),
    "translate_x": lambda i, v, s: moved(i, (1, 0, s * v, 0, 1, 0)),
    "translate_y": lambda i, v, s: moved(i, (1, 0, 0, 0, 1, s * v)),
}


@pytest.mark.parametrize("name", GOOGLE)
def test_operations_of_google_equal_pil(name):
    transform = RandAugment(1, pool="google")
    place = [op.name for op in transform.pool].index(name)
    images, level = make_images(18), (torch.arange(18) / 18 + 1e-3)[:, None]
    found = transform(images, {"op": torch.full((18, 1), place), "level": level})
    wanted = []
    for step, image in enumerate(images):
        # The package moves to the right by a positive shift, PIL to the left.
        sign = (1 if step < 9 else -1) * (-1 if "translate" in name else 1)
        pil = GOOGLE[name](to_pil(image), 1 + step % 9, sign).convert("RGBA")
        values = torch.from_numpy(np.array(pil)).permute(2, 0, 1).float() / 255
        wanted.append(values[:3].where(values[3] > 0, 0.5))
    wanted = torch.stack(wanted)
    if name == "posterize":  # whose levels are PIL's times 255 / 256
        wanted = wanted * 255 / 256
    difference = (found - wanted).abs() * 255
    assert difference.mean() < 1
    # Ties between pixels are broken otherwise in a few places of a turned or sheared image.
    assert (difference > 2).float().mean() < (
        0.01 if name in ("rotate", "shear_x", "shear_y") else 1e-9
    )


def test_levels_of_google_are_equally_likely_whole_ones():
    ops = {op.name: op for op in RandAugment(pool="google").pool}
    assert sorted(ops) == sorted(GOOGLE)
    uniform = torch.cat(
        [torch.rand(18_000, generator=make_generator(0)), torch.tensor([1 - 2**-24])]
    )

    def shares(name):
        values, counts = ops[name].magnitude(uniform).double().unique(return_counts=True)
        return {round(v, 4): n / len(uniform) for v, n in zip(values.tolist(), counts, strict=True)}

    enhanced = shares("brightness")
    assert sorted(enhanced) == [round(0.1 + 0.18 * v, 4) for v in range(1, 10)]
    assert all(abs(share - 1 / 9) < 0.01 for share in enhanced.values())
    assert sorted(shares("translate_x")) == [*range(-9, 0), *range(1, 10)]
    assert sorted(shares("rotate")) == [3 * v for v in (*range(-9, 0), *range(1, 10))]
    bits = {1: 2, 2: 3, 3: 2, 4: 2}
    assert shares("posterize") == {b: pytest.approx(n / 9, abs=0.01) for b, n in bits.items()}


def test_operations_of_the_toolboxes_are_the_papers_but_for_the_bits():
    paper, theirs = RandAugment().pool, RandAugment(pool="torchssl").pool
    uniform = torch.rand(4000, generator=make_generator(0))
    for one, two in zip(paper, theirs, strict=True):
        assert (one.name, one.function) == (two.name, two.function)
        if one.name == "posterize":
            assert one.magnitude(uniform).floor().unique().tolist() == [4, 5, 6, 7, 8]
            assert two.magnitude(uniform).floor().unique().tolist() == [4, 5, 6, 7]
        else:
            assert (one.low, one.high) == (two.low, two.high)


def square_of_torchssl(image, side, row, column):
    """CutoutAbs of datasets/augmentation/randaugment.py."""
    left, top = (int(max(0, place - side / 2)) for place in (column, row))
    box = (left, top, min(SIDE, left + side), min(SIDE, top + side))
    if side > 0:
        ImageDraw.Draw(image).rectangle(box, (125, 123, 114))
    return image


def test_a_cutout_of_random_side_equals_that_of_the_toolboxes():
    cutout = Cutout(fill=[125 / 255, 123 / 255, 114 / 255], random_side=True)
    images = make_images(500)
    drawn = cutout.draw(500, make_generator(3))
    drawn["side"][0] = 0
    found = (cutout(images, drawn) * 255).round().byte()
    for image, out, u, place in zip(images, found, drawn["side"], drawn["centre"], strict=True):
        side = SIDE / 2 * u.item()
        pil = square_of_torchssl(to_pil(image), side, *(SIDE * place.double()).tolist())
        assert np.array_equal(np.array(pil), out.permute(1, 2, 0).numpy())


def test_what_cutouts_cover():
    """8.4 % in the toolboxes, 19.2 % by FixMatch's paper."""
    for cutout, share in ((Cutout(fill=1.0, random_side=True), 0.0835), (Cutout(fill=1.0), 0.1914)):
        drawn = cutout.draw(20_000, make_generator(0))
        covered = cutout(torch.zeros(20_000, 1, SIDE, SIDE), drawn).mean().item()
        assert covered == pytest.approx(share, abs=0.002)


def test_a_colour_on_grey_images_is_its_mean():
    cutout = Cutout(fill=(0.9, 0.6, 0.3))
    images = torch.zeros(4, 1, 8, 8)
    assert cutout(images, cutout.draw(4, make_generator(0))).amax().item() == pytest.approx(0.6)


@pytest.mark.parametrize("pool", ["paper", "google", "torchssl"])
def test_pools_travel_to_workers_and_change_images(pool):
    transform = pickle.loads(pickle.dumps(RandAugment(2, 0.5, pool)))
    drawn = transform.draw(64, make_generator(1))
    assert abs((drawn["op"] >= 0).double().mean() - 0.5) < 4 * math.sqrt(0.25 / 128)
    images = make_images(64)
    changed = (transform(images, drawn) != images).flatten(1).any(1)
    assert 0.5 < changed.double().mean() < 0.95


def test_an_unknown_pool_is_named():
    with pytest.raises(ValueError, match=r"`pool` must be one of \('paper', .*, got 'kekmodel'"):
        RandAugment(pool="kekmodel")
