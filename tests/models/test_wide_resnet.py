"""Wide ResNets: sizes, gradients, and the forward pass against a functional restatement."""

import pytest
import torch
from torch.nn import functional

from lightning_ssl.models import LinearHead, WideResNet, build_backbone


def count(name, classes, **options):
    backbone = build_backbone(name, **options)
    head = LinearHead(backbone.num_features, classes)
    return sum(p.numel() for m in (backbone, head) for p in m.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "options", "expected"),
    [
        ("wrn_28_2", 10, {}, 1_467_626),
        ("wrn_28_2", 100, {}, 1_479_236),
        ("wrn_28_2", 10, {"conv_bias": "all"}, 1_469_642),
        ("wrn_28_2", 10, {"conv_bias": "none"}, 1_467_610),
        ("wrn_28_2", 10, {"raw_shortcut_input": True}, 1_467_626),
        ("wrn_28_8", 100, {}, 23_401_028),
        ("wrn_37_2", 10, {}, 5_929_450),
    ],
)
def test_parameter_counts(name, classes, options, expected):
    assert count(name, classes, **options) == expected


@pytest.mark.parametrize(
    ("name", "width", "side"),
    [("wrn_10_1", 64, 8), ("wrn_16_1", 64, 9), ("wrn_28_2", 128, 16), ("wrn_37_2", 256, 16)],
)
def test_shape(name, width, side):
    backbone = build_backbone(name, in_channels=1)
    assert backbone.num_features == width
    assert backbone(torch.randn(2, 1, side, side)).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "options", "without"),
    [
        ("wrn_28_2", {}, set()),
        ("wrn_28_2", {"conv_bias": "all"}, set()),
        ("wrn_37_2", {}, set()),
        ("wrn_10_1", {"norm": "none"}, set()),
        ("wrn_28_2", {"raw_shortcut_input": True}, {1, 2}),
        ("wrn_37_2", {"raw_shortcut_input": True}, {1, 2, 3}),
    ],
)
def test_who_gets_a_gradient(name, options, without):
    torch.manual_seed(0)
    backbone = build_backbone(name, **options)
    backbone(torch.randn(4, 3, 8, 8)).square().sum().backward()
    idle = {n for n, p in backbone.named_parameters() if p.grad is None}
    assert idle == {f"groups.{g}.0.bn1.{k}" for g in without for k in ("weight", "bias")}
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    reached = [n for n, p in backbone.named_parameters() if p.grad is not None]
    # A bias in front of a normalisation has a gradient of zero but is in the graph.
    assert all(backbone.get_parameter(n).grad.abs().sum() > 0 for n in reached if "conv" not in n)


def restated(state, x, groups, blocks, *, raw):
    """google-research/mixmatch's `ResNet.classifier` (in evaluation mode), line by line."""

    def conv(name, x, stride, pad):
        return functional.conv2d(x, state[name + ".weight"], state.get(name + ".bias"), stride, pad)

    def act(name, x):
        mean, var = state[name + ".running_mean"], state[name + ".running_var"]
        scale = state[name + ".weight"] / torch.sqrt(var + 1e-3)
        shift = state[name + ".bias"] - mean * scale
        x = x * scale[:, None, None] + shift[:, None, None]
        return torch.maximum(x, 0.1 * x)

    def residual(name, x0, stride, activate_before_residual, raw_input):
        x = act(name + ".bn1", x0)
        if activate_before_residual:
            x0 = x
        x = conv(name + ".conv1", x0 if raw_input else x, stride, 1)
        x = conv(name + ".conv2", act(name + ".bn2", x), 1, 1)
        if name + ".shortcut.weight" in state:
            x0 = conv(name + ".shortcut", x0, stride, 0)
        return x0 + x

    y = conv("stem", x, 1, 1)
    for g in range(groups):
        for b in range(blocks):
            first = b == 0
            stride = 2 if first and g > 0 else 1
            y = residual(f"groups.{g}.{b}", y, stride, first and g == 0, raw and first and g > 0)
    return act("bn", y).mean((2, 3))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("name", "groups", "blocks"), [("wrn_16_2", 3, 2), ("wrn_10_1", 3, 1), ("wrn_21_2", 4, 2)]
)
def test_forward_equals_the_definition(name, groups, blocks, raw):
    torch.manual_seed(0)
    backbone = build_backbone(name, raw_shortcut_input=raw, conv_bias="all").double().eval()
    for key, value in backbone.state_dict().items():  # statistics and affine terms that matter
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if "var" in key else -0.3))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = x.clone()
    expected = restated(backbone.state_dict(), x, groups, blocks, raw=raw)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)


def test_variants_differ_and_share_keys():
    torch.manual_seed(0)
    default = build_backbone("wrn_10_2").eval()
    raw = build_backbone("wrn_10_2", raw_shortcut_input=True).eval()
    raw.load_state_dict(default.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(default(x), raw(x))


def test_norm_free_rows_are_independent_and_no_input_is_overwritten():
    torch.manual_seed(0)
    backbone = build_backbone("wrn_16_2", norm="none").double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    before = x.clone()
    full = backbone(x)
    torch.testing.assert_close(torch.cat([backbone(x[:2]), backbone(x[2:])]), full)
    assert torch.equal(x, before)
    assert not list(backbone.buffers())
    # The identity must not let an in-place activation overwrite the residual stream.
    block = backbone.groups[0][1]
    h = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    plain = functional.leaky_relu(block.conv1(functional.leaky_relu(h, 0.1)), 0.1)
    torch.testing.assert_close(block(h), h + block.conv2(plain))


def test_initial_weights_are_as_in_tensorflow():
    torch.manual_seed(0)
    backbone = build_backbone("wrn_28_2", conv_bias="all")
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 4000:
            k, out = module.kernel_size[0], module.out_channels
            expected = (2 / (k * k * out)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert module.bias.abs().max() == 0


def test_norm_options():
    backbone = build_backbone("wrn_10_1", bn_eps=1e-5, bn_momentum=0.001)
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 7
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.001)}
    default = build_backbone("wrn_10_1").bn
    assert (default.eps, default.momentum) == (1e-3, 0.1)


@pytest.mark.parametrize("depth", [1, 4, 5, 27, 30, 39])
def test_wrong_depth(depth):
    with pytest.raises(ValueError, match=rf"must be 6n \+ 4 .* or 8n \+ 5 .*, got {depth}"):
        WideResNet(depth, 1)


@pytest.mark.parametrize(
    ("option", "value"), [("conv_bias", True), ("norm", "layer"), ("width", 0)]
)
def test_wrong_option(option, value):
    options = {"width": 1, option: value}
    with pytest.raises(ValueError, match=rf"`{option}` .*must be .*, got {value!r}"):
        WideResNet(10, **options)


def test_compiles_into_one_graph_for_export():
    backbone = build_backbone("wrn_10_1").eval()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(backbone, (x,)).module()
    torch.testing.assert_close(exported(x), backbone(x))
