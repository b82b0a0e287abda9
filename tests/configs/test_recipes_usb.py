"""Recipes of USB's benchmark with pre-trained transformers: its numbers, rates and weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_recipes_run import QUIET

from lightning_ssl.cli import run
from lightning_ssl.methods import FixMatch
from lightning_ssl.models import build_backbone
from lightning_ssl.optim import Optimizer, Schedule, build_optimizer, multiplier

# Classes, labels, side, patch, channels, peak rate, decay per layer.
USB = {
    "usb_cifar100": (100, 200, 32, 2, 384, 5e-4, 0.5),
    "usb_stl10": (10, 40, 96, 16, 768, 1e-4, 0.65),
}
each = pytest.mark.parametrize("name", USB)


@each
def test_numbers(name: str, printed: Any) -> None:
    classes, labels, _, _, _, rate, decay = USB[name]
    recipe = printed(name)
    model, data, trainer = recipe["model"], recipe["data"], recipe["trainer"]
    assert data["dataset"] == name.removeprefix("usb_")
    assert (data["num_labels"], data["val_per_class"], data["fold"]) == (labels, 0, None)
    assert labels % classes == 0
    assert (data["batch_size"], data["unlabeled_batch_size"]) == (8, 8)
    assert data["include_labeled"]
    assert (trainer["max_steps"], trainer["val_check_interval"]) == (204_800, 2_048)
    assert trainer["max_steps"] == 200 * 1_024
    optimizer = model["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["layer_decay"]) == ("adamw", rate, decay)
    assert (optimizer["weight_decay"], optimizer["weight_decay_end"]) == (5e-4, None)
    assert model["ema_decay"] == 0
    assert (model["threshold"], model["lambda_u"]) == (0.95, 1)
    assert model["backbone_args"]["drop_path_rate"] == 0.2
    assert model["backbone_args"]["pretrained"]
    schedule = Schedule(**model["schedule"])
    for step in (0, 1, 2_560, 5_119, 5_120, 100_000, 204_799):
        late = math.cos(7 / 16 * math.pi * (step - 5_120) / (204_800 - 5_120))
        expected = step / 5_120 if step < 5_120 else late
        assert multiplier(step, 204_800, schedule) == pytest.approx(expected, rel=1e-12)


@each
def test_network(name: str, printed: Any) -> None:
    _, _, side, patch, channels, rate, decay = USB[name]
    model = printed(name)["model"]
    method = FixMatch(
        10,
        backbone=model["backbone"],
        backbone_args=model["backbone_args"] | {"pretrained": False},
        optimizer=Optimizer(**model["optimizer"]),
    )
    backbone: Any = method.backbone
    assert method.num_features == channels
    assert len(backbone.blocks) == 12
    assert backbone.patch_embed.proj.kernel_size == (patch, patch)
    assert backbone.pos_embed.shape[1] == (side // patch) ** 2 + 1
    assert backbone.global_pool == "token"
    # Drop path rises from 0 to the last block.
    assert backbone.blocks[11].drop_path1.drop_prob == pytest.approx(0.2)
    optimizer = build_optimizer(method.parameter_groups(), method.optimizer)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[method.classifier.weight] == rate  # type: ignore[index]
    for block in range(12):
        own = rates[backbone.blocks[block].attn.qkv.weight]
        assert own == pytest.approx(rate * decay ** (12 - block), rel=1e-12)
    assert rates[backbone.norm.weight] == rates[backbone.blocks[11].mlp.fc2.bias]
    assert rates[backbone.pos_embed] == pytest.approx(rate * decay**13, rel=1e-12)


def test_another_method_keeps_the_protocol(printed: Any) -> None:
    first, second = printed("usb_cifar100"), printed("usb_cifar100", "--model", "PseudoLabel")
    assert second["class"].endswith("PseudoLabel")
    for key in ("backbone", "backbone_args", "optimizer", "schedule", "ema_decay"):
        assert second["model"][key] == first["model"][key]
    assert (second["data"], second["trainer"]) == (first["data"], first["trainer"])


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("usb_cifar100", "ReMixMatch", ()),
        ("usb_cifar100", "MixMatch", ("--model.lambda_u", "10", "--data.views", "null")),
        ("usb_stl10", "Supervised", ("--data.views", "null")),
    ],
)
def test_another_method_trains(name: str, method: str, options: tuple[str, ...]) -> None:
    cli: Any = run([
        *("fit", "-c", name, *QUIET, "--trainer.max_steps", "1", "--model", method, *options),
        *("--data.dataset", "digits", "--data.num_labels", "20", "--model.schedule.warmup", "0"),
        *("--model.backbone", "timm/vit_tiny_patch16_224", "--model.backbone_args"),
        "{img_size: 8, patch_size: 4, depth: 2, drop_path_rate: 0.2}",
    ])  # fmt: skip
    assert cli.trainer.global_step == 1
    assert cli.model.ema_decay == 0
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.parametrize("flag", [("--model.optimizer.layer_decay", "null"),
                                  ("--model.optimizer.layer_decay=null",)])  # fmt: skip
def test_layer_decay_can_be_taken_back(flag: tuple[str, ...], printed: Any) -> None:
    optimizer = printed("usb_cifar100", *flag)["model"]["optimizer"]
    assert (optimizer["layer_decay"], optimizer["lr"], optimizer["name"]) == (None, 5e-4, "adamw")


def test_a_file_of_weights_as_usb_writes_it(tmp_path: Path) -> None:
    """Under ``model``, with a head that is not wanted."""
    options: dict[str, Any] = {"img_size": 8, "patch_size": 2, "depth": 2}
    name = "timm/vit_tiny_patch16_224"
    torch.manual_seed(0)
    state = build_backbone(name, **options).state_dict()
    heads = {"head.weight": torch.zeros(7, 192), "head.bias": torch.zeros(7)}
    torch.save({"model": state | heads}, tmp_path / "usb.pth")
    # Otherwise timm, 1.0.29 for one, reads any file as the archive this network was published as.
    overlay = {"file": str(tmp_path / "usb.pth"), "custom_load": False}
    loaded = build_backbone(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@each
def test_trains(name: str) -> None:
    """Two updates on digits, by a network of two blocks."""
    small = "{img_size: 8, patch_size: 4, depth: 2, drop_path_rate: 0.2}"
    cli: Any = run([
        *("fit", "-c", name, *QUIET, "--trainer.max_steps", "2"),
        *("--data.dataset", "digits", "--data.num_labels", "20"),
        *("--model.backbone", "timm/vit_tiny_patch16_224", "--model.backbone_args", small),
        *("--model.schedule.warmup", "1"),
    ])  # fmt: skip
    assert cli.trainer.global_step == 2
    logged = cli.trainer.callback_metrics
    assert logged["train/loss"].isfinite()
    rate, decay = USB[name][5:]
    # The second update is the first at the full rate; its end is what the groups now have.
    (optimizer,) = cli.trainer.optimizers
    rates = sorted({group["lr"] for group in optimizer.param_groups}, reverse=True)
    assert logged["train/lr"] == pytest.approx(rate, rel=1e-6)
    assert [r / rates[0] for r in rates] == pytest.approx([decay**k for k in range(4)], rel=1e-9)
