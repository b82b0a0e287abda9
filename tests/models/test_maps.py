"""Feature maps are what the features are pooled from."""

import pytest
import torch
from torch.nn.functional import leaky_relu

from lightning_ssl.models import build_backbone, features_and_map

# The map is taken in another memory format, in which additions may have another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def draw(count, side):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("wrn_10_1", {}, 4),
        ("wrn_13_1", {"norm": "none"}, 2),
        ("paws_wrn_10_1", {}, 4),
        ("resnet20_v2", {}, 4),
        ("resnet50_v2", {"small_stem": True}, 2),
        ("resnet18", {"small_stem": True}, 2),
        ("timm/resnet10t", {}, 1),
    ],
)
def test_the_mean_of_the_map_is_the_features(name, options, side):
    net, x = build_backbone(name, **options).double().eval(), draw(3, 16)
    features, found = features_and_map(net, x)
    assert found.shape == (3, net.num_features, side, side)
    torch.testing.assert_close(features, net(x), **CLOSE)
    torch.testing.assert_close(found.mean(dim=(2, 3)), features, **CLOSE)


@torch.no_grad()
def test_the_map_of_a_wide_resnet_is_normalised_and_activated():
    net, x = build_backbone("wrn_10_1").double().eval(), draw(2, 8)
    expected = leaky_relu(net.bn(net.groups(net.stem(x))), 0.1)
    torch.testing.assert_close(features_and_map(net, x)[1], expected, **CLOSE)
    assert not net.avgpool._forward_pre_hooks


@torch.no_grad()
def test_a_transformer_has_tokens():
    net = build_backbone("timm/vit_tiny_patch16_224", img_size=32, depth=1).double().eval()
    x = draw(2, 32)
    features, found = features_and_map(net, x)
    assert found.shape == (2, 5, 192)
    torch.testing.assert_close(features, net(x), **CLOSE)
