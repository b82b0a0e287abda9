"""The configs of FixMatch's successors: FixMatch's budget, and what each of them changes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_ssl.cli.configs import find_config

from test_recipes import different


def read(name: str) -> Any:
    return yaml.safe_load(Path(find_config(name)).read_text())


USB = {"backbone_args": {"bn_momentum": 0.001, "raw_shortcut_input": True}}


@pytest.mark.parametrize(
    ("name", "like", "changes"),
    [
        ("flexmatch", "fixmatch", {}),
        ("crmatch", "fixmatch", {}),
        ("softmatch", "fixmatch", {"n_sigma": 2.0, "decay": 0.999}),
        ("freematch", "fixmatch", {"lambda_fairness": 0.001, "decay": 0.999}),
        ("freematch_svhn", "freematch", {"clip": [0.9, 0.95]}),
        ("flexmatch_cifar100", "fixmatch_cifar100", {}),
        ("flexmatch_stl10", "fixmatch_stl10", {}),
        ("fixmatch_usb", "fixmatch", USB),
        ("flexmatch_usb", "flexmatch", USB),
        (
            "adamatch_usb",
            "fixmatch",
            {"threshold": 0.95, "decay": 0.999, "simple": True, "ramp": 0} | USB,
        ),
    ],
)
def test_only_the_method_changes(name: str, like: str, changes: dict[str, Any]) -> None:
    config, other = read(name), read(like)
    changed = different(config["model"], other["model"]) - {"class_path"}
    options = different(config["model"]["init_args"], other["model"]["init_args"])
    assert changed == {f"init_args.{option}" for option in options}
    assert {option.partition(".")[0] for option in options} == set(changes)
    assert {option: config["model"]["init_args"][option] for option in changes} == changes
    trainer = {"val_check_interval": 5_120} if name.endswith("usb") else {}
    assert config["trainer"] == other["trainer"] | trainer
    assert {key: config["data"][key] for key in other["data"]} == other["data"]


STRONG = ("fixmatch_usb", "flexmatch_usb", "adamatch_usb", "remixmatch_usb")


@pytest.mark.parametrize("name", [*STRONG, "usb_cifar100", "usb_stl10"])
def test_strong_views_are_those_of_usb(name: str) -> None:
    """``semilearn/datasets/augmentation/randaugment.py``, and the crops before it."""
    transforms = read(name)["data"]["views"]["strong"]["init_args"]["transforms"]
    classes = ["HorizontalFlip", "PadCrop", "RandAugment", "Cutout"]
    assert [t["class_path"].rpartition(".")[2] for t in transforms] == classes
    *moved, operations, cutout = (t.get("init_args") for t in transforms)
    assert (moved, operations) == ([None, None], {"num_ops": 3, "pool": "torchssl"})
    assert cutout["random_side"]
    assert [round(255 * value, 4) for value in cutout["fill"]] == [125, 123, 114]
    assert set(cutout) == {"random_side", "fill"}


@pytest.mark.parametrize("name", [*STRONG, "mixmatch_usb"])
def test_pixels_and_network_are_those_of_usb(name: str, printed: Any) -> None:
    config = printed(name)
    assert config["data"]["mean"] == [0.485, 0.456, 0.406]
    assert config["data"]["std"] == [0.229, 0.224, 0.225]
    assert config["model"]["backbone"] == "wrn_28_2"
    assert config["model"]["backbone_args"] == USB["backbone_args"]
    assert config["trainer"]["val_check_interval"] == 5 * 1_024


def test_adamatch() -> None:
    config = read("adamatch")
    options, data = config["model"]["init_args"], config["data"]
    assert options["optimizer"] == {
        **{"name": "sgd", "lr": 0.03, "momentum": 0.9, "nesterov": False},
        "weight_decay": 1e-3,
    }
    assert options["schedule"] == {"name": "cosine_part", "final": 0.25}
    assert (options["threshold"], options["window"], options["ramp"]) == (0.9, 128, 0.5)
    # The original counts labelled images, 8 * 2^20 of them.
    assert config["trainer"]["max_steps"] * data["batch_size"] == 8 * 2**20
    assert data["unlabeled_batch_size"] == 3 * data["batch_size"]


# alpha, weight of the unlabelled loss, weight decay, network, images with labels among the others.
MIXMATCH = {
    "mixmatch_cifar100": (0.75, 150, 0.04, "wrn_28_8", False),
    "mixmatch_svhn": (0.75, 250, 0.02, "wrn_28_2", False),
    "mixmatch_stl10": (0.75, 50, 0.02, "wrn_37_2", False),
    "mixmatch_usb": (0.5, 100, 5e-4, "wrn_28_2", True),
}


@pytest.mark.parametrize("name", MIXMATCH)
def test_mixmatch(name: str, printed: Any) -> None:
    config = printed(name)
    options, data, trainer = config["model"], config["data"], config["trainer"]
    optimizer = options["optimizer"]
    assert MIXMATCH[name] == (
        *(options["alpha"], options["lambda_u"], optimizer["weight_decay"]),
        *(options["backbone"], data["include_labeled"]),
    )
    assert (options["temperature"], options["guess_views"]) == (0.5, 2)
    assert options["ema_decay"] == 0.999
    assert (data["batch_size"], data["unlabeled_batch_size"]) == (64, 64)
    assert trainer["max_steps"] == 2**20
    if name == "mixmatch_usb":
        assert (options["ramp"], data["normalize"]) == (0.4, "dataset")
        assert options["shared_weight"]
        assert (optimizer["name"], optimizer["lr"]) == ("sgd", 0.03)
        assert options["schedule"]["name"] == "cosine_7_16"
    else:
        assert options["ramp"] * trainer["max_steps"] == 16_384
        assert data["normalize"] == "symmetric"
        assert (optimizer["name"], optimizer["lr"]) == ("adamw", 0.002)
        assert options["schedule"]["name"] == "constant"


def test_flexmatch_on_imagenet() -> None:
    config = read("flexmatch_imagenet")
    options, data = config["model"]["init_args"], config["data"]
    assert (options["threshold"], options["optimizer"]["weight_decay"]) == (0.7, 3e-4)
    assert data["batch_size"] == data["unlabeled_batch_size"] == 128
