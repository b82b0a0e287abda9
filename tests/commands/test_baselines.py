"""The table of what frozen features are worth."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lightning_ssl.cli import run
from lightning_ssl.commands.baselines import BaselineRow
from lightning_ssl.commands.compare_table import Run, write_tables
from lightning_ssl.data import SSLDataModule
from lightning_ssl.evaluation.baselines import Pool, class_means

from runs import read_rows

NETWORK = ("--model.backbone", "wrn_10_1", "--model.weights", "network.pt")
DIGITS = ("--data.dataset", "digits", "--data.num_labels", "40", "--data.features_dir", "store")


pytestmark = pytest.mark.usefixtures("network")


def test_rows_equal_the_classifiers_on_features_by_hand(network: Any) -> None:
    run(["baselines", *NETWORK, *DIGITS, "--seeds", "2"])
    found = {(row["method"], int(row["seed"])): row for row in read_rows("baselines.csv")}
    assert len(found) == 2 * 9
    for seed in (0, 1):
        data = SSLDataModule("digits", num_labels=40, seed=seed)
        train, test, split = data.source.train, data.source.test, data.split
        with torch.no_grad():
            features, new = (
                network((part.pixels / 255 - data.mean[0]) / data.std[0]).half().float()
                for part in (train, test)
            )
        others = torch.tensor(sorted(set(split.unlabeled.tolist()) - set(split.labeled.tolist())))
        row = found["class means", seed]
        assert int(row["labels"]) == len(split.labeled) == 40
        pool = Pool(features[torch.cat([split.labeled, others])], torch.arange(40),
                    train.targets[split.labeled], 10, new)  # fmt: skip
        means = class_means(pool)
        hidden = means.train[40:].argmax(1) == train.targets[others]
        assert float(row["transductive"]) == pytest.approx(hidden.float().mean().item(), abs=6e-4)
        right = means.test.argmax(1) == test.targets
        assert float(row["test"]) == pytest.approx(right.float().mean().item(), abs=3e-3)
        # Another library's classifier, at a strength that the command may not have chosen.
        other = LogisticRegression(C=1.0, max_iter=2000).fit(
            features[split.labeled], train.targets[split.labeled]
        )
        accuracy = other.score(features[others], train.targets[others])
        assert float(found["logistic regression", seed]["transductive"]) > accuracy - 0.15
    stamp = {path: path.stat().st_mtime_ns for path in Path("store").rglob("*.npy")}
    run(["baselines", *NETWORK, *DIGITS, "--seeds", "1", "--output", "again.csv"])
    assert {path: path.stat().st_mtime_ns for path in Path("store").rglob("*.npy")} == stamp
    assert [r["test"] for r in read_rows("again.csv")] == [
        r["test"] for r in read_rows("baselines.csv") if r["seed"] == "0"
    ]


def test_without_a_test_part_the_validation_images_are_measured(tmp_path: Path) -> None:
    data = SSLDataModule("digits").source.train
    from PIL import Image

    lines = ["path,label"]
    for index in range(120):
        Image.fromarray(data.pixels[index].permute(1, 2, 0).numpy()).save(f"{index}.png")
        lines.append(f"{index}.png,{data.targets[index] if index < 100 else ''}")
    Path("list.csv").write_text("\n".join(lines))
    options = ("--data.dataset", "csv", "--data.root", "list.csv", "--data.features_dir", "store")
    run(["baselines", *NETWORK, *options, "--data.val_per_class", "2", "--seeds", "1"])
    found = read_rows("baselines.csv")
    assert all(not row["transductive"] and float(row["test"]) <= 1 for row in found)
    with pytest.raises(ValueError, match="`data` must have images to measure on"):
        run(["baselines", *NETWORK, *options, "--data.val_per_class", "0"])


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((*DIGITS, "--model.backbone", "resnet18"), "`model.backbone` must be pretrained"),
        ((*NETWORK, *DIGITS, "--seeds", "0"), "`seeds` must be at least 1"),
        ((*NETWORK, *DIGITS, "--output", "no/such\0name"), "`output` must be a file"),
        ((*NETWORK, *DIGITS, "--sedes", "2"), "has the options --output, --seeds and those of fit"),
    ],
)
def test_bad_options(args: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run(["baselines", *args])
    assert not Path("store").exists()


def test_a_comparison_shows_the_best_row_beside_the_methods() -> None:
    Path("run").mkdir()
    Path("run/result.json").write_text('{"test/acc": 0.7, "seconds": 5.0, "updates": 3}')
    run_ = Run("FixMatch", 40, None, 0, Path("run"), ())
    found = {"means": (0.5, 0.6), "probe": (0.4, 0.9)}
    floors = [
        BaselineRow(name, seed, 40, None, accuracy, 0.5)
        for name, accuracies in found.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    table = write_tables([run_], Path(), {40: floors})
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["method"] == ["FixMatch", "best baseline: probe"]
    assert columns["test accuracy"] == ["70.0 %", "65.0 ± 35.4 %"]
    assert columns["seeds"] == ["1", "2"]
    with Path("results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
