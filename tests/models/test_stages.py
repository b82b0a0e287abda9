"""Features of stages against forward passes by hand and timm's own intermediates."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu

from lightning_ssl.models import build_backbone
from lightning_ssl.models.stages import stage_features


def images(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def pool(output: torch.Tensor, side: int) -> torch.Tensor:
    """Adaptive max-pooling by its definition."""
    height = output.shape[2]
    bounds = [(i * height // side, math.ceil((i + 1) * height / side)) for i in range(side)]
    rows = [
        torch.stack([output[:, :, a:b, c:d].amax(dim=(2, 3)) for c, d in bounds], dim=-1)
        for a, b in bounds
    ]
    return torch.stack(rows, dim=-2).flatten(1)


@torch.no_grad()
def test_wide_resnet_by_hand() -> None:
    net = build_backbone("wrn_10_2").eval()
    x = images(20)
    stem = net.stem(x)
    groups = [stem]
    for group in net.groups:
        groups.append(group(groups[-1]))
    found = stage_features(net, x, max_features=1000)
    expected = {
        "stem": pool(stem, 7),  # 16 channels, 7 * 7 * 16 <= 1000
        "stage1": pool(groups[1], 5),
        "stage2": pool(groups[2], 3),
        "stage3": pool(groups[3], 2),
        "features": leaky_relu(net.bn(groups[3]), 0.1).mean(dim=(2, 3)),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    whole = stage_features(net, x, max_features=10**6)
    torch.testing.assert_close(whole["stage2"], groups[2].flatten(1))
    least = stage_features(net, x, max_features=1)
    torch.testing.assert_close(least["stage3"], groups[3].amax(dim=(2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("small_stem", [True, False])
def test_torchvision_resnet_by_hand(small_stem: bool) -> None:
    net = build_backbone("resnet18", small_stem=small_stem).eval()
    x = images(32)
    stem = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    found = stage_features(net, x, max_features=10**6)
    assert list(found) == ["stem", "stage1", "stage2", "stage3", "stage4", "features"]
    torch.testing.assert_close(found["stem"], stem.flatten(1))
    torch.testing.assert_close(found["stage2"], net.layer2(net.layer1(stem)).flatten(1))
    torch.testing.assert_close(found["features"], net(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "side"), [("paws_wrn_10_1", 16), ("resnet20_v2", 16), ("resnet50_v2", 32)]
)
def test_other_own_networks_by_hand(name: str, side: int) -> None:
    net = build_backbone(name).eval()
    x = images(side)
    last = net.bn if name == "resnet50_v2" else net.bn1
    if name == "paws_wrn_10_1":
        stem, stages = net.conv1, [net.layer1, net.layer2, net.layer3]
    else:
        stem, stages = net.stem if name == "resnet50_v2" else net.conv1, [*net.stages]
    found = stage_features(net, x, max_features=10**6)
    assert [*found] == ["stem", *(f"stage{i + 1}" for i in range(len(stages))), "features"]
    torch.testing.assert_close(found["stem"], stem(x).flatten(1))
    out = stem(x)
    if name == "resnet20_v2":
        out = last(out).relu()
    elif name == "resnet50_v2":
        out = net.pool(torch.nn.functional.pad(out, (1, 1, 1, 1)))
    for i, stage in enumerate(stages):
        out = stage(out)
        torch.testing.assert_close(found[f"stage{i + 1}"], out.flatten(1))
    if name != "resnet20_v2":
        out = last(out).relu()
    torch.testing.assert_close(found["features"], out.mean(dim=(2, 3)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("resnet10t", 0),
        ("vit_tiny_patch16_224", 1),  # tokens, of which the first belongs to no place
        ("swin_tiny_patch4_window7_224", 0),  # channels come last
    ],
)
def test_timm_against_its_intermediates(name: str, prefix: int) -> None:
    net = build_backbone(f"timm/{name}", img_size=112) if "resnet" not in name else (
        build_backbone(f"timm/{name}")
    )  # fmt: skip
    net.eval()
    x = images(112, count=2)
    found = stage_features(net, x, max_features=10**7)
    assert list(found) == [*(info["module"] for info in net.feature_info), "features"]
    intermediates = net.forward_intermediates(x, intermediates_only=True)
    assert len(intermediates) == len(net.feature_info)
    for info, expected in zip(net.feature_info, intermediates, strict=True):
        if prefix and info is net.feature_info[-1]:
            continue  # timm normalises the last one
        own = found[info["module"]].view(2, info["num_chs"], -1)[:, :, prefix:]
        torch.testing.assert_close(own, expected.flatten(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["features"], net(x))
    bounded = stage_features(net, x, max_features=500)
    for info in net.feature_info:
        assert bounded[info["module"]].shape[1] <= max(500, info["num_chs"])
        peak = found[info["module"]].view(2, info["num_chs"], -1).amax(dim=-1)
        own = bounded[info["module"]].view(2, info["num_chs"], -1).amax(dim=-1)
        torch.testing.assert_close(own, peak)


def test_no_hook_stays_behind() -> None:
    net = build_backbone("wrn_10_1")
    stage_features(net, images(8))
    with pytest.raises(RuntimeError):
        stage_features(net, torch.zeros(1, 5, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_backbone_without_stages_is_named():
    with pytest.raises(ValueError, match=r"child named one of .*, got Sequential with \('0',\)"):
        stage_features(nn.Sequential(nn.Flatten()), torch.rand(1, 3, 8, 8))


def test_a_stage_of_several_tensors_is_named():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = Pair()

        def forward(self, images):
            return self.stem(images)[0].flatten(1)

    with pytest.raises(ValueError, match="return one tensor each, got a tuple from Net's 'stem'"):
        stage_features(Net(), torch.rand(1, 3, 8, 8))
