"""Images as pretrained weights want them, unless the user says otherwise."""

from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_ssl.cli import run
from lightning_ssl.cli.checkpoint import DATA
from lightning_ssl.cli.inputs import follow_network
from lightning_ssl.data import SSLDataModule

from runs import fit, load

LITE = ("--model.backbone", "timm/tf_efficientnet_lite0")
PRETRAINED = (*LITE, "--model.backbone_args.pretrained", "true", "--model.freeze_backbone", "true")
RECORD = SSLDataModule.__name__


def recorded(run_dir: str) -> dict[str, Any]:
    names = ("image_size", "crop_pct", "interpolation", "mean", "std")
    return {name: load(run_dir)[RECORD][name] for name in names}


def test_the_network_says_how_images_look_and_the_user_wins() -> None:
    fit("Supervised", "a", 1, *PRETRAINED, "--data.image_size", "40", "--data.std", "[1,1,1]")
    assert recorded("a") == {
        "image_size": 40,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [1.0] * 3,
    }
    again = run(["test", "--ckpt_path", "a/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"])
    assert (again.datamodule.crop_pct, again.datamodule.mean) == (0.875, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"`data.crop_pct` must be 0.875, as when the run began"):
        fit("Supervised", "a", 2, *PRETRAINED, "--data.image_size", "40", "--data.std", "[1,1,1]",
            "--data.crop_pct", "1", "--ckpt_path", "last")  # fmt: skip


@pytest.mark.parametrize(
    ("method", "data", "filled"),
    [
        ({"pretrained": False}, {}, set()),
        ({"pretrained": True}, {}, {"image_size", "crop_pct", "interpolation", "mean", "std"}),
        ({"pretrained": True}, {"normalize": "symmetric"},
         {"image_size", "crop_pct", "interpolation"}),
        ({"pretrained": True}, {"mean": [0.4] * 3, "crop_pct": 1.0},
         {"image_size", "interpolation", "std"}),
    ],
)  # fmt: skip
def test_what_is_filled_in(method: Any, data: Any, filled: set[str]) -> None:
    names = ("image_size", "crop_pct", "interpolation", "mean", "std")
    given = {**dict.fromkeys(names), "in_channels": 3, "normalize": "dataset", **data}
    options = dict(given)
    config = Namespace(
        model=Namespace(init_args={"backbone": LITE[1], "backbone_args": method}),
        data=Namespace(class_path=DATA, init_args=options),
    )
    follow_network(config)
    assert {name for name in options if options[name] != given[name]} == filled


@pytest.mark.parametrize(
    "options", [{"crop_pct": 0.0}, {"crop_pct": 1.5}, {"interpolation": "nearest"}]
)
def test_bad_values(options: Any) -> None:
    with pytest.raises(ValueError, match=rf"`data.{next(iter(options))}` must be"):
        SSLDataModule("digits", **options)
