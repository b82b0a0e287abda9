"""The recipes train, and the crops of the PAWS family are those of facebookresearch/suncet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_ssl.augment import RandomResizedCrop, preset
from lightning_ssl.cli import run
from lightning_ssl.cli.configs import CONFIGS

QUIET = (
    *("--trainer.accelerator", "cpu", "--trainer.strategy", "auto"),
    *("--trainer.precision", "32-true", "--trainer.sync_batchnorm", "false"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--run_dir", "a"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_checkpointing", "false"),
)
ON_DIGITS = ("paws_cifar10", "suncet_cifar10", "paws_tf_cifar10")
S4L = tuple(
    file.stem
    for file in sorted((CONFIGS / "recipes").glob("*.yaml"))
    if file.stem.startswith(("s4l", "moam"))
)
MATCH_FAMILY = ("adamatch", "fixmatch", "flexmatch", "freematch", "mixmatch", "remixmatch")
MATCH = (
    *("fixmatch_stl10", "flexmatch_imagenet", "freematch_svhn", "adamatch_usb"),
    *("mixmatch_stl10", "remixmatch_stl10"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            *("fixmatch_cifar100", "fixmatch_usb"),
            *("flexmatch_cifar100", "flexmatch_stl10", "flexmatch_usb"),
            *("mixmatch_cifar100", "mixmatch_svhn", "mixmatch_usb"),
            *("remixmatch_cifar10_40", "remixmatch_svhn", "remixmatch_svhn_40"),
            *("remixmatch_usb",),
        )
    ),
)
ON_PHOTOS = [
    "paws_imagenet_vit",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            *("paws_imagenet", "paws_imagenet_1gpu", "ropaws_imagenet"),
            *("simclr_ct_imagenet", "simclr_ct_imagenet_1gpu"),
        )
    ),
    "paws_imagenet_finetune",
]
TRAINED = [*ON_DIGITS, *S4L, *MATCH, *ON_PHOTOS]


def test_no_recipe_is_left_out() -> None:
    """Those of USB's benchmark have a file of tests; README's commands train `frozen`."""
    here = {name if isinstance(name, str) else name.values[0] for name in TRAINED}
    recipes = {file.stem for file in (CONFIGS / "recipes").glob("*.yaml")}
    assert here == {name for name in recipes if name not in ("usb_cifar100", "usb_stl10", "frozen")}


@pytest.mark.parametrize("name", TRAINED)
def test_recipes_train(name: str) -> None:
    """One update on few and small images; only sizes, the data and most networks are changed."""
    if name in ON_DIGITS:
        data = [*("--data.dataset", "digits", "--data.num_labels", "20"),
                *("--data.batch_size", "20", "--data.std", "null")]  # fmt: skip
    elif name.startswith(MATCH_FAMILY):
        # A side that STL-10's 12 pixels around the image can be reflected from.
        data = [*("--data.dataset", "digits", "--data.num_labels", "20"),
                *("--data.labels_per_class", "null", "--data.fold", "null"),
                *("--data.image_size", "16", "--data.batch_size", "4"),
                *("--data.mean", "null", "--data.std", "null"),
                *("--model.backbone", "wrn_10_1")]  # fmt: skip
    elif name in S4L:
        data = [*("--data.dataset", "digits", "--data.labels_per_class", "2"),
                *("--data.image_size", "8", "--data.batch_size", "4"),
                *("--model.backbone", "wrn_10_1", "--data.pseudo_labels", "null")]  # fmt: skip
    else:
        draw = np.random.default_rng(0)
        for i in range(16):
            for part in ("train", "test"):
                path = Path("photos", part, f"class{i % 2}", f"{i}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 256, (112, 112, 3), np.uint8)).save(path)
        data = [*("--data.dataset", "folder", "--data.root", "photos", "--data.batch_size", "4"),
                *("--data.image_size", "112", "--data.label_fraction", "0.5"),
                *("--data.num_workers", "0", "--data.eval_batch_size", "4")]  # fmt: skip
        if "finetune" not in name:
            data += ["--data.classes_per_batch", "2"]
    small = ("--data.unlabeled_batch_size", "4", *QUIET)
    cli: Any = run(["fit", "-c", name, *data, *small])
    assert cli.trainer.global_step == 1
    logged = cli.trainer.callback_metrics
    assert logged["train/loss"].isfinite()
    assert 0 <= logged["test/acc"] <= 1


@pytest.mark.parametrize(
    ("view", "size", "multicrop", "side", "scale"),
    [
        ("support", 32, True, 32, (0.75, 1.0)),
        ("global", 32, True, 32, (0.75, 1.0)),
        ("global", 32, False, 32, (0.5, 1.0)),
        ("local", 32, True, 18, (0.3, 0.75)),
        ("support", 224, True, 224, (0.14, 1.0)),
        ("global", 224, True, 224, (0.14, 1.0)),
        ("global", 224, False, 224, (0.08, 1.0)),
        ("local", 224, True, 96, (0.05, 0.14)),
        ("simclr", 224, False, 224, (0.08, 1.0)),
        ("basic", 224, False, 224, (0.08, 1.0)),
        ("weak", 224, False, 224, (0.08, 1.0)),
    ],
)
def test_crops(view: str, size: int, multicrop: bool, side: int, scale: tuple[float, ...]) -> None:
    crop = next(iter(preset(view, size, multicrop=multicrop)))
    assert isinstance(crop, RandomResizedCrop)
    assert (crop.size, crop.scale, crop.ratio) == (side, scale, (3 / 4, 4 / 3))
