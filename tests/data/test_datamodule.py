"""The datamodule under a real trainer, with a small network."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torchvision.transforms import functional as tv

from lightning_ssl.data.datamodule import SSLDataModule
from lightning_ssl.data.loading import fetch as fetch_module
from lightning_ssl.data.sources.arrays import from_arrays
from lightning_ssl.data.sources.images import (
    BrokenImageError,
    FileImages,
    ResidentImages,
    resize_center,
)
from lightning_ssl.data.sources.named import open_source
from lightning_ssl.methods import FixMatch, Supervised

CIFAR10_ROOT = os.environ.get("CIFAR10_ROOT")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`ema_decay`"),
    pytest.mark.filterwarnings("ignore:BatchNorm momentum"),
    pytest.mark.filterwarnings("ignore:The .* list .* is shorter than its batch"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The .*Loader object does not have many workers"),
]


class Seen(pl.Callback):
    """Keep the batches as the method gets them."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.train.append(batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.val.append(batch)

    @property
    def steps(self) -> list[int]:
        return [batch.step for batch in self.train]


class Invert(nn.Module):
    def forward(self, images):
        return 1 - images


class Odd(FixMatch):
    @property
    def views(self):
        return {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "stong": 1}}


def method(num_classes: int = 10, cls=FixMatch, **options):
    return cls(num_classes, backbone="wrn_10_1", ema_decay=0, **options)


def digits(**options) -> SSLDataModule:
    defaults = {"num_labels": 40, "batch_size": 8, "unlabeled_batch_size": 16, "seed": 0}
    return SSLDataModule("digits", **(defaults | options))


def make_trainer(**flags) -> pl.Trainer:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    if "max_epochs" not in flags:
        quiet["max_steps"] = 2
    return pl.Trainer(**(quiet | flags))


def fit(data: SSLDataModule, module=None, ckpt_path=None, **flags) -> tuple[pl.Trainer, Seen]:
    seen = Seen()
    trainer = make_trainer(callbacks=[seen, *flags.pop("callbacks", [])], **flags)
    trainer.fit(module or method(), data, ckpt_path=ckpt_path)
    return trainer, seen


def same_lists(a: SSLDataModule, b: SSLDataModule) -> bool:
    return all(
        torch.equal(getattr(a.split, name), getattr(b.split, name))
        for name in ("labeled", "unlabeled", "val")
    )


def write_photos(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng((seed, i)).integers(
            0, 256, (size[1] + i, size[0], 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def photo_root(tmp_path) -> Path:
    """Two classes of 4 labelled images, 6 without label, 2 test images a class."""
    for seed, name in enumerate(("cat", "dog")):
        write_photos(tmp_path / "labeled" / name, 4, (30, 24), seed)
        write_photos(tmp_path / "test" / name, 2, (30, 24), 10 + seed)
    write_photos(tmp_path / "unlabeled", 6, (30, 24), 20)
    return tmp_path


def folder(root: Path, image_size: int, **options) -> SSLDataModule:
    return SSLDataModule(
        "folder", root=str(root), image_size=image_size, batch_size=4, unlabeled_batch_size=14,
        seed=0, num_workers=0, **options,
    )  # fmt: skip


class TestSplit:
    @pytest.mark.parametrize("options", [{}, {"val_per_class": 1}, {"include_labeled": False}])
    def test_is_written_beside_the_run_and_accepted_back(self, tmp_path, options):
        data = digits(**options)
        trainer, _ = fit(data, logger=CSVLogger(tmp_path))
        path = Path(trainer.log_dir) / "split.json"
        assert tmp_path in path.parents
        again = SSLDataModule("digits", labels_file=str(path), seed=7)
        assert same_lists(again, data)
        assert not same_lists(digits(**options, seed=7), data)

    def test_is_not_written_without_a_logger(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        fit(digits())
        assert not list(tmp_path.rglob("split.json"))

    def test_numbers_linked_to_the_method(self):
        data = digits(num_labels=60, val_per_class=1)
        assert (data.num_classes, data.num_labeled, data.num_unlabeled) == (10, 50, 1427)
        assert data.class_counts == [5] * 10
        targets = data.source.train.targets
        assert torch.bincount(targets[data.split.labeled]).tolist() == [5] * 10

    def test_include_labeled(self):
        for include in (True, False):
            data = digits(include_labeled=include)
            shared = set(data.split.labeled.tolist()) & set(data.split.unlabeled.tolist())
            assert len(shared) == 40 * include
            assert data.num_unlabeled == 1437 - 40 * (not include)
            _, seen = fit(data)
            rows = torch.cat([batch.unlabeled.index for batch in seen.train])
            assert torch.equal(
                torch.cat([batch.unlabeled.hidden_target for batch in seen.train]),
                data.source.train.targets[data.split.unlabeled[rows]],
            )

    def test_all_labelled_and_nothing_left(self):
        with pytest.raises(ValueError, match="unlabeled list holds no image"):
            fit(digits(num_labels=None, include_labeled=False, val_per_class=0))
        _, seen = fit(
            digits(num_labels=None, include_labeled=False, val_per_class=0),
            method(cls=Supervised),
        )
        assert all(batch.unlabeled is None for batch in seen.train)

    def test_seed_of_seed_everything(self, monkeypatch):
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        assert same_lists(digits(seed=None), digits(seed=7))
        assert not same_lists(digits(seed=None), digits(seed=8))


class TestCheckpoint:
    def test_record_needs_no_pickle(self, tmp_path):
        torch.save(digits().state_dict(), tmp_path / "record.pt")
        record = torch.load(tmp_path / "record.pt", weights_only=True)
        assert record["classes"] == [str(i) for i in range(10)]
        assert (record["image_size"], record["in_channels"]) == (8, 3)
        assert record["mean"] == pytest.approx([0.3054] * 3)
        assert record["std"] == pytest.approx([0.3753] * 3)

    def test_other_classes(self):
        images, targets = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
        arrays = {"mean": (0.5,), "std": (0.5,), "name": "pets"}
        one = SSLDataModule.from_source(from_arrays(images, targets, classes="ab", **arrays))
        two = SSLDataModule.from_source(from_arrays(images, targets, classes="ba", **arrays))
        one.load_state_dict(one.state_dict())
        with pytest.raises(ValueError, match=r"classes \('a', 'b'\), the data has\s+\('b', 'a'\)"):
            two.load_state_dict(one.state_dict())

    def test_other_images_are_refused_only_where_training_goes_on(self, tmp_path):
        path = str(tmp_path / "run.ckpt")
        data = digits(num_labels=60, val_per_class=1)
        trainer, _ = fit(data)
        trainer.save_checkpoint(path)
        _, seen = fit(digits(num_labels=60, val_per_class=1), ckpt_path=path, max_steps=3)
        assert seen.steps == [2]
        other = digits(num_labels=70, val_per_class=1)
        with pytest.raises(ValueError, match=r"other 'labeled' images .* `data\.labels_file`"):
            fit(other, ckpt_path=path, max_steps=3)
        with pytest.raises(ValueError, match=r"data seed 0, got 1: give --data\.seed 0"):
            fit(digits(num_labels=60, val_per_class=1, seed=1), ckpt_path=path, max_steps=3)
        own = {"weak": torch.nn.Identity()}
        with pytest.raises(ValueError, match=r"own for \[\], got some for \['weak'\]"):
            fit(digits(num_labels=60, val_per_class=1, views=own), ckpt_path=path, max_steps=3)
        make_trainer(limit_test_batches=1).test(method(), other, ckpt_path=path, verbose=False)

    def test_other_validation_images(self):
        data = digits(num_labels=60, val_per_class=1)
        record = data.state_dict()
        record["val"] = record["val"].clone()
        record["val"][0] += 1
        data.load_state_dict(record)  # no trainer: nothing is trained
        fit(data)
        data.trainer.state.fn = pl.trainer.states.TrainerFn.FITTING
        with pytest.raises(ValueError, match="other 'val' images"):
            data.load_state_dict(record)


class TestSteps:
    @pytest.mark.parametrize(("steps", "expected"), [
        (3, 3),
        ("labeled", 40 // 8),
        ("unlabeled", 1437 // 512),
    ])  # fmt: skip
    def test_per_epoch(self, steps, expected):
        data = digits(steps_per_epoch=steps, unlabeled_batch_size=512)
        trainer, _ = fit(data, max_steps=1)
        assert trainer.num_training_batches == expected

    def test_list_shorter_than_its_batch_is_one_step(self):
        data = digits(steps_per_epoch="labeled", batch_size=64)
        trainer, seen = fit(data, max_steps=1)
        assert trainer.num_training_batches == 1
        assert len(set(seen.train[0].labeled.index.tolist())) == 40

    @pytest.mark.parametrize("workers", [0, 2])
    def test_epochs_continue_the_plan(self, workers):
        data = digits(num_labels=20, batch_size=4, unlabeled_batch_size=4, num_workers=workers)
        _, seen = fit(data, max_epochs=4, limit_train_batches=3)
        assert seen.steps == list(range(12))
        rows = torch.cat([batch.labeled.index for batch in seen.train])
        passes = [sorted(part.tolist()) for part in rows.split(20)[:-1]]
        assert passes == [list(range(20))] * 2

    @pytest.mark.parametrize("workers", [0, 2])
    def test_overfitting_repeats_its_batches(self, workers):
        data = digits(num_workers=workers)
        _, seen = fit(data, max_epochs=3, overfit_batches=2, limit_val_batches=1)
        assert seen.steps == [0, 1] * 3
        for batch, first in zip(seen.train[2:], seen.train[:2] * 2, strict=True):
            for mine, other in zip(batch[1:], first[1:], strict=True):
                assert torch.equal(mine.index, other.index)
                for name, view in other.views.items():
                    assert torch.equal(mine.views[name], view)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_resumed_in_mid_epoch(self, tmp_path, workers):
        path = str(tmp_path / "run.ckpt")

        class Save(pl.Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 5:
                    trainer.save_checkpoint(path)

        _, whole = fit(
            digits(steps_per_epoch=3, num_workers=workers), callbacks=[Save()], max_steps=8
        )
        _, seen = fit(digits(steps_per_epoch=3, num_workers=workers), ckpt_path=path, max_steps=8)
        assert whole.steps == list(range(8))
        assert seen.steps == [5, 6, 7]
        for mine, other in zip(seen.train, whole.train[5:], strict=True):
            assert torch.equal(mine.unlabeled.views["strong"], other.unlabeled.views["strong"])

    def test_workers_end_with_the_run(self):
        before = set(multiprocessing.active_children())
        fit(digits(num_workers=2), val_check_interval=2, limit_val_batches=2)
        assert set(multiprocessing.active_children()) == before

    def test_accumulation_counts_micro_batches(self):
        _, seen = fit(digits(), accumulate_grad_batches=3)
        assert seen.steps == list(range(6))


class TestOrder:
    def test_balanced(self):
        # Classes of 3 to 30 labels.
        data = SSLDataModule(
            "digits", label_fraction=0.1, labeled_order="balanced", batch_size=20, seed=0
        )
        targets = data.source.train.targets[data.split.labeled]
        assert len(set(torch.bincount(targets).tolist())) > 1
        _, seen = fit(data)
        for batch in seen.train:
            assert torch.bincount(batch.labeled.target).tolist() == [2] * 10
            assert torch.equal(batch.labeled.target, targets[batch.labeled.index])


class TestEvaluation:
    def run(self, data, num_classes=10, **flags):
        flags = {"limit_val_batches": 1.0, "val_check_interval": 2, "max_steps": 2} | flags
        return fit(data, method(num_classes), **flags)

    def test_cut_out_of_the_labels(self):
        data = digits(num_labels=60, val_per_class=2, eval_batch_size=7)
        trainer, seen = self.run(data)
        assert data.has_validation
        assert data.val_dataloader().stage == "val"
        indices = torch.cat([index for _, _, index in seen.val])
        assert torch.equal(indices, data.split.val)
        assert [len(index) for _, _, index in seen.val] == [7, 7, 6]
        targets = torch.cat([target for _, target, _ in seen.val])
        assert torch.equal(targets, data.source.train.targets[data.split.val])
        trained = torch.cat([data.split.unlabeled, data.split.labeled])
        assert not set(indices.tolist()) & set(trained.tolist())
        assert "val/acc" in trainer.callback_metrics
        assert "test/acc" not in trainer.callback_metrics

    def test_test_images_are_reported_where_there_is_no_validation_part(self):
        data = digits()
        trainer, seen = self.run(data)
        assert not data.has_validation
        assert data.val_dataloader().stage == "test"
        assert torch.equal(torch.cat([index for _, _, index in seen.val]), torch.arange(360))
        assert "test/acc" in trainer.callback_metrics
        assert not any(name.startswith("val/") for name in trainer.callback_metrics)

    def test_own_validation_part(self):
        source = make_arrays(val=6)
        data = SSLDataModule.from_source(
            source, num_labels=6, batch_size=3, unlabeled_batch_size=4, seed=0
        )
        _, seen = self.run(data, 3)
        assert data.has_validation
        assert not len(data.split.val)
        targets = torch.cat([target for _, target, _ in seen.val])
        assert torch.equal(targets, source.val.targets)

    def test_no_images_to_evaluate(self):
        data = SSLDataModule.from_source(make_arrays(), num_labels=6, batch_size=3, seed=0)
        trainer, seen = self.run(data, 3, val_check_interval=1.0)
        # A validation is passed, as checkpoints need one, but measures nothing.
        assert {tuple(index.tolist()) for *_, index in seen.val} == {(int(data.split.labeled[0]),)}
        assert {n.split("/")[0] for n in trainer.callback_metrics} == {"train"}
        with pytest.raises(ValueError, match="has no test images"):
            make_trainer().test(method(3), data, verbose=False)
        with pytest.raises(ValueError, match="no test images to predict"):
            make_trainer().predict(method(3), data)

    @pytest.mark.parametrize(("options", "mean", "std"), [
        ({}, 0.3054, 0.3753),
        ({"normalize": "symmetric"}, 0.5, 0.5),
        ({"mean": [0.1] * 3, "std": [0.2] * 3}, 0.1, 0.2),
    ])  # fmt: skip
    def test_normalisation(self, options, mean, std):
        data = digits(views={"weak": nn.Identity()}, eval_batch_size=360, **options)
        _, seen = self.run(data)
        ((images, _, index),) = seen.val
        expected = (data.source.test.pixels[index] / 255 - mean) / std
        torch.testing.assert_close(images, expected)
        labeled = seen.train[0].labeled
        pixels = data.source.train.pixels[data.split.labeled[labeled.index]]
        torch.testing.assert_close(labeled.views["weak"][0], (pixels / 255 - mean) / std)
        assert data.state_dict()["mean"] == pytest.approx([mean] * 3)
        if options.get("normalize"):
            assert (images.min(), images.max()) == (-1, 1)


def make_arrays(val: int = 0, channels: int = 3, **options):
    """Images of 3 classes whose gray level is their index."""
    images = np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    images, targets = images.repeat(channels, 1), np.arange(30) % 3
    part = (images[:val], targets[:val]) if val else None
    return from_arrays(images, targets, val=part, **options)


class TestFromSource:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_arrays(self, channels):
        source = make_arrays(channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
        data = SSLDataModule.from_source(
            source, labels_per_class=2, batch_size=6, unlabeled_batch_size=10, seed=0
        )
        assert (data.in_channels, data.image_size, data.num_classes) == (channels, 8, 3)
        _, seen = fit(data, method(3, in_channels=channels))
        for batch in seen.train:
            for samples, rows in (
                (batch.labeled, data.split.labeled),
                (batch.unlabeled, data.split.unlabeled),
            ):
                view = samples.views["weak"]
                assert view.shape == (1, len(samples.index), channels, 8, 8)
                levels = (view[0] * 255).round()
                expected = rows[samples.index].float().view(-1, 1, 1, 1)
                assert torch.equal(levels, expected.expand_as(levels))

    def test_options_that_contradict_the_source(self):
        with pytest.raises(ValueError, match="`image_size` must be the source's, 8, got 32"):
            SSLDataModule.from_source(make_arrays(), image_size=32)
        with pytest.raises(ValueError, match="`classes` must be the source's"):
            SSLDataModule.from_source(make_arrays(), classes=["a", "b", "c"])
        SSLDataModule.from_source(make_arrays(), image_size=8, classes=["0", "1", "2"])

    def test_files_may_have_another_size(self, photo_root):
        source = open_source("folder", photo_root)
        data = SSLDataModule.from_source(source, image_size=16, batch_size=4, seed=0)
        _, seen = fit(data, method(2))
        assert seen.train[0].labeled.views["weak"].shape[-2:] == (16, 16)


class TestViews:
    def test_gray(self):
        _, seen = fit(digits(in_channels=1), method(in_channels=1))
        assert seen.train[0].unlabeled.views["strong"].shape == (1, 16, 1, 8, 8)

    def test_override_by_a_callable(self):
        data = digits(views={"strong": Invert()}, normalize="symmetric")
        _, seen = fit(data)
        unlabeled = seen.train[1].unlabeled
        pixels = data.source.train.pixels[data.split.unlabeled[unlabeled.index]]
        torch.testing.assert_close(unlabeled.views["strong"][0], 1 - pixels / 127.5)

    def test_digits_are_not_mirrored(self):
        data = digits(views={"strong": Invert()}, batch_size=40, normalize="symmetric")
        pixels = data.source.train.pixels[data.split.labeled].flip(3) / 127.5 - 1
        _, seen = fit(data)
        shifted = {  # every shift by at most a pixel
            (dy, dx): pixels.roll((dy, dx), (2, 3))[..., 1:-1, 1:-1]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        for batch in seen.train:
            view = batch.labeled.views["weak"][0][..., 1:-1, 1:-1]
            for mirrored in shifted.values():
                close = (view - mirrored[batch.labeled.index]).abs().flatten(1).amax(1) < 1e-3
                assert not close.any()

    def test_view_that_does_not_exist(self):
        data = digits(views={"weak": Invert()})
        with pytest.raises(ValueError, match=r"'unlabeled'.*'strong'.*'weak'.*got 'stong'"):
            fit(data, method(cls=Odd))
        _, seen = fit(digits(views={"stong": Invert()}), method_without_step())
        assert "stong" in seen.train[0].unlabeled.views

    def test_override_that_the_method_does_not_ask_for(self):
        with pytest.raises(ValueError, match=r"\('strong', 'weak'\), got \('support',\)"):
            fit(digits(views={"support": Invert()}))

    def test_method_without_views(self):
        with pytest.raises(ValueError, match="declares its `views`, got BoringModel"):
            fit(digits(), BoringModel())

    @pytest.mark.parametrize(("precision", "dtype"), [
        ("64-true", torch.float64),
        ("32-true", torch.float32),
        ("bf16-mixed", torch.float32),
        ("bf16-true", torch.bfloat16),
    ])  # fmt: skip
    def test_dtype_is_the_modules(self, precision, dtype):
        _, seen = fit(
            digits(), precision=precision, max_steps=1, val_check_interval=1, limit_val_batches=1
        )
        (batch,), ((images, *_),) = seen.train, seen.val
        for samples in batch[1:]:
            assert all(view.dtype == dtype for view in samples.views.values())
        assert images.dtype == dtype
        assert batch.labeled.target.dtype == batch.labeled.index.dtype == torch.int64


def method_without_step():
    class Quiet(Odd):
        def training_step(self, batch, batch_idx):
            return self(batch.labeled.views["weak"][0]).sum()

    return method(cls=Quiet)


class TestFolders:
    def test_small_files_are_read_once_and_look_as_decoded(self, photo_root, monkeypatch):
        flags = {"limit_val_batches": 1.0}
        resident = folder(photo_root, 16)
        _, one = fit(resident, method(2), **flags)
        assert isinstance(resident._read("train"), ResidentImages)
        monkeypatch.setattr(fetch_module, "_RESIDENT_BYTES", 0)
        decoded = folder(photo_root, 16)
        _, two = fit(decoded, method(2), **flags)
        assert isinstance(decoded._read("train"), FileImages)
        assert len(one.train) == len(two.train) == 2
        for mine, other in zip(one.train, two.train, strict=True):
            for a, b in zip(mine[1:], other[1:], strict=True):
                assert torch.equal(a.index, b.index)
                for name, view in a.views.items():
                    assert torch.equal(view, b.views[name])
        for mine, other in zip(one.val, two.val, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))

    @pytest.mark.parametrize("image_size", [16, 72])
    def test_broken_labelled_image_is_found_before_training(self, photo_root, image_size):
        path = photo_root / "labeled" / "dog" / "2.png"
        path.write_bytes(path.read_bytes()[:100])
        seen = Seen()
        with pytest.raises(BrokenImageError) as error:
            make_trainer(callbacks=[seen]).fit(method(2), folder(photo_root, image_size))
        assert error.value.path == str(path)
        assert seen.train == []

    @pytest.mark.parametrize("image_size", [16, 72])
    def test_broken_unlabelled_image_is_replaced_and_reported(self, photo_root, image_size):
        path = photo_root / "unlabeled" / "3.png"
        path.write_bytes(path.read_bytes()[:100])
        data = folder(photo_root, image_size, views={"strong": nn.Identity()})
        with pytest.warns(UserWarning, match=rf"could not be read .*{path}\.") as warnings:
            _, seen = fit(data, method(2))
        reports = [str(w.message) for w in warnings if "could not be read" in str(w.message)]
        assert len(reports) == 1
        assert reports[0].startswith("1 ")
        for batch in seen.train:  # a batch is the whole list
            assert sorted(batch.unlabeled.index.tolist()) == list(range(14))
            shown = batch.unlabeled.views["strong"][0][batch.unlabeled.index.argsort()]
            assert torch.equal(shown[11], shown[12])  # 8 labelled, then 3 and 4
            assert not torch.equal(shown[10], shown[11])

    def test_predict_a_flat_folder(self, tmp_path):
        write_photos(tmp_path / "flat", 5, (30, 24))
        write_photos(tmp_path / "flat" / "deeper", 2, (90, 80), seed=1)
        for image_size in (16, 72):
            data = SSLDataModule(
                "folder", root=str(tmp_path / "flat"), classes=["cat", "dog"],
                image_size=image_size, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.2],
                eval_batch_size=3, num_workers=0,
            )  # fmt: skip
            module = method(2).eval()
            parts = make_trainer().predict(module, data)
            assert torch.cat([part["index"] for part in parts]).tolist() == list(range(7))
            names = [data.predict_name(i) for i in range(7)]
            expected = [tmp_path / "flat" / f"{i}.png" for i in range(5)]
            expected += [tmp_path / "flat" / "deeper" / f"{i}.png" for i in range(2)]
            assert names == [str(path) for path in expected]
            images = torch.stack(
                [tv.to_tensor(resize_center(Image.open(path), image_size)) for path in expected]
            )
            mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
            std = torch.tensor([0.5, 0.25, 0.2]).view(3, 1, 1)
            with torch.no_grad():
                probs = module((images - mean) / std).softmax(1)
            torch.testing.assert_close(torch.cat([part["probs"] for part in parts]), probs)

    def test_predict_an_empty_folder(self, tmp_path):
        data = SSLDataModule("folder", root=str(tmp_path), classes=["cat", "dog"], image_size=16)
        with pytest.raises(FileNotFoundError, match=f"found none in '{tmp_path}'"):
            make_trainer().predict(method(2), data)

    def test_predict_the_test_images_of_a_source(self, photo_root):
        data = SSLDataModule.from_source(open_source("folder", photo_root), num_workers=0)
        parts = make_trainer().predict(method(2), data)
        assert torch.cat([part["index"] for part in parts]).tolist() == list(range(4))
        assert data.predict_name(3) == str(photo_root / "test" / "dog" / "1.png")

    @pytest.mark.skipif(CIFAR10_ROOT is None, reason="CIFAR10_ROOT is not set")
    @pytest.mark.parametrize("image_size", [32, 72])
    def test_real_jpegs(self, tmp_path, image_size):
        for part, count in (("train", 5), ("test", 2)):
            for name in sorted(os.listdir(Path(CIFAR10_ROOT, part)))[:3]:
                (tmp_path / part / name).mkdir(parents=True)
                for file in sorted(os.listdir(Path(CIFAR10_ROOT, part, name)))[:count]:
                    (tmp_path / part / name / file).symlink_to(Path(CIFAR10_ROOT, part, name, file))
        data = folder(
            tmp_path, image_size, labels_per_class=2, normalize="symmetric",
            views={"strong": nn.Identity()},
        )  # fmt: skip
        trainer, seen = fit(data, method(3))
        images = data.source.train
        for batch in seen.train:
            rows = data.split.unlabeled[batch.unlabeled.index].tolist()
            for got, row in zip(batch.unlabeled.views["strong"][0], rows, strict=True):
                photo = resize_center(Image.open(images.paths[row]).convert("RGB"), image_size)
                torch.testing.assert_close(got, tv.to_tensor(photo) * 2 - 1, atol=1e-6, rtol=0)
            labels = [images.paths[row].split("/")[-2] for row in data.split.labeled]
            expected = [data.classes.index(labels[i]) for i in batch.labeled.index]
            assert batch.labeled.target.tolist() == expected
        (metrics,) = trainer.test(method(3), data, verbose=False)
        assert metrics["test/acc"] * 6 == pytest.approx(round(metrics["test/acc"] * 6))


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, r"`data\.batch_size` must be at least 1, got 0"),
    ({"unlabeled_batch_size": -1}, r"`data\.unlabeled_batch_size` must be at least 1, got -1"),
    ({"eval_batch_size": 0}, r"`data\.eval_batch_size` must be at least 1"),
    ({"steps_per_epoch": 0}, r"`data\.steps_per_epoch` must be at least 1"),
    ({"steps_per_epoch": "all"}, r"`data\.steps_per_epoch` must be .*'unlabeled'.* got 'all'"),
    ({"labeled_order": "class"}, r"`data\.labeled_order` must be null or .*'balanced'.* 'class'"),
    ({"normalize": "zero"}, r"`data\.normalize` must be one of .*'symmetric'.* 'zero'"),
])  # fmt: skip
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_workers_only_where_files_are_decoded(photo_root):
    data = SSLDataModule("folder", root=str(photo_root), image_size=16, batch_size=4, seed=0)
    cpus = len(os.sched_getaffinity(0))
    assert data._workers(data._read("train")) == 0
    assert data._workers(data.source.train) == min(8, cpus)
    data.num_workers = 5
    assert data._workers(data._read("train")) == 5


def test_trains_twice():
    data, module = digits(), method()
    for _ in range(2):
        _, seen = fit(data, module)
        assert seen.steps == [0, 1]
