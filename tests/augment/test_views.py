"""Views: streams, copies, ranks, crops made by workers, overrides, errors."""

import pickle

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from lightning_ssl.augment import (
    Compose,
    Cutout,
    HorizontalFlip,
    PadCrop,
    RandAugment,
    RandomResizedCrop,
    Views,
    preset,
)
from lightning_ssl.augment.base import take
from lightning_ssl.seeding import make_generator

FIXMATCH = {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 2}}
PAWS = {"labeled": {"support": 1}, "unlabeled": {"global": 2, "local": 6}}


def make_images(n=8, channels=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator).byte()


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_shapes_dtypes_and_normalisation():
    images = make_images()
    views = Views(PAWS, 32, mean=(0.0,) * 3, std=(1.0,) * 3)
    out, drawn = views("unlabeled", images, 0)
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "global": (2, 8, 3, 32, 32),
        "local": (6, 8, 3, 18, 18),
    }
    assert drawn == {}
    raw = out["global"]
    shifted, _ = Views(PAWS, 32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))(
        "unlabeled", images, 0, dtype=torch.float64
    )
    assert shifted["global"].dtype == torch.float64
    mean, std = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.25, 2.0]]).view(2, 3, 1, 1)
    torch.testing.assert_close(shifted["global"].float(), (raw - mean) / std)


def test_view_is_the_preset_with_the_named_generator():
    images = make_images()
    out, _ = Views(FIXMATCH, 32, seed=7)("unlabeled", images, 3)
    transform = preset("strong", 32)
    drawn = transform.draw(16, make_generator(7, "views", "unlabeled", "strong", 3))
    expected = transform(images.repeat(2, 1, 1, 1), drawn).sub(0.5).div(0.5)
    torch.testing.assert_close(out["strong"].flatten(0, 1), expected, atol=1e-6, rtol=0)


def test_views_depend_on_seed_step_stream_and_view_and_nothing_else():
    declared = {s: {"weak": 1, "strong": 1} for s in ("labeled", "unlabeled")}
    images = make_images(32)

    def run(stream="unlabeled", step=5, seed=0):
        return Views(declared, 32, seed=seed)(stream, images, step)[0]

    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    same(first, run())
    assert torch.equal(torch.get_rng_state(), state)
    for other in (run(step=6), run(seed=1), run(stream="labeled")):
        for name in first:
            assert not torch.equal(first[name], other[name])
    alone = Views({"unlabeled": {"strong": 1}}, 32)("unlabeled", images, 5)[0]
    assert torch.equal(alone["strong"], first["strong"])  # other views do not matter


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("declared", [FIXMATCH, PAWS])
def test_ranks_see_the_slices_of_one(world, declared):
    images = make_images(8)
    views = Views(declared, 32)
    whole, _ = views("unlabeled", images, 9)
    for rank, part in enumerate(images.chunk(world)):
        out, _ = views("unlabeled", part, 9, rank=rank, world_size=world)
        for name, view in out.items():
            size = len(part)
            expected = whole[name][:, rank * size : (rank + 1) * size]
            torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)


def test_copies_differ():
    out, _ = Views(PAWS, 32)("unlabeled", make_images(), 0)
    assert not torch.equal(out["global"][0], out["global"][1])
    assert len({tuple(x.flatten().tolist()) for x in out["local"][:, 0]}) == 6


def test_one_channel():
    views = Views(PAWS, 8, mean=(0.5,), std=(0.5,), hflip=False)
    out, _ = views("labeled", make_images(4, 1, 8), 0)
    assert out["support"].shape == (1, 4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"channel \(1\), got 3"):
        Views(PAWS, 8)("labeled", make_images(4, 1, 8), 0)


def test_multicrop_changes_the_large_crop():
    def scale(declared):
        return Views(declared, 32).crop("unlabeled", "global").scale

    assert scale(PAWS) == (0.75, 1.0)
    assert scale({"unlabeled": {"global": 2}}) == (0.5, 1.0)
    assert Views(PAWS, 224).crop("labeled", "support").scale == (0.14, 1.0)


class Owned(Compose):
    """A method's own transform."""

    def __init__(self):
        super().__init__([HorizontalFlip(), PadCrop(), RandAugment(1), Cutout()])


def test_what_the_methods_own_transform_drew_comes_back_sliced():
    images, own = make_images(), Owned()
    views = Views({"labeled": {"probe": own, "weak": 1}}, 32)
    out, drawn = views("labeled", images, 2)
    assert list(drawn) == ["probe"]
    assert out["probe"].shape == (1, 8, 3, 32, 32)
    expected = own.draw(8, make_generator(0, "views", "labeled", "probe", 2))
    assert torch.equal(drawn["probe"]["2"]["op"], expected["2"]["op"])
    _, part = views("labeled", images[4:6], 2, rank=2, world_size=4)
    assert torch.equal(part["probe"]["2"]["level"], expected["2"]["level"][4:6])
    assert not list(views.parameters())
    assert "Owned" not in repr(views)
    single = Views({"labeled": {"probe": RandAugment(2)}}, 32)("labeled", images, 2)[1]
    assert set(single["probe"]) == {"op", "level"}


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_worker_crops_give_the_same_view_as_the_device(rank, world):
    images = make_images(6, size=96)
    views = Views({"unlabeled": {"simclr": 2, "local": 6}}, 96)
    crops = views.worker_crops("unlabeled", 4, rank, world, 6)
    assert {k: tuple(v.shape) for k, v in crops.items()} == {
        "simclr": (2, 6, 22),
        "local": (6, 6, 22),
    }
    given = {}
    for name, rows in crops.items():
        crop = views.crop("unlabeled", name)
        size = crop.size
        cut = [
            tv.resized_crop(x / 255, *crop.box(row, 96, 96), [size, size], antialias=True)
            for copy in rows
            for x, row in zip(images, copy, strict=True)
        ]
        given[name] = (torch.stack(cut) * 255).round().byte().unflatten(0, rows.shape[:2])
    whole, _ = views("unlabeled", images, 4, rank=rank, world_size=world)
    out, _ = views("unlabeled", given, 4, rank=rank, world_size=world)
    for name in whole:
        assert out[name].shape == whole[name].shape
        # The crops were rounded to bytes in between; the hue of grey pixels amplifies that.
        difference = (out[name] - whole[name]).abs()
        assert difference.mean() < 0.01
        assert (difference > 0.05).double().mean() < 0.01


def test_mapping_serves_crops_and_whole_images():
    images = make_images()
    declared = {"unlabeled": {"weak": 1, "global": 2}}
    views = Views(declared, 32)
    crops = images.expand(2, -1, -1, -1, -1)
    out, _ = views("unlabeled", {"image": images, "global": crops}, 0)
    whole, _ = views("unlabeled", images, 0)
    assert torch.equal(out["weak"], whole["weak"])
    assert out["global"].shape == (2, 8, 3, 32, 32)
    assert not torch.equal(out["global"], whole["global"])
    with pytest.raises(ValueError, match=r"'weak' or 'image', got \('global',\)"):
        views("unlabeled", {"global": crops}, 0)


def test_large_weak_view_begins_with_a_crop_and_small_does_not():
    assert Views(FIXMATCH, 224).worker_crops("labeled", 0, 0, 1, 2)["weak"].shape == (1, 2, 22)
    assert Views(FIXMATCH, 32).worker_crops("labeled", 0, 0, 1, 2) == {}


def test_overrides_by_transform_and_by_function():
    images = make_images()
    seen = []

    def function(x):
        seen.append((x.dtype, float(x.max()), tuple(x.shape)))
        return 1 - x

    views = Views(FIXMATCH, 32, overrides={"strong": function, "weak": RandomResizedCrop(20)})
    out, _ = views("unlabeled", images, 0)
    torch.testing.assert_close(out["strong"][1] * 0.5 + 0.5, 1 - images / 255)
    assert seen == [(torch.float32, float(images.max()) / 255, (16, 3, 32, 32))]
    assert out["weak"].shape == (1, 8, 3, 20, 20)
    assert views.crop("labeled", "weak").size == 20
    named = Views({"labeled": {"mine": 1}}, 32, overrides={"mine": function})
    assert named("labeled", images, 0)[0]["mine"].shape == (1, 8, 3, 32, 32)


@pytest.mark.parametrize(
    ("declared", "overrides", "text"),
    [
        (FIXMATCH, {"weak": PadCrop(), "local": PadCrop()}, r"\('strong', 'weak'\).*\('local',\)"),
        ({"labeled": {"own": Owned()}}, {"own": PadCrop()}, r"method's own.*got \('own',\)"),
        ({"labeled": {"week": 1}}, None, r"views\['labeled'\].*'weak'.*got 'week'"),
        ({"labeled": {"weak": 0}}, None, r"`views\['labeled'\]\['weak'\]` .*got 0"),
    ],
)
def test_declaration_errors_name_both_sides(declared, overrides, text):
    with pytest.raises(ValueError, match=text):
        Views(declared, 32, overrides=overrides)


def test_lookup_errors_name_both_sides():
    views = Views(FIXMATCH, 32)
    known = r"\('labeled', 'unlabeled'\), got 'test'"
    with pytest.raises(ValueError, match=known):
        views("test", make_images(), 0)
    with pytest.raises(ValueError, match=known):
        views.worker_crops("test", 0, 0, 1, 2)
    with pytest.raises(ValueError, match=r"\('weak', 'strong'\) of 'unlabeled', got 'global'"):
        views.crop("unlabeled", "global")


def test_views_pickle_and_touch_nothing():
    images = make_images()
    before = images.clone()
    views = Views(PAWS, 32, seed=3)
    copy = pickle.loads(pickle.dumps(views))
    same(copy("unlabeled", images, 1)[0], views("unlabeled", images, 1)[0])
    assert torch.equal(images, before)
    assert not list(views.parameters())
    assert views.state_dict() == {}


@pytest.mark.parametrize("declared", [FIXMATCH, PAWS])
@pytest.mark.parametrize("size", [32, 96])
def test_nothing_waits_for_the_device(declared, size):
    out, _ = Views(declared, size)("unlabeled", make_images(32, size=size).to("meta"), 0)
    assert all(view.device.type == "meta" for view in out.values())


def test_take_selects_rows_of_nested_draws():
    drawn = {"a": torch.arange(4), "b": {"c": torch.arange(8).view(4, 2)}}
    part = take(drawn, torch.tensor([3, 1]))
    assert part["a"].tolist() == [3, 1]
    assert part["b"]["c"].tolist() == [[6, 7], [2, 3]]
