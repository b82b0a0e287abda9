"""s4l's ResNet-50 v2: sizes, the forward pass restated, and its initial weights."""

import pytest
import torch
from torch.nn import functional

from lightning_ssl.models import LinearHead, PreActResNet50, build_backbone


def count_by_hand(width):
    """Kernels and norms of arXiv 1603.05027's bottlenecks, unit by unit."""
    total, inner = 7 * 7 * 3 * 64 * width, 64 * width
    for stage, units in enumerate((3, 4, 6, 3)):
        outer = 256 * width * 2**stage
        for unit in range(units):
            neck = outer // 4
            total += inner * neck + 9 * neck * neck + neck * outer + 2 * (inner + neck + neck)
            if unit == 0:
                total += inner * outer
            inner = outer
    return total + 2 * inner


@pytest.mark.parametrize(
    ("name", "width", "backbone", "head"),
    [("resnet50_v2", 1, 23.50e6, 2.05e6), ("resnet50_v2_x4", 4, 375.3e6, 8.2e6)],
)
def test_parameter_counts(name, width, backbone, head):
    with torch.device("meta"):  # sizes only: the wide one has 1.5 GB
        network = build_backbone(name)
        found = sum(p.numel() for p in network.parameters())
        assert found == count_by_hand(width) == pytest.approx(backbone, rel=2e-4)
        linear = LinearHead(network.num_features, 1000)
        assert sum(p.numel() for p in linear.parameters()) == pytest.approx(head, rel=2e-3)
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, 2048 * width)


def restated(state, x, small_stem):
    """The network in evaluation mode with functional calls."""

    def act(name, x):
        mean, var, weight, bias = (
            state[f"{name}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(var + 1e-3) * weight + bias).clamp(min=0)

    def conv(name, x, stride=1, padding=0):
        return functional.conv2d(x, state[f"{name}.weight"], None, stride, padding)

    if small_stem:
        x = conv("stem", x, 1, 1)
    else:
        x = conv("stem", x, 2, 3)
        patches = functional.unfold(functional.pad(x, (1, 1, 1, 1)), 3, stride=2)
        side = (x.shape[-1] + 2 - 3) // 2 + 1
        x = patches.view(len(x), x.shape[1], 9, side, side).amax(2)
    for stage, units in enumerate((3, 4, 6, 3)):
        for unit in range(units):
            name = f"stages.{stage}.{unit}"
            stride = 2 if stage > 0 and unit == 0 else 1
            active = act(f"{name}.bn1", x)
            out = conv(f"{name}.conv1", active)
            out = conv(f"{name}.conv2", act(f"{name}.bn2", out), stride, 1)
            out = conv(f"{name}.conv3", act(f"{name}.bn3", out))
            x = out + (conv(f"{name}.shortcut", active, stride) if unit == 0 else x)
    return act("bn", x).mean((2, 3))


@pytest.mark.parametrize("small_stem", [False, True])
def test_forward_equals_the_definition(small_stem):
    torch.manual_seed(0)
    network = build_backbone("resnet50_v2", small_stem=small_stem).double().eval()
    for name, value in network.state_dict().items():  # statistics and affine terms that matter
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if "var" in name else -0.3))
    # Its negative borders tell padding with zeros from padding with minus infinity.
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64).requires_grad_()
    found, expected = network(x), restated(network.state_dict(), x, small_stem)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(value.square().sum(), x)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-8, atol=1e-8)


def test_initial_weights_are_glorot_uniform():
    torch.manual_seed(0)
    network = PreActResNet50()
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.bias is None
            out, inner, k, _ = layer.weight.shape
            bound = (6 / (k * k * (inner + out))) ** 0.5
            assert 0.98 * bound < layer.weight.abs().max().item() < 1.0001 * bound, name
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.1)}
    assert all(n.weight.eq(1).all() and n.bias.eq(0).all() for n in norms)


def test_options():
    network = build_backbone("resnet50_v2", bn_momentum=0.01, in_channels=1)
    momenta = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.01}
    assert network.stem.weight.shape == (64, 1, 7, 7)
    free = build_backbone("resnet50_v2", norm="none")
    assert not list(free.buffers())
    with pytest.raises(ValueError, match="`norm` must be one of"):
        build_backbone("resnet50_v2", norm="layer")
    with pytest.raises(ValueError, match=r"must be one of \('small_stem', 'bn_momentum', 'norm'\)"):
        build_backbone("resnet50_v2", width=3)
    with pytest.raises(ValueError, match="`pretrained` must be False"):
        build_backbone("resnet50_v2", pretrained=True)
    with pytest.raises(ValueError, match="Did you mean 'resnet50_v2'"):
        build_backbone("resnet50v2")
