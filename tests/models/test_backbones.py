"""Backbones by name."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_ssl.models import build_backbone


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("resnet50", 2048), ("wide_resnet50_2", 2048)]
)
def test_torchvision(name, width):
    with torch.device("meta"):  # shapes only: the wide ones are slow here
        backbone = build_backbone(name)
        assert backbone.num_features == width
        assert backbone(torch.empty(2, 3, 64, 64)).shape == (2, width)
        assert not [n for n, _ in backbone.named_parameters() if n.startswith("fc")]


def test_torchvision_features_are_those_of_the_original():
    backbone = build_backbone("resnet18").eval()
    original = torchvision.models.resnet18().eval()
    original.fc = nn.Identity()
    original.load_state_dict(backbone.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone(x), original(x))


def test_small_stem_and_channels():
    backbone = build_backbone("resnet18", in_channels=1, small_stem=True, bn_momentum=0.01)
    assert backbone.conv1.weight.shape == (64, 1, 3, 3)
    x = torch.randn(2, 1, 32, 32)
    assert backbone.maxpool(backbone.conv1(x)).shape == (2, 64, 32, 32)
    assert backbone(x).shape == (2, 512)
    momenta = {m.momentum for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.01}
    assert build_backbone("resnet18", in_channels=4).conv1.weight.shape == (64, 4, 7, 7)


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_pretrained_stem_keeps_the_response_to_grey(in_channels, monkeypatch):
    torch.manual_seed(0)
    original = torchvision.models.resnet18()
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        twin = torchvision.models.resnet18()
        twin.load_state_dict(original.state_dict())
        return twin

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    backbone = build_backbone("resnet18", in_channels=in_channels, pretrained=True)
    assert asked == [("resnet18", "DEFAULT")]
    grey = torch.randn(2, 1, 32, 32)
    response = backbone.conv1(grey.expand(-1, in_channels, -1, -1))
    expected = original.conv1(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(response, expected, rtol=1e-4, atol=1e-4)


def test_timm_transformer_takes_an_image_size():
    backbone = build_backbone("timm/vit_tiny_patch16_224", in_channels=1, img_size=32, depth=1)
    assert backbone.num_features == 192
    assert backbone(torch.randn(2, 1, 32, 32)).shape == (2, 192)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "test_convnext"])
def test_timm_width_is_that_of_the_output(name):
    backbone = build_backbone(f"timm/{name}", bn_momentum=0.02).eval()
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, backbone.num_features)
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {m.momentum for m in norms} <= {0.02}


def test_timm_is_asked_for_pretrained_weights(monkeypatch):
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        return nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(nn.Linear, "num_features", 7, raising=False)
    backbone = build_backbone("timm/resnet18", in_channels=2, pretrained=True)
    assert backbone.num_features == 7
    assert asked == {"name": "resnet18", "pretrained": True, "num_classes": 0, "in_chans": 2}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnt18", "'resnet18'"),
        ("wrn28_2", "'wrn_28_2'"),
        ("vit_small_patch16_224", "'timm/vit_small_patch16_224'"),
        ("timm/vit_smal_patch16_224", "'timm/vit_small_patch16_224'"),
    ],
)
def test_unknown_name(name, near):
    with pytest.raises(ValueError, match=rf"`backbone` must be .* got '{name}'\. .*{near}"):
        build_backbone(name)


@pytest.mark.parametrize("name", ["wrn_28_2x", "my_wrn_28_2", "wrn_28_<width>", "resnet50_v2_x2"])
def test_a_name_that_only_contains_a_known_one(name):
    with pytest.raises(ValueError, match=r"`backbone` must be one of .*'paws_wrn_<depth>_<width>'"):
        build_backbone(name)


def test_unknown_name_like_nothing():
    with pytest.raises(ValueError, match=r"got 'qqqqqqqqqqq'\.$"):
        build_backbone("qqqqqqqqqqq")


@pytest.mark.parametrize(
    ("name", "option", "allowed"),
    [
        ("wrn_10_1", "small_stem", "'conv_bias', 'raw_shortcut_input', 'bn_eps', 'bn_momentum'"),
        ("wrn_10_1", "depth", "'conv_bias'"),
        ("resnet18", "img_size", r"\('small_stem', 'bn_momentum'\)"),
    ],
)
def test_unknown_option(name, option, allowed):
    with pytest.raises(ValueError, match=rf"`backbone` '{name}' must be .*{allowed}.*'{option}'"):
        build_backbone(name, **{option: 1})


def test_unknown_and_reserved_timm_options():
    with pytest.raises(ValueError, match=r"constructor in timm, got .*small_stem"):
        build_backbone("timm/vit_tiny_patch16_224", small_stem=True)
    with pytest.raises(ValueError, match=r"must not set .* got \['num_classes'\]"):
        build_backbone("timm/resnet10t", num_classes=3)


def test_no_pretrained_wide_resnet():
    with pytest.raises(ValueError, match="`pretrained` must be False"):
        build_backbone("wrn_10_1", pretrained=True)
