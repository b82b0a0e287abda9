"""Whole pipelines against a sequential re-statement for one image, from the same draws."""

import colorsys
import math

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from lightning_ssl.augment import PRESETS, base, preset
from lightning_ssl.seeding import make_generator


def make_images(n=40, channels=3, size=32, seed=0):
    """Blobs with 8-bit values, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    noise = torch.rand(n, channels, size, size, generator=generator)
    return (images * 220 + noise * 35).clamp(0, 255).byte()


def pick(drawn, i):
    """One image's draws as Python numbers."""
    return {k: pick(v, i) if isinstance(v, dict) else v[i].tolist() for k, v in drawn.items()}


def crop_box(u, height, width, scale, ratio=(3 / 4, 4 / 3)):
    """torchvision's rule, with its uniforms given."""
    for k in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[k])
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * u[10 + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    if width / height < ratio[0]:
        h, w = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        h, w = height, round(height * ratio[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def one_crop(x, d, size, scale):
    box = crop_box(d["crop"], *x.shape[1:], scale)
    return tv.resized_crop(x, *box, [size, size], antialias=True)


def one_flip(x, d):
    return x.flip(2) if d["flip"] else x


def one_pad_crop(x, d, pad):
    size = x.shape[1]
    top, left = (int(u * (2 * pad + 1)) for u in d["offset"])
    return tv.pad(x, [pad], padding_mode="reflect")[:, top : top + size, left : left + size]


def one_jitter(x, d):
    functions = (
        tv.adjust_brightness,
        tv.adjust_contrast,
        tv.adjust_saturation,
        tv.adjust_hue,
    )
    for number in d["order"]:
        x = functions[number](x, d["factor"][number])
    return x


def one_rand_augment(x, d):
    for op, u in zip(d["op"], d["level"], strict=True):
        x = fixmatch_op(x, op, u)
    return x


def fixmatch_op(x, op, u):
    """FixMatch's table; the magnitude comes from a uniform in [0, 1)."""
    enhance, signed, degrees = 0.05 + 0.9 * u, -0.3 + 0.6 * u, -30 + 60 * u
    shift, slope, threshold = signed * x.shape[1], math.degrees(math.atan(signed)), u * 256 / 255
    return (
        lambda: tv.autocontrast(x),
        lambda: tv.adjust_brightness(x, enhance),
        lambda: tv.adjust_saturation(x, enhance),
        lambda: tv.adjust_contrast(x, enhance),
        lambda: tv.equalize(x),
        lambda: x,
        lambda: tv.posterize(x, 4 + int(5 * u)),
        lambda: tv.rotate(x, degrees),
        lambda: tv.adjust_sharpness(x, enhance),
        lambda: tv.affine(x, 0.0, [0, 0], 1.0, [slope, 0.0], center=[0, 0]),
        lambda: tv.affine(x, 0.0, [0, 0], 1.0, [0.0, slope], center=[0, 0]),
        lambda: x if threshold > 1 else tv.solarize(x, threshold),
        lambda: tv.affine(x, 0.0, [shift, 0], 1.0, [0.0, 0.0]),
        lambda: tv.affine(x, 0.0, [0, shift], 1.0, [0.0, 0.0]),
    )[op]()


def one_cutout(x, d, side):
    row, column = (int(u * x.shape[1]) - side // 2 for u in d["centre"])
    x = x.clone()
    x[:, max(0, row) : row + side, max(0, column) : column + side] = 0.5
    return x


def maybe(function, x, d):
    return function(x, d["transform"]) if d["apply"] else x


def inception_box(u, height, width):
    """TensorFlow's rule with its uniforms given; the whole image after a hundred attempts."""
    for k in range(100):
        ratio = 0.75 + 0.58 * u[k]
        shortest = round(math.sqrt(0.05 * height * width / ratio))
        tallest = min(height, round(math.sqrt(height * width / ratio)))
        while round(tallest * ratio) > width:
            tallest -= 1
        shortest = min(shortest, tallest)
        h = shortest + int(u[100 + k] * (tallest - shortest + 1))
        w = round(h * ratio)
        if h * w >= 0.1 * height * width:
            return int(u[200] * (height - h + 1)), int(u[201] * (width - w + 1)), h, w
    return 0, 0, height, width


def one_inception_crop(x, d, size):
    box = inception_box(d["crop"], *x.shape[1:])
    return tv.resized_crop(x, *box, [size, size], antialias=True)


def one_hsv_noise(x, d):
    """Pixel by pixel with Python's own conversions."""

    def bend(value, i):
        value = value ** d["exponent"][i] * d["scale"][i] + d["offset"][i]
        return min(max(value, 0.0), 1.0)

    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*x[:, i, j].tolist())
            h = (1 + h + d["shift"]) % 1
            out[:, i, j] = torch.tensor(colorsys.hsv_to_rgb(h, bend(s, 0), bend(v, 1)))
    return out


def restate(name, size, x, d, multicrop=False):
    """One float image through a preset, with a horizontal flip."""
    large = size > 64
    if name == "exemplar":
        if large:
            x = one_flip(one_inception_crop(x, d["0"], size), d["1"])
        else:
            x = one_pad_crop(one_flip(x, d["0"]), d["1"], size // 8)
        return one_hsv_noise(x, d["2"])
    if name == "basic" and not large:
        return one_flip(x, d["0"])
    if name in ("basic", "weak", "medium", "strong"):
        if large:
            x = one_flip(one_crop(x, d["0"], size, (0.08, 1)), d["1"])
        else:
            x = one_pad_crop(one_flip(x, d["0"]), d["1"], size // 8)
        if name in ("medium", "strong"):
            assert len(d["2"]["op"]) == {"medium": 1, "strong": 2}[name]
            x = one_cutout(one_rand_augment(x, d["2"]), d["3"], size // 2)
        return x
    scales = {
        "simclr": ((0.08, 1), (0.08, 1)),
        "local": ((0.3, 0.75), (0.05, 0.14)),
    }
    scale = scales.get(name, ((0.75, 1), (0.14, 1)) if multicrop else ((0.5, 1), (0.08, 1)))[large]
    side = {32: 18, 224: 96, 96: 42, 8: 5}[size] if name == "local" else size
    x = maybe(one_jitter, one_flip(one_crop(x, d["0"], side, scale), d["1"]), d["2"])
    if large or name == "simclr":
        x = maybe(lambda y, _: tv.rgb_to_grayscale(y, 3), x, d["3"])
        if large:
            x = maybe(lambda y, e: tv.gaussian_blur(y, 13, e["sigma"]), x, d["4"])
        return x
    x = maybe(lambda y, e: y if e["magnitude"] > 1 else tv.solarize(y, e["magnitude"]), x, d["3"])
    return maybe(lambda y, _: tv.equalize(y), x, d["4"])


@pytest.mark.parametrize("multicrop", [False, True])
@pytest.mark.parametrize(("size", "n"), [(32, 40), (96, 6), (8, 40)])
@pytest.mark.parametrize("name", PRESETS)
def test_preset_equals_sequential_restatement(name, size, n, multicrop):
    images = make_images(n, size=size)
    transform = preset(name, size, multicrop=multicrop)
    drawn = transform.draw(n, make_generator(0, name))
    result = transform(images, drawn)
    if result.dtype == torch.uint8:  # only moved
        result = result.float() / 255
    expected = torch.stack(
        [restate(name, size, x, pick(drawn, i), multicrop) for i, x in enumerate(images / 255)]
    )
    assert result.shape == expected.shape
    # Solarize, posterize and equalize jump: a last-bit difference before them may cross a level.
    wrong = ((result - expected).abs() > 2e-5).double().mean()
    assert wrong < 2e-3
    assert (result - expected).abs().mean() < 1e-4


def test_strong_in_float64_equals_restatement_everywhere():
    images = make_images(60).double() / 255
    transform = preset("strong", 32)
    drawn = transform.draw(60, make_generator(3))
    result = transform(images, drawn)
    expected = torch.stack([restate("strong", 32, x, pick(drawn, i)) for i, x in enumerate(images)])
    assert result.dtype == torch.float64
    wrong = ((result - expected).abs() > 1e-6).double().mean()
    assert wrong < 1e-4


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_does_not_depend_on_its_neighbours(name, size, channels):
    images = make_images(12, channels, size)
    transform = preset(name, size)
    drawn = transform.draw(12, make_generator(1))
    together = transform(images, drawn)
    for i in (0, 5, 11):
        alone = transform(images[i : i + 1], _rows(drawn, slice(i, i + 1)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [8, 32, 96])
def test_copies_of_one_image_come_out_different(name, size):
    images = make_images(1, size=size).expand(16, -1, -1, -1)
    transform = preset(name, size)
    result = transform(images, transform.draw(16, make_generator(2)))
    distinct = {tuple(x.flatten().tolist()) for x in result}
    if name == "basic" and size <= 64:  # as it is, and flipped
        assert len(distinct) == 2
    else:
        assert len(distinct) > (8 if name == "weak" and size == 8 else 12)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
def test_no_flip_when_it_changes_the_label(name, size):
    ramp = torch.arange(size, dtype=torch.uint8).expand(64, 3, size, size)
    transform = preset(name, size, hflip=False)
    assert "HorizontalFlip" not in repr(transform)
    assert "HorizontalFlip" in repr(preset(name, size))
    if name == "weak":
        result = transform(ramp, transform.draw(64, make_generator(0)))[..., 4:-4].float()
        assert (result.diff(dim=3) >= 0).all()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
def test_input_is_left_alone_and_global_generator_untouched(name, size):
    images = make_images(8, size=size)
    floats = images / 255
    before, floats_before, state = images.clone(), floats.clone(), torch.get_rng_state()
    transform = preset(name, size)
    drawn = transform.draw(8, make_generator(5))
    from_bytes = transform(images, drawn)
    from_floats = transform(floats, drawn)
    assert torch.equal(images, before)
    assert torch.equal(floats, floats_before)
    assert torch.equal(torch.get_rng_state(), state)
    if from_bytes.dtype == torch.uint8:
        from_bytes = from_bytes / 255
    assert ((from_bytes - from_floats).abs() > 1e-5).double().mean() < 1e-3
    assert from_floats.min() >= 0
    assert from_floats.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_layouts_and_float64(name, size, channels):
    images = make_images(8, channels, size).double() / 255
    transform = preset(name, size)
    drawn = transform.draw(8, make_generator(6))
    expected = transform(images, drawn)
    assert expected.dtype == torch.float64
    strided = torch.zeros(8, channels, size, 2 * size, dtype=torch.float64)[..., ::2].copy_(images)
    for other in (images.to(memory_format=torch.channels_last), strided):
        result = transform(other, drawn)
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
def test_nothing_waits_for_the_device(name, size):
    """Tensors without data raise where a value is asked for, or where host and device mix."""
    images = make_images(40, size=size)
    transform = preset(name, size)
    drawn = transform.draw(40, make_generator(7))
    result = transform(images.to("meta"), drawn)
    assert result.device.type == "meta"
    assert result.shape == transform(images, drawn).shape


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"`name`.*'weak'.*'local'.*got 'week'"):
        preset("week", 32)
    with pytest.raises(ValueError, match=r"`size`.*got 0"):
        preset("weak", 0)


def _rows(drawn, rows):
    return {k: _rows(v, rows) if isinstance(v, dict) else v[rows] for k, v in drawn.items()}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [32, 96])
def test_working_on_parts_of_the_batch_changes_nothing(name, size, monkeypatch):
    images = make_images(60 if size == 32 else 20, size=size)
    transform = preset(name, size)
    drawn = transform.draw(len(images), make_generator(8))
    results = []
    for images_at_once in (1, 3, 1000):
        monkeypatch.setattr(base, "_CHUNK", images_at_once * images[0].numel())
        results.append(transform(images, drawn))
    for result in results[:2]:
        torch.testing.assert_close(result, results[2], atol=1e-6, rtol=0)
