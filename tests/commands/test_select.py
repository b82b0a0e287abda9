"""Lists of images to label."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_ssl.cli import run
from lightning_ssl.data import SSLDataModule
from lightning_ssl.evaluation.selection import prototypes

from runs import fit, read_rows

STORE = ("--data.features_dir", "store")
NETWORK = ("--model.backbone", "wrn_10_1", "--model.weights", "network.pt")


pytestmark = pytest.mark.usefixtures("network")


def test_of_a_folder_every_image_counts_and_the_list_trains(network: Any) -> None:
    source = SSLDataModule("digits").source.train
    for index in range(60):
        folder = Path("photos", "a" if index % 2 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.pixels[index].permute(1, 2, 0).numpy()).save(
            folder / f"{index:02}.png"
        )
    options = ("--data.dataset", "folder", "--data.root", "photos", "--data.image_size", "8")
    given = (*NETWORK, *STORE, *options, "--data.mean", "[0.5,0.5,0.5]")
    run(["select", "--count", "20", *given, "--data.std", "[0.5,0.5,0.5]"])
    found = read_rows("to_label.csv")
    assert [row["rank"] for row in found] == [str(i) for i in range(1, 21)] + [""] * 40
    names = [row["path"] for row in found]
    assert sorted(names) == sorted(str(path) for path in Path("photos").rglob("*.png"))

    paths = sorted(str(path) for path in Path("photos").rglob("*.png"))
    index = [int(Path(path).stem) for path in paths]
    with torch.no_grad():
        features = network(source.pixels[index] / 127.5 - 1)
    expected = [paths[i] for i in prototypes(features.half().float(), 20).tolist()]
    assert names[:20] == expected

    digit = {path: int(source.targets[i]) for path, i in zip(paths, index, strict=True)}

    def fill_in(name: str, held_out: int = 0) -> Any:
        """Label what was asked for, as one does in a spreadsheet, and train on the list."""
        rows = read_rows(name)
        for place, row in enumerate(rows):
            row["label"] = row["label"] or (str(digit[row["path"]]) if row["rank"] else "")
            row["split"] = "val" if 20 - held_out <= place < 20 else row["split"]
        with Path(name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
        as_list = ("--data.dataset", "csv", "--data.root", name, "--data.num_labels", "null")
        return fit(
            "Supervised", name[:-4], 2, *options, *as_list, "--model.freeze_backbone", "true"
        )

    first = fill_in("to_label.csv", held_out=2).datamodule
    assert (first.num_labeled, len(first.source.train), len(first.source.val)) == (18, 58, 2)
    best = ("--ckpt_path", "to_label/checkpoints/best.ckpt", *("--by", "margin"))
    with pytest.raises(ValueError, match="`output` must be another file than the list that the"):
        run(["select", "--count", "5", *best])
    run(["select", "--count", "5", *best, "--output", "next.csv"])
    asked = read_rows("next.csv")[:5]
    assert not {row["path"] for row in asked} & set(names[:20])
    second = fill_in("next.csv").datamodule
    assert (second.num_labeled, len(second.source.train), len(second.source.val)) == (23, 58, 2)
    known = zip(second.source.train.paths, second.source.train.targets.tolist(), strict=True)
    assert {os.path.relpath(p): second.classes[c] for p, c in known if c >= 0} == {
        path: str(digit[path]) for path in [*names[:18], *(row["path"] for row in asked)]
    }


def test_a_checkpoint_says_what_it_is_unsure_of() -> None:
    cli = fit("Supervised", "run", 60, "--model.freeze_backbone", "true")
    path = "run/checkpoints/last.ckpt"
    for by in ("margin", "entropy", "prototypes"):
        run(["select", "--count", "30", "--by", by, "--ckpt_path", path])
        found = read_rows("to_label.csv")
        assert len(found) == 1437
        chosen = [int(row["path"]) for row in found[:30]]
        assert len(set(chosen)) == 30
        labeled = set(cli.datamodule.split.labeled.tolist())
        assert labeled.isdisjoint(chosen)
        assert {int(r["path"]) for r in found if r["label"]} == labeled
        if by == "prototypes":
            continue
        data, method = cli.datamodule, cli.model.eval()
        with torch.no_grad():
            pixels = (data.source.train.pixels / 255 - data.mean[0]) / data.std[0]
            probs = method(pixels).softmax(1)
        best = probs.topk(2).values
        unsure = best[:, 1] - best[:, 0] if by == "margin" else -(probs * probs.log()).sum(1)
        unsure[list(labeled)] = -torch.inf
        # Stored features are rounded to float16.
        assert len(set(unsure.topk(30).indices.tolist()) & set(chosen)) >= 28


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (("--count", "2000", *NETWORK), r"`count` must be in \[1, 1437\].*got 2000"),
        (("--count", "0", *NETWORK), r"`count` must be in \[1, 1437\].*got 0"),
        (("--count", "5", "--by", "margin", *NETWORK), "`by` must be 'prototypes' without"),
        (
            ("--count", "5", "--ckpt_path", "no.ckpt", *NETWORK),
            "must not be given with `ckpt_path`",
        ),
    ],
)
def test_bad_options(args: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run(["select", *args, "--data.dataset", "digits", *STORE])
    assert not Path("store").exists()
