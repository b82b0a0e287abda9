"""Every operation against torchvision or PIL on each image alone, at the same parameter."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as tv

from lightning_ssl.augment import color, filters, geometry, resize, tone


def uniform(low, high, n=24, seed=1):
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def make_images(n=24, channels=3, height=20, width=20, dtype=torch.float32):
    """Images of 8-bit values among which are a flat, a grey and a saturated one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, height, width), generator=generator).to(dtype)
    images[0] = 77
    images[1] = images[1, :1]
    images[2, 0] = 255
    images[3, -1] = 0
    images[4] = images[4] // 8 + 100
    images[5] = torch.where(images[5] > 128, 255, 0)
    return images / 255


def affine(x, shear=(0.0, 0.0), translate=(0.0, 0.0), center=None):
    return tv.affine(x, 0.0, list(translate), 1.0, list(shear), center=center, fill=0)


def degrees(level):
    return math.degrees(math.atan(level))


# name, ours, torchvision's on one image, range of the parameter
TABLE = [
    ("brightness", color.brightness, tv.adjust_brightness, (0, 1.9)),
    ("contrast", color.contrast, tv.adjust_contrast, (0, 1.9)),
    ("color", color.color, tv.adjust_saturation, (0, 1.9)),
    ("hue", color.hue, tv.adjust_hue, (-0.5, 0.5)),
    ("sharpness", filters.sharpness, tv.adjust_sharpness, (0, 1.9)),
    ("solarize", tone.solarize, tv.solarize, (0, 1)),
    ("posterize", tone.posterize, lambda x, b: tv.posterize(x, int(b)), (0, 9)),
    ("autocontrast", lambda x, _: tone.autocontrast(x), lambda x, _: tv.autocontrast(x), (0, 1)),
    ("equalize", lambda x, _: tone.equalize(x), lambda x, _: tv.equalize(x), (0, 1)),
    ("invert", lambda x, _: tone.invert(x), lambda x, _: tv.invert(x), (0, 1)),
    ("blur", filters.gaussian_blur, lambda x, s: tv.gaussian_blur(x, 13, s), (0.1, 2)),
    ("rotate", geometry.rotate, lambda x, d: tv.rotate(x, d, fill=0), (-45, 45)),
    ("shear_x", geometry.shear_x, lambda x, m: affine(x, (degrees(m), 0), center=[0, 0]), (-1, 1)),
    ("shear_y", geometry.shear_y, lambda x, m: affine(x, (0, degrees(m)), center=[0, 0]), (-1, 1)),
    (
        "translate_x",
        geometry.translate_x,
        lambda x, f: affine(x, translate=(f * x.shape[-1], 0)),
        (-0.6, 0.6),
    ),
    (
        "translate_y",
        geometry.translate_y,
        lambda x, f: affine(x, translate=(0, f * x.shape[-2])),
        (-0.6, 0.6),
    ),
]
CASES = pytest.mark.parametrize(
    ("ours", "reference", "span"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)


@CASES
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [20, 13])
def test_equals_torchvision_per_image(ours, reference, span, channels, dtype, width):
    images = make_images(channels=channels, width=width, dtype=dtype)
    values = uniform(*span)
    result = ours(images, values)
    expected = torch.stack([reference(x, v) for x, v in zip(images, values.tolist(), strict=True)])
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)


@CASES
def test_leaves_input_and_ignores_layout_and_neighbours(ours, reference, span):
    images = make_images()
    values = uniform(*span)
    before = images.clone()
    result = ours(images, values)
    assert torch.equal(images, before)
    strided = torch.rand(24, 3, 20, 40)[..., ::2].copy_(images)
    for other in (images.to(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(ours(other, values), result, atol=1e-6, rtol=0)
    # What vector instructions round and what the rest of an array does may differ.
    torch.testing.assert_close(ours(images[7:9], values[7:9]), result[7:9], atol=1e-6, rtol=0)


def test_hue_at_special_angles_and_extreme_pixels():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1e-8, 0.5, 1 - 1e-7, 1.0])] * 3)
    images = corners.T.reshape(1, 3, 25, 5)
    for shift in (-0.5, -1 / 3, -1 / 6, 0.0, 1 / 6, 1 / 3, 0.5):
        result = color.hue(images, torch.tensor([shift]))
        torch.testing.assert_close(result[0], tv.adjust_hue(images[0], shift), atol=1e-5, rtol=0)


def test_grayscale_is_torchvisions_on_three_channels():
    images = make_images()
    expected = torch.stack([tv.rgb_to_grayscale(x, num_output_channels=3) for x in images])
    torch.testing.assert_close(color.grayscale(images), expected)
    assert torch.equal(color.grayscale(images[:, :1]), images[:, :1])


def test_rotation_by_right_angles_is_exact():
    images = make_images()[:4]
    result = geometry.rotate(images, torch.tensor([0.0, 90.0, 180.0, -90.0]))
    for k, turns in enumerate((0, 1, 2, 3)):
        assert torch.equal(result[k], images[k].rot90(turns, (1, 2)))


def test_fill_of_affine_operations():
    images = make_images()
    result = geometry.translate_x(images, torch.full((24,), 0.5), fill=0.5)
    torch.testing.assert_close(result[..., :10], torch.full_like(result[..., :10], 0.5))
    torch.testing.assert_close(result[..., 10:], images[..., :10])


def test_fractional_parameters_differ_within_the_batch():
    images = make_images()[6:7].expand(24, -1, -1, -1)
    result = geometry.rotate(images, uniform(-45, 45))
    assert len({tuple(x.flatten().tolist()) for x in result}) > 20  # two close angles may agree


def test_solarize_inverts_from_the_threshold_on():
    images = torch.tensor([0.2, 0.5, 0.6]).view(1, 1, 1, 3)
    result = tone.solarize(images, torch.tensor([0.5]))
    torch.testing.assert_close(result.flatten(), torch.tensor([0.2, 0.5, 0.4]))
    images = torch.tensor([0.2, 0.6, 0.7]).view(1, 1, 1, 3)
    result = tone.solarize(images, images.flatten()[1:2])
    torch.testing.assert_close(result.flatten(), torch.tensor([0.2, 0.4, 0.3]))


def test_solarize_add():
    images, addition = make_images(), uniform(-0.4, 0.4)
    result = tone.solarize_add(images, addition)
    for x, y, a in zip(images, result, addition, strict=True):
        expected = torch.where(x * 255 < 128, (x + a).clamp(0, 1), x)
        torch.testing.assert_close(y, expected)


def to_pil(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pil(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def pil_enhance(kind):
    return lambda image, value: kind(image).enhance(value)


PIL_TABLE = [
    # ours, PIL's, parameter, tolerance in 8-bit levels
    (color.brightness, pil_enhance(ImageEnhance.Brightness), 0.4, 1),
    (color.contrast, pil_enhance(ImageEnhance.Contrast), 0.4, 1.5),
    (color.color, pil_enhance(ImageEnhance.Color), 0.4, 1.5),
    (filters.sharpness, pil_enhance(ImageEnhance.Sharpness), 0.4, 1.5),
    (lambda x, _: filters.smooth(x), lambda i, _: i.filter(ImageFilter.SMOOTH), 0.0, 1),
    (lambda x, _: filters.pil_blur(x), lambda i, _: i.filter(ImageFilter.BLUR), 0.0, 1),
    (lambda x, _: tone.autocontrast(x), lambda i, _: ImageOps.autocontrast(i), 0.0, 1.1),
    (lambda x, _: tone.equalize(x), lambda i, _: ImageOps.equalize(i), 0.0, 0.01),
    (lambda x, _: tone.invert(x), lambda i, _: ImageOps.invert(i), 0.0, 0.01),
    (lambda x, t: tone.solarize(x, t / 255), lambda i, t: ImageOps.solarize(i, t), 99.5, 0.01),
    (tone.posterize, lambda i, b: ImageOps.posterize(i, int(b)), 5.0, 1),
    (
        geometry.shear_x,
        lambda i, v: i.transform(i.size, Image.Transform.AFFINE, (1, v, 0, 0, 1, 0)),
        0.23,
        0.01,
    ),
    (
        geometry.shear_y,
        lambda i, v: i.transform(i.size, Image.Transform.AFFINE, (1, 0, 0, v, 1, 0)),
        -0.23,
        0.01,
    ),
    (geometry.rotate, lambda i, v: i.rotate(v), 17.0, 0.01),
]


@pytest.mark.parametrize(("ours", "pil", "value", "levels"), PIL_TABLE)
def test_equals_pil_up_to_its_rounding(ours, pil, value, levels):
    images = make_images()
    result = ours(images, torch.full((24,), value))
    expected = torch.stack([from_pil(pil(to_pil(x), value)) for x in images])
    assert (result - expected).abs().max() * 255 <= levels


@pytest.mark.parametrize("size", [(9, 9), (20, 20), (31, 14)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_resized_crop_equals_torchvision(size, dtype):
    images = make_images(height=24, width=30)
    boxes = torch.tensor([[0, 0, 24, 30], [3, 5, 9, 9], [23, 29, 1, 1], [2, 0, 20, 7]] * 6)
    given = (images * 255).round().byte() if dtype == torch.uint8 else images.to(dtype)
    result = resize.resized_crop(given, boxes, size)
    floats = images if dtype == torch.uint8 else given
    expected = [
        tv.resized_crop(x, *box, list(size), antialias=True)
        for x, box in zip(floats, boxes.tolist(), strict=True)
    ]
    assert result.dtype == floats.dtype
    torch.testing.assert_close(result, torch.stack(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", range(6))
@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_rescale_equals_pil_in_floats(method, level):
    images = make_images(height=22, width=17)
    result = resize.rescale(images, torch.full((24,), level), torch.full((24,), method))
    codes = ("LANCZOS", "BICUBIC", "BILINEAR", "BOX", "HAMMING", "NEAREST")
    width, height, margin = 17, 22, level * 0.25
    box = (margin * width, margin * height, width * (1 - margin), height * (1 - margin))
    for x, y in zip(images, result, strict=True):
        for channel, mine in zip(x, y, strict=True):
            cut = Image.fromarray(channel.numpy()).crop(box)
            expected = cut.resize((width, height), Image.Resampling[codes[method]])
            expected = torch.from_numpy(np.array(expected)).clamp(0, 1)
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


def test_rescale_methods_differ_within_the_batch():
    images = make_images()[6:12]
    result = resize.rescale(images, torch.ones(6), torch.tensor([5, 0, 3, 1, 4, 2]))
    for i, method in enumerate((5, 0, 3, 1, 4, 2)):
        alone = resize.rescale(images[i : i + 1], torch.ones(1), torch.tensor([method]))
        torch.testing.assert_close(result[i], alone[0])


def test_cutout_paints_the_clipped_square():
    images = make_images()[:4]
    side, centre = torch.tensor([4, 5, 6, 0]), torch.tensor([[10, 10], [0, 19], [19, 0], [5, 5]])
    result = geometry.cutout(images, side, centre, fill=0.25)
    for x, y, s, (row, column) in zip(images, result, side.tolist(), centre.tolist(), strict=True):
        expected = x.clone()
        top, left = row - s // 2, column - s // 2
        expected[:, max(0, top) : top + s, max(0, left) : left + s] = 0.25
        assert torch.equal(y, expected)
    assert (result[0] == 0.25).sum() == 3 * 16


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_quarter_turns_equal_rot90(dtype):
    images = (make_images() * 255).to(dtype)
    turns = torch.arange(24) % 4
    result = geometry.quarter_turns(images, turns)
    assert result.dtype == dtype
    for x, y, k in zip(images, result, turns.tolist(), strict=True):
        assert torch.equal(y, torch.rot90(x, k, (1, 2)))
    with pytest.raises(ValueError, match="square"):
        geometry.quarter_turns(images[..., :10], turns)


def test_gaussian_noise_adds_and_clamps():
    images, noise = make_images(), torch.randn(24, 3, 20, 20)
    std = uniform(0, 0.5)
    expected = (images + noise * std.view(-1, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(filters.gaussian_noise(images, std, noise), expected)


def test_small_images_pass_the_filters():
    tiny = torch.rand(2, 3, 2, 2)
    assert torch.equal(filters.sharpness(tiny, torch.tensor([0.1, 0.5])), tiny)
    assert filters.gaussian_blur(tiny, torch.ones(2)).shape == tiny.shape
