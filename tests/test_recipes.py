"""Recipes of S4L: every number of the authors' scripts, in epochs there and in updates here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_ssl.cli import run
from lightning_ssl.cli_configs import find_config

# Labels, batch, epochs: warm-up, decays, end; effective peak rate and decay; the method's own.
SCRIPTS: dict[str, tuple[int, int, tuple[int, ...], float, float, dict[str, Any]]] = {
    "s4l_supervised_10": (128_000, 256, (5, 140, 160, 180, 200), 0.1, 1e-3, {}),
    "s4l_supervised_1": (13_000, 256, (5, 700, 800, 900, 1000), 0.01, 1e-2, {}),
    "s4l_rotation_imagenet": (
        *(128_000, 256, (5, 140, 160, 180, 200), 0.03, 1e-3),
        {"lambda_rotation": 1.0},
    ),
    "s4l_exemplar_imagenet": (
        *(128_000, 512, (10, 140, 160, 180, 200), 0.1, 1e-3),
        {"embedding_dim": 1000, "lambda_triplet": 1.0, "copies": 8},
    ),
    "s4l_vat_imagenet": (
        *(128_000, 256, (5, 140, 160, 180, 200), 0.03, 1e-3),
        {"epsilon": 40, "lambda_vat": 0.5, "lambda_entropy": 0.0, "ramp": 0},
    ),
    "s4l_vat_entmin_imagenet": (
        *(128_000, 256, (5, 140, 160, 180, 200), 0.03, 1e-3),
        {"epsilon": 40, "lambda_vat": 0.5, "lambda_entropy": 1.0, "ramp": 0},
    ),
    "moam_imagenet_1": (
        *(128_000, 128, (10, 100, 150, 190, 200), 0.1, 2e-4),
        {"epsilon": 32, "lambda_x": 0.3, "lambda_rotation": 0.4, "lambda_vat": 0.3}
        | {"lambda_entropy": 0.3, "ema_half_life": 1000},
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_numbers_are_those_of_the_script(name: str) -> None:
    labels, batch, epochs, lr, decay, own = SCRIPTS[name]
    recipe = yaml.safe_load(Path(find_config(name)).read_text())
    model, data = recipe["model"]["init_args"], recipe["data"]
    per_epoch = labels // batch
    assert data["labels_per_class"] * 1000 == labels
    assert data["batch_size"] == data.get("unlabeled_batch_size", batch) == batch
    updates = [model["schedule"]["warmup"], *model["schedule"]["milestones"]]
    assert [*updates, recipe["trainer"]["max_steps"]] == [e * per_epoch for e in epochs]
    optimizer = model["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (lr, decay)
    assert (optimizer["momentum"], optimizer["nesterov"]) == (0.9, False)
    assert {key: model.get(key) for key in own} == own
    assert model["backbone"] == ("resnet50_v2_x4" if "moam" in name else "resnet50_v2")
    assert data["normalize"] == "symmetric"


@pytest.mark.parametrize("name", ["s4l_supervised_1", "s4l_exemplar_imagenet", "moam_imagenet_1"])
def test_a_recipe_trains_on_small_images(name: str) -> None:
    small = (
        *("--data.dataset", "digits", "--data.labels_per_class", "2", "--data.image_size", "8"),
        *("--data.batch_size", "4", "--data.unlabeled_batch_size", "4"),
        *("--model.backbone", "wrn_10_1", "--trainer.max_steps", "2"),
        *("--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--run_dir", "a"),
    )
    metrics = run(["fit", "-c", name, *small]).trainer.callback_metrics
    assert metrics["train/loss"].isfinite()
