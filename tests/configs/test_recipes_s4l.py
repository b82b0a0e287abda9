"""Recipes of S4L: every number of the authors' scripts, in epochs there and in updates here."""

from typing import Any

import pytest

# Labels, batch, epochs: warm-up, decays, end; effective peak rate and decay; the method's own.
SCRIPTS: dict[str, tuple[int, int, tuple[int, ...], float, float, dict[str, Any]]] = {
    "s4l_supervised_10": (128_000, 256, (5, 140, 160, 180, 200), 0.1, 1e-3, {}),
    "s4l_supervised_1": (13_000, 256, (5, 700, 800, 900, 1000), 0.01, 1e-2, {}),
    "s4l_pseudo_label_imagenet": (1_281_167, 256, (5, 30, 60, 90, 100), 0.1, 1e-4, {}),
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
def test_numbers_are_those_of_the_script(name: str, printed: Any) -> None:
    labels, batch, epochs, lr, decay, own = SCRIPTS[name]
    recipe = printed(name)
    model, data = recipe["model"], recipe["data"]
    per_epoch = labels // batch
    assert data["labels_per_class"] * 1000 == (128_000 if "pseudo" in name else labels)
    assert (data["pseudo_labels"] is not None) == ("pseudo" in name)
    assert data["steps_per_epoch"] == "labeled"
    assert data["batch_size"] == batch
    assert "Supervised" in recipe["class"] or data["unlabeled_batch_size"] == batch
    updates = [model["schedule"]["warmup"], *model["schedule"]["milestones"]]
    assert [*updates, recipe["trainer"]["max_steps"]] == [e * per_epoch for e in epochs]
    optimizer = model["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (lr, decay)
    assert (optimizer["name"], optimizer["momentum"], optimizer["nesterov"]) == ("sgd", 0.9, False)
    assert {key: model[key] for key in own} == own
    assert model["backbone"] == ("resnet50_v2_x4" if "moam" in name else "resnet50_v2")
    assert model["backbone_args"] == {"bn_momentum": 0.01}
    assert model["ema_decay"] == 0 or "ema_half_life" in own
    assert data["normalize"] == "symmetric"
    if "exemplar" not in name:  # whose preset has the crop, the noise and the flip
        transforms = [
            t["class_path"].rpartition(".")[2]
            for t in data["views"]["weak"]["init_args"]["transforms"]
        ]
        noise = ["HSVNoise"] if name == "s4l_supervised_1" else []
        assert transforms == ["InceptionCrop", "HorizontalFlip", *noise]


STEPS = {  # of MOAM: class, rate, decay and updates, of an epoch of labelled or of all images
    "moam_imagenet_2": ("MOAM", 0.1, 2e-4, 1_281_167 // 128, (6, 12, 18)),
    "moam_imagenet_3": ("Supervised", 5e-4, 3e-3, 128_000 // 128, (5, 10, 15, 20)),
}


@pytest.mark.parametrize("name", STEPS)
def test_later_steps_of_moam(name: str, printed: Any) -> None:
    method, lr, decay, per_epoch, epochs = STEPS[name]
    recipe, first = printed(name), printed("moam_imagenet_1")
    model = recipe["model"]
    assert recipe["class"].endswith(method)
    updates = [*model["schedule"]["milestones"], recipe["trainer"]["max_steps"]]
    assert updates == [e * per_epoch for e in epochs]
    assert (model["optimizer"]["lr"], model["optimizer"]["weight_decay"]) == (lr, decay)
    shared = {"backbone", "backbone_args"} | (
        set(SCRIPTS["moam_imagenet_1"][-1]) - {"ema_half_life"} if method == "MOAM" else set()
    )
    assert {key: model[key] for key in shared} == {key: first["model"][key] for key in shared}
    # The labelled images, and with them what step 2 takes for given, must be those of step 1.
    sizes = {"unlabeled_batch_size"} if method == "Supervised" else set()
    assert {k: v for k, v in recipe["data"].items() if k not in sizes} == {
        k: v for k, v in first["data"].items() if k not in sizes
    }
