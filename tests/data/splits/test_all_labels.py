"""Without an option that chooses labels every known one is trained on: the upper bound.

Those of torchvision's data sets are in sources/test_torchvision.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_ssl.data import SSLDataModule, from_arrays


def arrays() -> SSLDataModule:
    images, targets = torch.zeros(50, 3, 8, 8, dtype=torch.uint8), torch.arange(50) % 3 - 1
    return SSLDataModule.from_source(from_arrays(images, targets), val_per_class=0)


def named(dataset: str, make_folder: Callable[..., Path]) -> SSLDataModule:
    if dataset in ("digits", "arrays"):
        return arrays() if dataset == "arrays" else SSLDataModule("digits", val_per_class=0)
    tree = {"train/a": 30, "train/b": 40, "unlabeled": 9}
    if dataset == "labeled":
        tree = {"labeled/a": 30, "labeled/b": 40, "unlabeled": 9}
    if dataset == "imagenet":
        tree = {"train/a": 30, "train/b": 40, "val/a": 1, "val/b": 1}
    root = make_folder(tree)
    if dataset == "csv":
        rows = [f"{p.relative_to(root)},{p.parent.name}" for p in sorted(root.rglob("train/*/*"))]
        rows += [f"{p.relative_to(root)}," for p in sorted(root.glob("unlabeled/*"))]
        (root / "all.csv").write_text("\n".join(["path,label", *rows]))
        root = root / "all.csv"
    source = dataset if dataset in ("imagenet", "csv") else "folder"
    return SSLDataModule(source, root=str(root), val_per_class=0)


@pytest.mark.parametrize("dataset", ["digits", "arrays", "train", "labeled", "imagenet", "csv"])
def test_all_known_labels(dataset: str, make_folder: Callable[..., Path]) -> None:
    data = named(dataset, make_folder)
    known = (data.source.train.targets >= 0).nonzero().flatten()
    assert torch.equal(data.split.labeled, known)
    expected = {"digits": (1437, 1437), "arrays": (33, 50), "imagenet": (70, 70)}
    assert (data.num_labeled, data.num_unlabeled) == expected.get(dataset, (70, 79))
    assert not len(data.split.val)
