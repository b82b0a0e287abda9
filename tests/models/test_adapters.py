"""Low-rank adapters: what they compute, what learns, and how weights go in and out."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from lightning_ssl.models import build_network, load_weights, merge_adapters
from lightning_ssl.models.adapters import is_added

VIT = "timm/test_vit"
OPTIONS = {"img_size": 32}


def adapted(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(VIT, OPTIONS, 3, False, "lora", args)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return build_network(VIT, OPTIONS, 3, False, None, None)


def test_the_network_is_the_same_at_first_and_only_adapters_learn() -> None:
    network, images = adapted(), torch.rand(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), plain().eval()(images))
    assert type(network) is type(plain())
    assert network.num_features == plain().num_features
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in network.named_parameters() if is_added(name)}
    width, blocks = 64, len(network.blocks)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == (
        blocks * 4 * (width + 3 * width)
    )


@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (8.0, 2.0)])
def test_an_adapted_layer_by_hand(alpha: float | None, factor: float) -> None:
    network = adapted(alpha=alpha, dropout=0.0).double()
    layer: Any = network.blocks[0].attn.qkv  # type: ignore[index, union-attr]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(up)
    rows = torch.rand(5, 64, dtype=torch.float64)
    expected = rows @ layer.base_layer.weight.T + layer.base_layer.bias
    expected = expected + factor * rows @ down.T @ up.T
    torch.testing.assert_close(layer(rows), expected, rtol=1e-12, atol=1e-12)


def test_merging_leaves_a_plain_network() -> None:
    network, images = adapted(), torch.rand(2, 3, 32, 32)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    before = network.eval()(images)
    merge_adapters(network)
    assert network.state_dict().keys() == plain().state_dict().keys()
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)
    changed = plain().state_dict()
    assert not torch.equal(network.state_dict()["blocks.0.attn.qkv.weight"],
                           changed["blocks.0.attn.qkv.weight"])  # fmt: skip
    assert torch.equal(network.state_dict()["blocks.0.mlp.fc1.weight"],
                       changed["blocks.0.mlp.fc1.weight"])  # fmt: skip


def test_published_weights_fit_an_adapted_network(tmp_path: Any) -> None:
    state = timm.create_model("test_vit", num_classes=0, **OPTIONS).state_dict()
    torch.save(state, tmp_path / "w.pt")
    network = adapted()
    loaded = load_weights(network, tmp_path / "w.pt")
    assert loaded == list(state)
    merge_adapters(network)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


def test_norms_of_a_convolutional_network_stay() -> None:
    from lightning_ssl.methods import Supervised

    module = Supervised(
        3, backbone="resnet18", adapter="lora", adapter_args={"targets": r".*layer\d.*conv\d"}
    ).train()
    before = {name: value.clone() for name, value in module.backbone.named_buffers()}
    module(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(before[name], v) for name, v in module.backbone.named_buffers())
    adapters = [p for n, p in module.backbone.named_parameters() if "lora_B" in n]
    assert adapters
    assert all(p.grad is not None and p.grad.any() for p in adapters)


@pytest.mark.parametrize(
    ("freeze", "adapter", "options", "match"),
    [
        (False, "lora", {"rank": 0}, "`adapter_args.rank` must be at least 1, got 0"),
        (False, "lora", {"alpha": 0}, "`adapter_args.alpha` must be above 0"),
        (False, "lora", {"dropout": 1.0}, "`adapter_args.dropout` must be in"),
        (False, "lora", {"targets": "nothing"}, "`adapter_args.targets` must name.*'nothing'"),
        (False, "lora", {"targets": r".*norm1"}, "`adapter_args.targets` must name.*norm1"),
        (False, "lora", {"r": 4}, "`adapter_args` must have keys of"),
        (False, "dora", None, "`adapter` must be null or one of"),
        (False, None, {"rank": 4}, "`adapter_args` must be null without"),
        (True, "lora", None, "`freeze_backbone` must be false"),
    ],
)
def test_bad_options(freeze: bool, adapter: Any, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build_network(VIT, OPTIONS, 3, freeze, adapter, options)
