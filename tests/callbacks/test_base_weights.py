"""What a checkpoint of an adapted network holds, and what it needs to be opened."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_ssl.cli import run
from lightning_ssl.methods import FixMatch, Supervised

from runs import differences, fit, load

VIT = (
    *("--model.backbone", "timm/test_vit", "--model.backbone_args", "{img_size: 8, patch_size: 2}"),
    *("--model.adapter", "lora", "--model.weights", "network.pt"),
)
CPU = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
EACH = (
    "--trainer.callbacks+=lightning_ssl.callbacks.RunCheckpoint",
    *("--trainer.callbacks.filename", "each", "--trainer.callbacks.every_n_train_steps", "1"),
    *("--trainer.callbacks+=probes.Leave", "--trainer.callbacks.step", "2"),
    *("--trainer.callbacks.checkpoint", "whole/checkpoints/each.ckpt"),
)


@pytest.fixture(autouse=True)
def _published() -> None:
    import timm

    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=0, img_size=8, patch_size=2)
    torch.save(model.state_dict(), "network.pt")


def test_only_adapters_and_heads_are_written_and_a_run_resumes() -> None:
    whole = fit("FixMatch", "whole", 4, *VIT, *EACH)
    checkpoint = load("whole")
    learning = {name for name, p in whole.model.named_parameters() if p.requires_grad}
    for key in ("state_dict", "current_model_state"):
        assert set(checkpoint[key]) == learning
        assert all(".lora_" in name or name.startswith("classifier.") for name in learning)
    size = Path("whole/checkpoints/last.ckpt").stat().st_size
    assert size < Path("network.pt").stat().st_size

    fit("FixMatch", "resumed", 4, *VIT, "--ckpt_path", "left.ckpt")
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert differences(checkpoint[key], load("resumed")[key], key) == []

    base = torch.load("network.pt")
    now = whole.model.backbone.state_dict()
    assert all(torch.equal(v, now.get(n, now.get(n.replace("qkv.", "qkv.base_layer."))))
               for n, v in base.items())  # fmt: skip


def test_opening_needs_the_same_network() -> None:
    cli = fit("FixMatch", "a", 2, *VIT)
    path = "a/checkpoints/last.ckpt"
    tested = run(["test", "--ckpt_path", path, *CPU, "--model.weights", "network.pt"])
    expected = {n: v.item() for n, v in cli.trainer.callback_metrics.items() if "test/" in n}
    found = {n: v.item() for n, v in tested.trainer.callback_metrics.items()}
    assert found == expected
    with pytest.raises(ValueError, match="holds adapters alone, of a network with other weights"):
        run(["test", "--ckpt_path", path, *CPU])
    with pytest.raises(ValueError, match="holds adapters alone"):
        FixMatch.load_from_checkpoint(path)
    loaded = FixMatch.load_from_checkpoint(path, weights="network.pt")
    assert differences(dict(loaded.state_dict()), dict(tested.model.state_dict())) == []


def test_weights_of_a_package_are_found_again() -> None:
    options: dict[str, Any] = {"backbone": "timm/tf_efficientnet_lite0", "adapter": "lora"}
    network = {"backbone_args": {"pretrained": True}, "adapter_args": {"targets": ["conv_pw"]}}
    method = Supervised(3, **options, **network)  # type: ignore[arg-type]
    torch.nn.init.normal_(next(p for n, p in method.named_parameters() if "lora_B" in n), std=0.1)
    checkpoint: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(checkpoint)
    checkpoint["pytorch-lightning_version"] = "2.6.4"
    torch.save(checkpoint, "adapted.ckpt")
    loaded = Supervised.load_from_checkpoint("adapted.ckpt").eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), method.eval()(images))
