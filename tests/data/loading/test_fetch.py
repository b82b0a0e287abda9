"""From positions to views: pixels of the right images, crops in workers, broken files, ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as tv

from lightning_ssl.augment import Views, preset
from lightning_ssl.data.loading import fetch as fetch_module
from lightning_ssl.data.loading.fetch import EvaluationFetch, TrainFetch, check_readable
from lightning_ssl.data.loading.loader import TrainLoader
from lightning_ssl.data.loading.views import DrawViews
from lightning_ssl.data.orders import Shuffled
from lightning_ssl.data.plan import Plan
from lightning_ssl.data.sources.images import (
    BrokenImageError,
    FileImages,
    ResidentImages,
    resize_center,
)
from lightning_ssl.data.splits.make import Split
from lightning_ssl.seeding import make_generator

pytestmark = pytest.mark.filterwarnings("ignore:The .* list .* is shorter than its batch")

FIXMATCH = {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 2}}
PAWS = {"labeled": {"support": 1}, "unlabeled": {"global": 2, "local": 3}}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SIZE = 96  # above 64: crops are cut in the workers
SIZES = [(130, 100), (90, 120), (70, 70), (200, 97), (64, 150), (110, 96), (97, 96), (300, 80)]
LABELED, UNLABELED = torch.tensor([1, 4, 6]), torch.tensor([0, 1, 2, 3, 5, 6, 7])
TARGETS = torch.tensor([-1, 1, -1, 0, 2, -1, 0, 1])


def make_views(declared, size: int, **options) -> Views:
    return Views(declared, size, mean=MEAN, std=STD, seed=5, **options)


def make_fetch(images, views, size: int, batch=(4, 6), split=None, rank=0, world_size=1):
    split = split or Split(LABELED, UNLABELED, torch.tensor([], dtype=torch.int64))
    plan = Plan(
        Shuffled(len(split.labeled), batch[0], 2, "labeled"),
        Shuffled(len(split.unlabeled), batch[1], 2, "unlabeled"),
        rank=rank,
        world_size=world_size,
    )
    return TrainFetch(plan, split, images, views, size)


def noise(size: int, count: int = 8, channels: int = 3) -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=generator).byte()
    return ResidentImages(pixels, TARGETS[:count])


@pytest.fixture
def photos(tmp_path) -> FileImages:
    """Sharp photos of many sizes, PNG and JPEG in turn."""
    paths = []
    for i, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.{('png', 'jpg')[i % 2]}"
        Image.fromarray(pixels).save(path)
        paths.append(str(path))
    return FileImages(paths, TARGETS, 3)


def damage(images: FileImages, *rows: int) -> None:
    for row in rows:
        path = Path(images.paths[row])
        path.write_bytes(path.read_bytes()[:200])


def draw(fetch: TrainFetch, views: Views, step: int):
    return DrawViews(fetch, views)(fetch(step), torch.float32)


def same_samples(a, b) -> None:
    assert a.views.keys() == b.views.keys()
    assert a.views
    for name in a.views:
        assert torch.equal(a.views[name], b.views[name]), name
    for name in ("target", "hidden_target", "index"):
        mine, other = getattr(a, name), getattr(b, name)
        assert (mine is None) == (other is None), name
        assert mine is None or torch.equal(mine, other), name


class TestResident:
    def fetch_raw(self, images, split=None):
        """Views that show the pixels themselves."""
        declared = {"labeled": {"raw": 1}, "unlabeled": {"raw": 2}}
        views = Views(
            declared, 8, mean=(0.0,) * 3, std=(1.0,) * 3, overrides={"raw": nn.Identity()}
        )
        fetch = make_fetch(images, views, 8, split=split)
        return fetch, views

    def test_pixels_and_targets_are_those_of_the_rows(self):
        images = noise(8)
        fetch, views = self.fetch_raw(images)
        rows_seen = set()
        for step in (0, 1, 2, 30):
            travelled = fetch(step)
            assert travelled.labeled.views == travelled.unlabeled.views == {}
            batch = DrawViews(fetch, views)(travelled, torch.float32)
            planned = fetch.plan(step)
            assert batch.step == step
            assert torch.equal(batch.labeled.index, planned.labeled)
            assert torch.equal(batch.unlabeled.index, planned.unlabeled)
            for samples, rows in ((batch.labeled, LABELED), (batch.unlabeled, UNLABELED)):
                expected = images.pixels[rows[samples.index]].float() / 255
                for copy in samples.views["raw"]:
                    torch.testing.assert_close(copy, expected)
            assert torch.equal(batch.labeled.target, TARGETS[LABELED[batch.labeled.index]])
            assert batch.unlabeled.target is None
            hidden = TARGETS[UNLABELED[batch.unlabeled.index]]
            assert torch.equal(batch.unlabeled.hidden_target, hidden)
            rows_seen |= set(UNLABELED[batch.unlabeled.index].tolist())
        assert rows_seen == set(UNLABELED.tolist())

    def test_nothing_known_of_the_unlabeled(self):
        split = Split(LABELED, torch.tensor([0, 2, 5]), torch.tensor([3]))
        fetch, _ = self.fetch_raw(noise(8), split)
        assert fetch(0).unlabeled.hidden_target is None
        assert fetch(0).unlabeled.target is None

    def test_one_known_class_makes_hidden_targets_in_all_batches(self):
        split = Split(LABELED, torch.tensor([0, 2, 5, 3]), torch.tensor([7]))
        views = make_views(FIXMATCH, 8)
        fetch = make_fetch(noise(8), views, 8, batch=(2, 2), split=split)
        for step in range(4):
            unlabeled = fetch(step).unlabeled
            assert torch.equal(unlabeled.hidden_target, TARGETS[split.unlabeled[unlabeled.index]])

    def test_without_unlabeled_images(self):
        views = make_views({"labeled": {"weak": 1}}, 8)
        split = Split(LABELED, UNLABELED, UNLABELED[:0])
        fetch = TrainFetch(Plan(Shuffled(3, 2, 0, "labeled"), None), split, noise(8), views, 8)
        batch = draw(fetch, views, 3)
        assert batch.unlabeled is None
        assert batch.labeled.views["weak"].shape == (1, 2, 3, 8, 8)

    def test_views_are_drawn_for_stream_and_step(self):
        images, views = noise(32), make_views(FIXMATCH, 32)
        fetch = make_fetch(images, views, 32)
        batch = draw(fetch, views, 9)
        for stream, rows in (("labeled", LABELED), ("unlabeled", UNLABELED)):
            samples = getattr(batch, stream)
            expected, _ = views(stream, images.pixels[rows[samples.index]], 9)
            for name, view in expected.items():
                assert torch.equal(samples.views[name], view)

    def test_dtype(self):
        fetch, views = self.fetch_raw(noise(8))
        batch = DrawViews(fetch, views)(fetch(0), torch.float64)
        assert batch.labeled.views["raw"].dtype == torch.float64
        assert batch.unlabeled.views["raw"].dtype == torch.float64


def reference_views(declared, stream: str, photos: list[Image.Image], step: int):
    """torchvision's crop of each photo, then the rest of the pipeline, normalised by hand."""
    out = {}
    for name, copies in declared[stream].items():
        transform = preset(name, SIZE, multicrop="local" in declared["unlabeled"])
        drawn = transform.draw(copies * len(photos), make_generator(5, "views", stream, name, step))
        crop = next(iter(transform))
        crops = []
        for numbers, photo in zip(drawn["0"]["crop"], photos * copies, strict=True):
            box = crop.box(numbers, photo.height, photo.width)
            crops.append(tv.pil_to_tensor(tv.resized_crop(photo, *box, [crop.size, crop.size])))
        result = transform.apply_from(1, torch.stack(crops).float() / 255, drawn)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        out[name] = ((result - mean) / std).unflatten(0, (copies, len(photos)))
    return out


def open_photos(images: FileImages, rows) -> list[Image.Image]:
    return [Image.open(images.paths[row]).convert("RGB") for row in rows]


class TestFiles:
    @pytest.mark.parametrize("declared", [FIXMATCH, PAWS])
    def test_views_are_torchvisions_crops_and_the_rest(self, photos, declared):
        views = make_views(declared, SIZE)
        fetch = make_fetch(photos, views, SIZE)
        travelled = fetch(4)
        assert all(v.dtype == torch.uint8 for v in travelled.unlabeled.views.values())
        batch = DrawViews(fetch, views)(travelled, torch.float32)
        for stream, rows in (("labeled", LABELED), ("unlabeled", UNLABELED)):
            samples = getattr(batch, stream)
            shown = open_photos(photos, rows[samples.index].tolist())
            expected = reference_views(declared, stream, shown, 4)
            assert samples.views.keys() == expected.keys()
            for name, view in expected.items():
                torch.testing.assert_close(samples.views[name], view, atol=2e-5, rtol=0)
        assert torch.equal(batch.labeled.target, TARGETS[LABELED[batch.labeled.index]])
        hidden = TARGETS[UNLABELED[batch.unlabeled.index]]
        assert torch.equal(batch.unlabeled.hidden_target, hidden)

    def test_view_without_a_crop_begins_with_the_evaluated_square(self, photos):
        views = make_views(FIXMATCH, SIZE, overrides={"strong": nn.Identity()})
        fetch = make_fetch(photos, views, SIZE)
        samples = draw(fetch, views, 0).unlabeled
        shown = open_photos(photos, UNLABELED[samples.index].tolist())
        squares = torch.stack([tv.pil_to_tensor(resize_center(photo, SIZE)) for photo in shown])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        for copy in samples.views["strong"]:
            torch.testing.assert_close(copy, (squares / 255 - mean) / std)
        expected = reference_views(FIXMATCH, "unlabeled", shown, 0)["weak"]
        torch.testing.assert_close(samples.views["weak"], expected, atol=2e-5, rtol=0)

    def test_same_crops_with_and_without_workers(self, photos):
        views = make_views(FIXMATCH, SIZE)
        batches = []
        for workers in (0, 2):
            fetch = make_fetch(photos, views, SIZE)
            loader = TrainLoader(fetch, 3, lambda: 2, num_workers=workers)
            draw_views = DrawViews(fetch, views)
            batches.append([draw_views(batch, torch.float32) for batch in loader])
        for mine, other in zip(*batches, strict=True):
            assert mine.step == other.step
            same_samples(mine.labeled, other.labeled)
            same_samples(mine.unlabeled, other.unlabeled)

    def test_gray(self, photos):
        gray = FileImages(list(photos.paths), TARGETS, 1)
        views = Views(FIXMATCH, SIZE, mean=(0.5,), std=(0.5,))
        batch = draw(make_fetch(gray, views, SIZE), views, 0)
        assert batch.unlabeled.views["strong"].shape == (2, 6, 1, SIZE, SIZE)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("kind", ["resident", "files"])
def test_ranks_together_draw_what_one_would(kind, world_size, photos):
    images, size = (noise(32), 32) if kind == "resident" else (photos, SIZE)
    for declared in (FIXMATCH, PAWS):
        views = make_views(declared, size)
        one = draw(make_fetch(images, views, size, batch=(4, 8)), views, 3)
        ranks = []
        for rank in range(world_size):
            fetch = make_fetch(images, views, size, batch=(4, 8), rank=rank, world_size=world_size)
            ranks.append(draw(fetch, views, 3))
        for stream in ("labeled", "unlabeled"):
            whole, parts = getattr(one, stream), [getattr(batch, stream) for batch in ranks]
            for name, view in whole.views.items():
                joined = torch.cat([part.views[name] for part in parts], dim=1)
                torch.testing.assert_close(joined, view, atol=1e-6, rtol=0)
            for name in ("target", "hidden_target", "index"):
                if getattr(whole, name) is not None:
                    joined = torch.cat([getattr(part, name) for part in parts])
                    assert torch.equal(joined, getattr(whole, name))


class TestBroken:
    def crops(self, images, workers: int = 0):
        """One pass over the unlabelled list, by position."""
        views = make_views({"labeled": {"weak": 1}, "unlabeled": {"weak": 1}}, SIZE)
        split = Split(LABELED, torch.tensor([0, 2, 3, 5, 7]), UNLABELED[:0])
        fetch = make_fetch(images, views, SIZE, batch=(3, 5), split=split)
        return fetch, list(TrainLoader(fetch, 2, lambda: 0, num_workers=workers)), views, split

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize(("rows", "shown"), [
        ([2], {2: 3}),
        ([2, 3], {2: 5, 3: 5}),
        ([7], {7: 0}),  # the neighbour of the last is the first
    ])  # fmt: skip
    def test_unlabeled_is_replaced_by_its_neighbour(self, photos, rows, shown, workers):
        damage(photos, *rows)
        fetch, batches, views, split = self.crops(photos, workers)
        for batch in batches:  # each holds the whole list once
            listed = split.unlabeled[batch.unlabeled.index].tolist()
            originals = open_photos(photos, [shown.get(row, row) for row in listed])
            drawn = views.worker_crops("unlabeled", batch.step, 0, 1, 5)["weak"][0]
            for got, photo, numbers in zip(
                batch.unlabeled.views["weak"][0], originals, drawn, strict=True
            ):
                box = views.crop("unlabeled", "weak").box(numbers, photo.height, photo.width)
                expected = tv.pil_to_tensor(tv.resized_crop(photo, *box, [SIZE, SIZE]))
                assert torch.equal(got, expected)
            hidden = [-1 if row in rows else int(TARGETS[row]) for row in listed]
            assert batch.unlabeled.hidden_target.tolist() == hidden
        # Met twice, counted once.
        names = ", ".join(photos.paths[row] for row in rows)
        message = f"{len(rows)} unlabelled images could not be read .*{names}"
        with pytest.warns(UserWarning, match=message):
            fetch.report_broken()

    def test_nothing_to_report(self, photos, recwarn):
        fetch, *_ = self.crops(photos)
        fetch.report_broken()
        assert not recwarn.list

    def test_all_unlabeled(self, photos):
        damage(photos, 0, 2, 3, 5, 7)
        with pytest.raises(BrokenImageError, match="so are all images of the unlabelled list"):
            self.crops(photos)

    def test_labeled_is_an_error(self, photos):
        damage(photos, 4)
        with pytest.raises(BrokenImageError, match=r"4\.png"):
            self.crops(photos)

    def test_check_readable(self, photos, monkeypatch):
        check_readable(photos, torch.arange(8))
        damage(photos, 5)
        check_readable(photos, LABELED)
        with pytest.raises(BrokenImageError) as error:
            check_readable(photos, torch.arange(8))
        assert error.value.path == photos.paths[5]
        monkeypatch.setattr(fetch_module, "_CHECKED", 7)
        check_readable(photos, torch.arange(8))  # would take too long


class TestEvaluation:
    def test_resident(self):
        images, indices = noise(8), torch.tensor([5, 1, 1])
        pixels, target, index = EvaluationFetch(images, 8)(indices)
        assert torch.equal(pixels, images.pixels[[5, 1, 1]])
        assert target.tolist() == TARGETS[[5, 1, 1]].tolist()
        assert index.tolist() == [5, 1, 1]

    def test_files(self, photos):
        pixels, target, index = EvaluationFetch(photos, SIZE)(torch.tensor([7, 2]))
        shown = open_photos(photos, [7, 2])
        for got, photo in zip(pixels, shown, strict=True):
            assert torch.equal(got, tv.pil_to_tensor(resize_center(photo, SIZE)))
        assert target.tolist() == TARGETS[[7, 2]].tolist()
        assert index.tolist() == [7, 2]

    def test_predict_batches_carry_no_target(self, photos):
        for images, size in ((noise(8), 8), (photos, SIZE)):
            _, index = EvaluationFetch(images, size, with_target=False)(torch.tensor([3]))
            assert index.tolist() == [3]

    def test_no_image(self, photos):
        """What a process gets whose share of the list is empty."""
        for images, size in ((noise(SIZE), SIZE), (photos, SIZE)):
            pixels, *_ = EvaluationFetch(images, size)(torch.tensor([], dtype=torch.int64))
            assert pixels.shape == (0, 3, SIZE, SIZE)
