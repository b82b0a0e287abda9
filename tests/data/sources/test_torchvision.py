"""CIFAR, SVHN and STL-10 in their real formats, with few images."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lightning_ssl.data import SSLDataModule
from lightning_ssl.data.sources import torchvision as sources_torchvision
from lightning_ssl.data.sources.named import open_source, prepare_source

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_checksums(monkeypatch):
    for name in ("cifar", "svhn", "stl10"):
        monkeypatch.setattr(
            f"torchvision.datasets.{name}.check_integrity", lambda path, md5: os.path.isfile(path)
        )


def set_counts(monkeypatch, dataset: str, unlabeled: int = 0, **counts: tuple[int, ...]) -> None:
    known = sources_torchvision._KNOWN[dataset]
    counts = {name.replace("_", "+"): count for name, count in counts.items()}
    small = dataclasses.replace(known, counts=counts, unlabeled=unlabeled)
    monkeypatch.setitem(sources_torchvision._KNOWN, dataset, small)


def all_labels(dataset: str, root: Path, **options) -> list[int]:
    """Labelled images where no option chooses them."""
    data = SSLDataModule(dataset, root=str(root), val_per_class=0, **options)
    assert data.num_unlabeled == data.source.num_train
    return data.split.labeled.tolist()


def write_cifar(root: Path, files: dict[str, int], key: str, meta: tuple[str, dict]) -> dict:
    root.mkdir(parents=True)
    written = {}
    for name, count in files.items():
        data = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(count)]
        (root / name).write_bytes(pickle.dumps({"data": data, key: labels}))
        written[name] = data
    (root / meta[0]).write_bytes(pickle.dumps(meta[1]))
    return written


def test_cifar10(tmp_path, monkeypatch):
    files = {f"data_batch_{i}": 10 for i in range(1, 6)} | {"test_batch": 20}
    names = sources_torchvision._KNOWN["cifar10"].classes
    data = write_cifar(
        tmp_path / "cifar-10-batches-py", files, "labels",
        ("batches.meta", {"label_names": list(names)}),
    )  # fmt: skip
    set_counts(monkeypatch, "cifar10", train=(5,) * 10, test=(2,) * 10)
    source = open_source("cifar10", tmp_path)
    assert source.train.pixels.shape == (50, 3, 32, 32)
    expected = data["data_batch_2"][3].reshape(3, 32, 32)
    assert np.array_equal(source.train.pixels[13], expected)
    assert source.train.pixels.is_contiguous()
    assert source.train.targets.tolist() == list(range(10)) * 5
    assert all_labels("cifar10", tmp_path) == list(range(50))
    assert np.array_equal(source.test.pixels[7], data["test_batch"][7].reshape(3, 32, 32))
    assert open_source("cifar10", tmp_path, in_channels=1).train.pixels.shape == (50, 1, 32, 32)
    unread = pickle.loads(pickle.dumps(open_source("cifar10", tmp_path)))  # workers may need it
    assert torch.equal(unread.train.pixels, source.train.pixels)
    small = open_source("cifar10", tmp_path, image_size=16)
    assert small.test.pixels.shape == (20, 3, 16, 16)
    prepare_source("cifar10", tmp_path, download=False)


def test_cifar100_uses_fine_labels(tmp_path, monkeypatch):
    names = sources_torchvision._KNOWN["cifar100"].classes
    write_cifar(
        tmp_path / "cifar-100-python", {"train": 30, "test": 10}, "fine_labels",
        ("meta", {"fine_label_names": list(names)}),
    )  # fmt: skip
    set_counts(monkeypatch, "cifar100", train=(3,) * 10 + (0,) * 90, test=(1,) * 10 + (0,) * 90)
    source = open_source("cifar100", tmp_path)
    assert source.train.targets.tolist() == list(range(10)) * 3
    assert len(source.test.targets) == 10


def write_svhn(root: Path, part: str, count: int) -> np.ndarray:
    data = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    labels = np.arange(1, count + 1, dtype=np.uint8)[:, None]  # 10 means the digit 0
    savemat(root / f"{part}_32x32.mat", {"X": data, "y": labels})
    return data


def test_svhn(tmp_path, monkeypatch):
    data = {part: write_svhn(tmp_path, part, 10) for part in ("train", "test", "extra")}
    once = (1,) * 10
    set_counts(monkeypatch, "svhn", train=once, test=once, extra=once)
    source = open_source("svhn", tmp_path)
    assert source.num_train == 10
    assert source.train.targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert not source.hflip
    expected = data["train"][..., 4].transpose(2, 0, 1)
    assert np.array_equal(source.train.pixels[4], expected)
    both = open_source("svhn", tmp_path, extra=True)
    assert both.class_counts == (2,) * 10
    assert all_labels("svhn", tmp_path) == list(range(10))
    assert all_labels("svhn", tmp_path, extra=True) == list(range(20))
    assert np.array_equal(both.train.pixels[13], data["extra"][..., 3].transpose(2, 0, 1))
    (tmp_path / "extra_32x32.mat").unlink()
    prepare_source("svhn", tmp_path)
    with pytest.raises(FileNotFoundError, match="'svhn'"):
        prepare_source("svhn", tmp_path, extra=True)


def write_stl10(root: Path) -> np.ndarray:
    folder = root / "stl10_binary"
    folder.mkdir()
    data = RNG.integers(0, 256, (15, 3, 96, 96), dtype=np.uint8)  # column-major on disk
    data[:10].tofile(folder / "train_X.bin")
    data[10:].tofile(folder / "unlabeled_X.bin")
    data[:10].tofile(folder / "test_X.bin")
    labels = np.arange(10, dtype=np.uint8)[::-1] + 1
    labels.astype(np.uint8).tofile(folder / "train_y.bin")
    labels.astype(np.uint8).tofile(folder / "test_y.bin")
    folds = [f"{9 - i} {(i + 2) % 7}" for i in range(10)]
    (folder / "fold_indices.txt").write_text("\n".join(folds) + "\n")
    return data


def test_stl10(tmp_path, monkeypatch):
    data = write_stl10(tmp_path)
    once = (1,) * 10
    set_counts(monkeypatch, "stl10", unlabeled=5, train_unlabeled=once, test=once)
    source = open_source("stl10", tmp_path)
    assert source.num_train == 15
    assert source.train.targets.tolist() == [*range(9, -1, -1), -1, -1, -1, -1, -1]
    assert source.labeled is None
    assert all_labels("stl10", tmp_path) == list(range(10))
    assert np.array_equal(source.train.pixels[12], data[12].transpose(0, 2, 1))
    assert source.test.targets.tolist() == list(range(9, -1, -1))


def test_stl10_fold(tmp_path, monkeypatch):
    once = (1,) * 10
    set_counts(monkeypatch, "stl10", unlabeled=5, train_unlabeled=once, test=once)
    source = open_source("stl10", tmp_path, fold=1)  # before its files are there
    with pytest.raises(FileNotFoundError, match=r"--data.download true"):
        _ = source.labeled
    write_stl10(tmp_path)
    assert source.labeled.tolist() == [3, 8]
    assert source.class_counts == (0, 1, 0, 0, 0, 0, 1, 0, 0, 0)
    assert source.num_train == 15
    counts = torch.bincount(source.train.targets[source.labeled], minlength=10)
    assert tuple(counts.tolist()) == source.class_counts


@pytest.mark.parametrize(
    ("dataset", "classes", "train", "test", "size"),
    [
        ("cifar10", 10, 50_000, 10_000, 32),
        ("cifar100", 100, 50_000, 10_000, 32),
        ("svhn", 10, 73_257, 26_032, 32),
        ("stl10", 10, 105_000, 8_000, 96),
    ],
)
def test_known_before_the_download(tmp_path, dataset, classes, train, test, size):
    source = open_source(dataset, tmp_path / "none")
    assert (source.num_classes, source.num_train, source.size) == (classes, train, size)
    assert len(set(source.classes)) == classes
    assert len(source.test) == test
    assert sum(source.class_counts) == (5000 if dataset == "stl10" else train)
    assert len(source.mean) == len(source.std) == 3
    gray = open_source(dataset, tmp_path, in_channels=1)
    assert gray.mean == pytest.approx((sum(source.mean) / 3,))
    for act in (
        lambda: source.train.pixels,
        lambda: source.test.targets,
        lambda: prepare_source(dataset, tmp_path / "none"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"'{dataset}'.*none.*--data.download true"):
            act()


def test_svhn_extra_is_known():
    assert open_source("svhn", "/none", extra=True).num_train == 73_257 + 531_131


def test_download_passes_through(tmp_path, monkeypatch):
    calls = []

    def fake(root, split, download):
        calls.append((split, download))

    monkeypatch.setattr("torchvision.datasets.SVHN", fake)
    prepare_source("svhn", tmp_path, download=True, extra=True)
    assert calls == [("train", True), ("test", True), ("extra", True)]


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr("torchvision.datasets.SVHN", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        prepare_source("svhn", tmp_path, download=True)
