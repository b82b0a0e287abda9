"""Stored features: what is computed, when again, and that training on them is training."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_ssl import methods
from lightning_ssl.augment import Compose, Normalize, Op, RandAugment, Views
from lightning_ssl.cli.errors import parameters
from lightning_ssl.commands.features import features as look
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.data.features import cache as cache_module
from lightning_ssl.data.features.cache import open_features
from lightning_ssl.data.features.draw import draw_slots
from lightning_ssl.data.features.fill import Filler
from lightning_ssl.data.features.store import CHUNK, Store
from lightning_ssl.data.sources.images import BrokenImageError
from lightning_ssl.methods import FixMatch, SSLModule, Supervised

from runs import differences

pytestmark = [
    pytest.mark.filterwarnings("ignore:`ema_decay`"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The .*Loader object does not have many workers"),
]

COUNT = CHUNK + 44
NEEDS_PIXELS = ("S4LRotation", "MOAM", "CRMatch", "ReMixMatch", "VAT", "MixMatch", "RegMixMatch")
METHODS = sorted(
    name
    for name in methods.__all__
    if issubclass(getattr(methods, name), SSLModule) and name not in ("SSLModule", *NEEDS_PIXELS)
)


class Network(nn.Module):
    """A network of the user's own."""

    num_features = 12

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=2), nn.LazyLinear(12)
        self.linear(torch.zeros(1, 4 * 9))

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.conv(images).relu(), 3)
        return self.linear(pooled.flatten(1))


def make_data(folder: Path, **options: Any) -> SSLDataModule:
    """Images of three classes in RAM."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)
    targets = np.arange(COUNT) % 3
    source = from_arrays(images, targets, test=(images[:40], targets[:40]))
    options = {
        "num_labels": 12, "batch_size": 6, "unlabeled_batch_size": 10, "val_per_class": 3, "seed": 0
    } | options  # fmt: skip
    return SSLDataModule.from_source(
        source, cached_features=True, features_dir=str(folder / "features"), **options
    )


def make_method(name: str = "FixMatch", seed: int = 0, **options: Any) -> Any:
    """A method on a frozen network."""
    method = getattr(methods, name)
    sizes = {"num_labeled": 12, "num_unlabeled": COUNT, "class_counts": [4, 4, 4], "image_side": 8}
    sizes = {key: value for key, value in sizes.items() if key in parameters(method)}
    options |= {"perplexity": 5.0} if name == "VMFSNE" else {}
    network = "wrn_10_1" if name == "CRMatch" else Network(seed)  # it asks for maps
    torch.manual_seed(1)
    return method(3, backbone=network, freeze_backbone=True, **sizes, **options)


class Seen(pl.Callback):
    """Keep the batches as the method gets them."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *args: Any) -> None:
        self.batches.append(batch)


def fit(
    module: Any, data: Any, steps: int = 2, *callbacks: Any, ckpt_path: Any = None
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(callbacks), num_sanity_val_steps=0,
        val_check_interval=steps, check_val_every_n_epoch=None, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def files(folder: Path) -> dict[str, bytes]:
    """Arrays of all stores by name."""
    found = sorted((folder / "features").glob("*/*.npy"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


def view(folder: Path, name: str, images: int = COUNT) -> np.ndarray:
    """Features of a view of the training images."""
    found = [np.load(path) for path in (folder / "features").glob(f"*/{name}-????????.npy")]
    (array,) = (values for values in found if values.shape[1] == images)
    return array


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the cache says."""
    texts: list[str] = []
    monkeypatch.setattr(cache_module, "rank_zero_info", texts.append)
    return texts


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What goes through the network to be stored."""
    rows: list[Any] = []
    write = Store.write

    def count(self: Any, label: str, slot: int, start: int, values: Any) -> None:
        rows.append((label.rpartition("-")[0], slot, start))
        write(self, label, slot, start, values)

    monkeypatch.setattr(Store, "write", count)
    return rows


def test_slots_are_drawn_for_all_ranks_and_differ_between_copies() -> None:
    keys = (0, "unlabeled", "strong", 3)
    slots = draw_slots(*keys, copies=3, slots=4, count=2000)
    assert all(len(set(column)) == 3 for column in slots.T.tolist())
    assert (slots.min(), slots.max()) == (0, 3)
    for copy in slots:  # every slot is as likely as another
        assert np.allclose(np.bincount(copy) / 2000, 0.25, atol=0.05)
    assert torch.equal(slots, draw_slots(*keys, copies=3, slots=4, count=2000))
    assert torch.equal(slots[:1], draw_slots(*keys, copies=1, slots=4, count=2000))
    assert draw_slots(0, "labeled", "weak", 0, copies=1, slots=1, count=5).tolist() == [[0] * 5]


def test_what_is_stored_is_what_a_run_would_have_seen(tmp_path: Path) -> None:
    data, module = make_data(tmp_path, cached_views={"weak": 2}), make_method()
    fit(module, data)
    images = data.source.train.pixels  # type: ignore[attr-defined]
    views = Views({"cache": {"weak": 1, "strong": 1}}, 8, mean=data.mean, std=data.std, seed=0)
    module.backbone.eval()
    for chunk in (0, 1):
        rows = images[chunk * CHUNK : (chunk + 1) * CHUNK]
        whole = torch.cat([rows, rows[:1].expand(CHUNK - len(rows), -1, -1, -1)])
        for slot in (0, 1):
            made, _ = views("cache", whole, slot * 2**32 + chunk)
            for name in ("weak", "strong"):
                with torch.no_grad():
                    wanted = module.backbone(made[name][0])[: len(rows)]
                found = view(tmp_path, name)[slot, chunk * CHUNK : (chunk + 1) * CHUNK]
                torch.testing.assert_close(
                    torch.from_numpy(found).float(), wanted, rtol=1e-3, atol=1e-4
                )
    assert view(tmp_path, "weak").shape == (2, COUNT, 12)
    assert view(tmp_path, "strong").shape == (8, COUNT, 12)
    # Slots differ: they are other draws.
    assert not np.array_equal(*view(tmp_path, "weak"))


def test_with_one_view_training_is_that_on_images(tmp_path: Path) -> None:
    still = {"weak": Compose([]), "strong": Compose([])}
    weights = []
    for cached in (True, False):
        data = make_data(tmp_path, views=still, cached_views=1)
        data._features = data._features if cached else None
        module, seen = make_method(threshold=0.0), Seen()
        trainer = fit(module, data, 20, seen)
        weights.append(torch.cat([p.detach().flatten() for p in module.classifier.parameters()]))
        views = seen.batches[0].unlabeled.views["weak"]
        assert views.shape == ((1, 10, 12) if cached else (1, 10, 3, 8, 8))
        assert views.dtype == torch.float32
        accuracy = trainer.callback_metrics["val/acc"]
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-4)
    # Tested from images, the result is that of stored features.
    (metrics,) = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    ).validate(module, datamodule=data, verbose=False)
    assert metrics["val/acc"] == accuracy


def test_a_killed_filling_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: list[Any]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(make_method(), make_data(whole))
    once = len(embedded)
    embedded.clear()
    finish = Store.finish

    def dies(self: Any, chunk: int, *args: Any) -> None:
        if chunk == 1:
            raise KeyboardInterrupt
        finish(self, chunk, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):  # Lightning makes it an exit
            fit(make_method(), make_data(parts))
    before = len(embedded)
    fit(make_method(), make_data(parts))
    assert files(parts) == files(whole)
    assert len(embedded) == once + 13  # the one piece of the second chunk was done twice
    assert before > 13
    embedded.clear()
    fit(make_method(), make_data(parts))
    assert embedded == []


def test_ranks_fill_and_draw_what_one_would(tmp_path: Path, monkeypatch: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    seen = Seen()
    fit(make_method(), make_data(one), 2, seen)
    call = Filler.__call__

    def as_two(self: Any, wanted: Any, rank: int, world_size: int, *args: Any) -> None:
        for rank in (1, 0):
            call(self, wanted, rank, 2, *args)

    monkeypatch.setattr(Filler, "__call__", as_two)
    data = make_data(two)
    trainer = fit(make_method(), data)
    assert files(two) == files(one)
    data.setup("fit")
    data.train_dataloader()
    assert trainer is data.trainer
    fetch = data._draw_views.fetch  # type: ignore[union-attr]
    whole = fetch(1)
    fetch.plan.world_size = 2
    halves = []
    for fetch.plan.rank in (0, 1):
        halves.append(fetch(1))
    for stream, name in (("labeled", "weak"), ("unlabeled", "weak"), ("unlabeled", "strong")):
        parts = [getattr(half, stream).views[name] for half in halves]
        assert torch.equal(torch.cat(parts, 1), getattr(whole, stream).views[name])
        assert torch.equal(
            parts[0].float(), getattr(seen.batches[1], stream).views[name][:, : parts[0].shape[1]]
        )


def test_more_slots_and_views_are_added_to_those_that_are_there(
    tmp_path: Path, embedded: list[Any]
) -> None:
    fit(make_method(), make_data(tmp_path, cached_views=2))
    before = view(tmp_path, "strong")
    embedded.clear()
    fit(make_method(), make_data(tmp_path, cached_views={"strong": 3, "weak": 1}))
    assert {(name, slot) for name, slot, _ in embedded} == {("strong", 2)}
    assert np.array_equal(view(tmp_path, "strong")[:2], before)
    embedded.clear()
    fit(make_method("UDA"), make_data(tmp_path, cached_views=2))  # the same views
    assert embedded == []
    fit(make_method("SequenceMatch"), make_data(tmp_path, cached_views=2))
    assert {name for name, _, _ in embedded} == {"medium"}


def test_what_has_changed_is_computed_again_and_named(
    tmp_path: Path, said: list[str], embedded: list[Any]
) -> None:
    fit(make_method(), make_data(tmp_path))
    assert said == []
    for changed, module, options in (
        ("`weights`", make_method(seed=1), {}),
        ("`std`", make_method(), {"std": [0.5, 0.5, 0.5]}),
    ):
        embedded.clear()
        fit(module, make_data(tmp_path, **options))
        assert changed in said[-1], said
        assert len(said[-1].split("`")) == 3  # nothing else
        assert embedded
    embedded.clear()
    fit(make_method(), make_data(tmp_path, views={"strong": RandAugment(1)}))
    assert {name for name, _, _ in embedded} == {"strong"}
    embedded.clear()
    fit(make_method(), make_data(tmp_path, seed=5))  # other runs share the features
    assert embedded == []


def test_features_of_other_contents_are_refused(tmp_path: Path) -> None:
    fit(make_method(), make_data(tmp_path))
    for path in (tmp_path / "features").glob("*/eval-????????.npy"):
        array = np.load(path, mmap_mode="r+")
        array[0] = array[0, ::-1]
        array.flush()
    with pytest.raises(ValueError, match=r"`data.features_dir` holds features .* delete that"):
        fit(make_method(), make_data(tmp_path))


@pytest.mark.parametrize("name", ["meta.json", "eval-????????.npy", "*-????????.done.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"\x93NUMPY\x01\x00", None])
def test_a_damaged_file_is_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    method, folder = make_method("FixMatch"), str(tmp_path / "features")
    fit(method, make_data(tmp_path))
    for path in (tmp_path / "features").glob(f"*/{name}"):
        path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    more = make_data(tmp_path, cached_views=9)
    for opening in (lambda: fit(method, more), lambda: look(features_dir=folder)):
        with pytest.raises(ValueError, match=r"holds the damaged file '.*': delete the folder"):
            opening()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "features").touch()
    with pytest.raises(ValueError, match=r"`data.features_dir` must be a folder that can be"):
        fit(make_method(), make_data(tmp_path))
    with pytest.raises(ValueError, match=r"`features_dir` must be a folder, got the file"):
        look(features_dir=str(tmp_path / "features"))


class Halved(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images / 2


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        *(
            (lambda name=name: make_method(name), {}, f"must be false for {name}, which")
            for name in NEEDS_PIXELS
        ),
        (lambda: Supervised(3, backbone=Network()), {}, "or `model.freeze_backbone` true"),
        (make_method, {"views": {"strong": Halved()}}, "a function of your own for 'strong'"),
        (
            make_method,
            {"views": {"strong": RandAugment(pool=[Op(lambda x: x, name="own")])}},
            "a function of your own for 'strong'",
        ),
        (
            lambda: make_method("SimCLR"),
            {"cached_views": 1},
            "at least 2 for the view 'simclr', of which SimCLR takes 2 copies, got 1",
        ),
        (
            lambda: make_method("FixMatch"),
            {"cached_views": {"weak": 0}},
            "`data.cached_views.weak` must be",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused_before_anything_is(
    module: Any, options: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(module(), make_data(tmp_path, **options))
    assert not (tmp_path / "features").exists()


# One of each family; the others take their batches in the same way.
_FEW = {"FixMatch", "PAWS", "VMFSNE", "CoMatch", "MeanTeacher", "SimCLR", "S4LExemplar", "Dash"}


@pytest.mark.parametrize(
    "name", [n if n in _FEW else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_every_other_method_trains_validates_and_resumes(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if name == "S4LExemplar" else {"labeled_order": "stratified"}

    def run(folder: str, start: Path | None = None) -> dict[str, Any]:
        keeps = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=2, save_top_k=-1)
        data = make_data(tmp_path, **options)
        trainer = fit(make_method(name), data, 4, keeps, ckpt_path=start)
        assert 0 <= trainer.callback_metrics["val/acc"] <= 1
        found: dict[str, Any] = torch.load(tmp_path / folder / "step=4.ckpt", weights_only=True)
        return found

    whole = run("whole")
    resumed = run("resumed", tmp_path / "whole" / "step=2.ckpt")
    for part in ("state_dict", "optimizer_states"):
        assert differences(whole[part], resumed[part]) == []
    assert whole["SSLDataModule"]["features"]["views"]


def test_a_run_goes_on_with_its_own_features_only(tmp_path: Path) -> None:
    keeps = ModelCheckpoint(tmp_path / "run", save_last=True)
    fit(make_method(), make_data(tmp_path), 2, keeps)
    last = tmp_path / "run" / "last.ckpt"
    for options, name in (
        ({"views": {"strong": RandAugment()}}, "views"),
        ({"cached_views": 3}, "cached_views"),
        ({"crop_pct": 0.5}, "crop_pct"),
    ):
        with pytest.raises(ValueError, match=name):
            fit(make_method(), make_data(tmp_path, **options), 4, ckpt_path=last)
    # The weights are those of the checkpoint, whatever the network began with.
    fit(make_method(seed=3), make_data(tmp_path), 4, ckpt_path=last)
    source = make_data(tmp_path).source
    source.train.pixels[0] = 0  # type: ignore[attr-defined]
    other = SSLDataModule.from_source(
        source, cached_features=True, features_dir=str(tmp_path / "features"), num_labels=12,
        batch_size=6, unlabeled_batch_size=10, val_per_class=3, seed=0,
    )  # fmt: skip
    other._given_mean, other._given_std = list(other.mean), list(other.std)
    with pytest.raises(ValueError, match=r"`ckpt_path` was trained on other features .*`images`"):
        fit(make_method(), other, 4, ckpt_path=last)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 24 photos of two classes, and 20 without label, one of them no image."""
    generator = np.random.default_rng(1)
    for folder, count in (("train/a", 12), ("train/b", 12), ("unlabeled", 20)):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (30 + number, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / folder / f"{number:02}.png")
    (tmp_path / "photos" / "unlabeled" / "07.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_photos_in_files(photos: Path, tmp_path: Path, said: list[str], embedded: Any) -> None:
    def make(**options: Any) -> SSLDataModule:
        return SSLDataModule(
            "folder", root=str(photos), batch_size=4, unlabeled_batch_size=40, val_per_class=2,
            seed=0, include_labeled=False, image_size=72, cached_features=True,
            features_dir=str(tmp_path / "features"), **options,
        )  # fmt: skip

    module, data, seen = FixMatch(2, backbone=Network(), freeze_backbone=True), make(), Seen()
    with pytest.warns(UserWarning, match=r"1 unlabelled images could not be read .*07.png"):
        fit(module, data, 1, seen)
    source = data.source.train
    normalize = Normalize(data.mean, data.std)
    # The image as evaluation sees it.
    features = open_features(make(), module)["train"]
    row = 3
    pixels = torch.from_numpy(np.array(source.center(source.decode(row), 72)))  # type: ignore[attr-defined]
    image = pixels.permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        wanted = module.backbone(normalize(image, {}))[0]
    torch.testing.assert_close(features[row].float(), wanted, rtol=1e-3, atol=1e-3)
    # In the place of the broken image stands its neighbour, and its class is not known.
    rows = data.split.unlabeled
    broken = next(r for r in rows.tolist() if source.name(r).endswith("unlabeled/07.png"))
    index = seen.batches[0].unlabeled.index
    shown = dict(zip(rows[index].tolist(), seen.batches[0].unlabeled.views["weak"][0], strict=True))
    stored = view(tmp_path, "weak", 44)
    for row, values in shown.items():
        wanted_row = row + 1 if row == broken else row
        assert any(np.array_equal(values.numpy(), slot[wanted_row]) for slot in stored)
    # A file that was written again.
    embedded.clear()
    os.utime(photos / "train" / "a" / "03.png", (1, 1))
    fit(FixMatch(2, backbone=Network(), freeze_backbone=True), make(), 1)
    assert "`images`" in said[-1]
    assert embedded
    # A broken image with a label ends it at once.
    embedded.clear()
    (photos / "train" / "a" / "03.png").write_bytes(b"no image")
    with pytest.raises(BrokenImageError, match=r"03\.png"):
        fit(FixMatch(2, backbone=Network(), freeze_backbone=True), make(), 1)
    assert embedded == []


def test_meta_says_what_is_there(tmp_path: Path) -> None:
    fit(make_method(), make_data(tmp_path))
    (found,) = (
        meta
        for path in (tmp_path / "features").glob("*/meta.json")
        if (meta := json.loads(path.read_text()))["part"] == "train"
    )
    assert (found["images"], found["features"]) == (COUNT, 12)
    assert sorted(label.split("-")[0] for label in found["views"]) == ["eval", "strong", "weak"]


def test_outliers_count_in_no_loss_that_predictions_teach(tmp_path: Path) -> None:
    data = make_data(tmp_path, reject_outliers=True)
    module = make_method()
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            seen.append((batch.unlabeled.index, batch.unlabeled.kept))

    pl.Trainer(
        max_steps=40,
        accelerator="cpu",
        logger=False,
        callbacks=[Look()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)
    features = torch.nn.functional.normalize(open_features(data, module)["train"].float())
    support = features[data.split.labeled]
    cosines = support @ support.T - 2 * torch.eye(len(support))
    threshold = cosines.max(1).values.quantile(0.05)
    scores = (features[data.split.unlabeled] @ support.T).max(1).values
    clear = (scores - threshold).abs() > 1e-4
    near = scores >= threshold
    assert 0 < near.float().mean() < 1
    for index, kept in seen:
        assert torch.equal(kept[clear[index]], near[index][clear[index]])
    with pytest.raises(ValueError, match=r"`data\.reject_outliers` must be false without"):
        SSLDataModule("digits", reject_outliers=True)
