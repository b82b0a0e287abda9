"""The networks of PAWS: sizes, and forward and backward against functional restatements."""

import itertools

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from lightning_ssl.models import (
    PAWSWideResNet,
    PredictionHead,
    ProjectionHead,
    ResNet20V2,
    build_backbone,
    load_weights,
)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "trunk", "total"),
    [
        ("resnet50", 23_508_032, 38_210_112),
        ("resnet50w2", None, 137_981_568),
        ("resnet50w4", None, 528_529_152),
    ],
)
def test_parameter_counts_of_resnets(name, trunk, total):
    with torch.device("meta"):  # nothing is allocated
        backbone = build_backbone(name)
        heads = ProjectionHead(backbone.num_features, 2048), PredictionHead(2048)
    assert trunk in (None, count(backbone))
    assert count(backbone, *heads) == total


def test_parameter_counts_of_small_networks():
    assert count(build_backbone("paws_wrn_28_2")) == 1_468_352
    assert count(build_backbone("paws_wrn_28_2"), ProjectionHead(128, 128)) == 1_518_400
    assert count(build_backbone("resnet20_v2")) == 565_360


def randomize(module):
    """Draw scales, shifts and statistics that matter; they start as ones and zeros."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(torch.rand_like(value) + (0.5 if "var" in key else -0.3))
    return module


class Restated:
    """Layers by the names of their tensors; new running statistics are collected."""

    def __init__(self, state, eps, momentum, training):
        self.state = {key: value.clone() for key, value in state.items()}
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        names = [key for key in state if not key.endswith(buffers)]
        self.parameters = {name: self.state[name].requires_grad_() for name in names}
        self.eps, self.momentum, self.training = eps, momentum, training

    def conv(self, name, x, stride=1, pad=0):
        state = self.state
        return functional.conv2d(x, state[name + ".weight"], state.get(name + ".bias"), stride, pad)

    def linear(self, name, x):
        return functional.linear(x, self.state[name + ".weight"], self.state[name + ".bias"])

    def act(self, name, x):
        if name + ".weight" not in self.state:
            return functional.relu(x)
        tensors = [self.state[f"{name}.{key}"] for key in ("running_mean", "running_var")]
        affine = [self.state[f"{name}.{key}"] for key in ("weight", "bias")]
        momentum = self.momentum(name)
        return functional.relu(
            functional.batch_norm(x, *tensors, *affine, self.training, momentum, self.eps)
        )


def paws_wrn(net, x, blocks):
    """suncet's network: the stride on the second convolution, the shortcut from the raw input."""
    x = net.conv("conv1", x, 1, 1)
    for layer, block in itertools.product((1, 2, 3), range(blocks)):
        name = f"layer{layer}.{block}"
        stride = 2 if layer > 1 and block == 0 else 1
        y = net.conv(f"{name}.conv1", net.act(f"{name}.bn1", x), 1, 1)
        y = net.conv(f"{name}.conv2", net.act(f"{name}.bn2", y), stride, 1)
        has_shortcut = f"{name}.shortcut.0.weight" in net.state
        x = y + (net.conv(f"{name}.shortcut.0", x, stride) if has_shortcut else x)
    return net.act("bn1", x).mean((2, 3))


def resnet20(net, x):
    x = net.act("bn1", net.conv("conv1", x, 1, 1))
    for stage, block in itertools.product(range(3), range(2)):
        name = f"stages.{stage}.{block}"
        stride = 2 if stage > 0 and block == 0 else 1
        y = net.conv(f"{name}.conv1", net.act(f"{name}.bn1", x))
        y = net.conv(f"{name}.conv2", net.act(f"{name}.bn2", y), stride, 1)
        y = net.conv(f"{name}.conv3", net.act(f"{name}.bn3", y))
        x = y + (net.conv(f"{name}.shortcut", x, stride) if block == 0 else x)
    return x.mean((2, 3))


def compare(module, net, expected, x):
    """Values, gradients of all tensors and of the images, and new statistics."""
    before = x.detach().clone()
    found = module(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(expected)
    own = dict(module.named_parameters())
    assert own.keys() == net.parameters.keys()
    wanted = torch.autograd.grad((expected * direction).sum(), [x, *net.parameters.values()])
    gradients = torch.autograd.grad((found * direction).sum(), [x, *own.values()])
    for name, a, b in zip(["images", *own], gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    for name, value in module.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(value, net.state[name], rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("paws_wrn_16_2", {"final_bn_momentum": 0.99}),
        ("paws_wrn_10_1", {"bn_momentum": 0.3, "in_channels": 1}),
        ("paws_wrn_16_1", {"norm": "none"}),
    ],
)
def test_paws_wrn_equals_the_definition(name, options, training):
    torch.manual_seed(0)
    module = randomize(build_backbone(name, **options).double()).train(training)
    inner = options.get("bn_momentum", 0.1)
    final = options.get("final_bn_momentum", inner)
    state = module.state_dict()
    net = Restated(state, 1e-5, lambda key: final if key == "bn1" else inner, training)
    x = torch.randn(3, options.get("in_channels", 3), 9, 8, dtype=torch.float64).requires_grad_()
    expected = paws_wrn(net, x, blocks=(int(name.split("_")[2]) - 4) // 6)
    assert expected.shape == (3, module.num_features)
    compare(module, net, expected, x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"bn_momentum": 0.01}, {"norm": "none"}])
def test_resnet20_equals_the_definition(options, training):
    torch.manual_seed(0)
    module = randomize(build_backbone("resnet20_v2", **options).double()).train(training)
    momentum = options.get("bn_momentum", 0.1)
    net = Restated(module.state_dict(), 1e-3, lambda key: momentum, training)
    x = torch.randn(3, 3, 8, 9, dtype=torch.float64).requires_grad_()
    expected = resnet20(net, x)
    assert expected.shape == (3, module.num_features)
    compare(module, net, expected, x)


@pytest.mark.parametrize("training", [False, True])
def test_a_file_of_suncets_computes_what_it_did_there(training, tmp_path):
    torch.manual_seed(0)
    parts = {"backbone": build_backbone("paws_wrn_28_2"), "projection": ProjectionHead(128, 32)}
    module = nn.ModuleDict(parts).double().train(training)
    # Its names: the backbone's without a prefix, `fc` for the projection head.
    encoder = {
        key.replace("projection", "fc").removeprefix("backbone."): torch.randn_like(value) * 0.05
        for key, value in module.state_dict().items()
        if value.is_floating_point()
    }
    for key, value in encoder.items():
        if key.endswith(("running_var", "bn1.weight", "bn2.weight")):
            value.abs_().add_(0.5)
    counters = {
        key.replace("weight", "num_batches_tracked"): torch.tensor(7)
        for key in encoder
        if "bn" in key and key.endswith("weight")
    }
    net = Restated(encoder, 1e-5, lambda key: 0.1, training)
    state = {f"module.{key}": value for key, value in {**encoder, **counters}.items()}
    torch.save({"encoder": state, "epoch": 600, "amp": None}, tmp_path / "file")
    load_weights(module, tmp_path / "file")

    x = torch.randn(4, 3, 12, 12, dtype=torch.float64).requires_grad_()
    out = paws_wrn(net, x, blocks=4)
    for i in (1, 2):
        out = net.act(f"fc.bn{i}", net.linear(f"fc.fc{i}", out))
    expected = net.linear("fc.fc3", out)
    found = module["projection"](module["backbone"](x))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    own = dict(module.named_parameters())
    theirs = [n.replace("projection", "fc").removeprefix("backbone.") for n in own]
    gradients = torch.autograd.grad(found.sin().sum(), [x, *own.values()])
    wanted = torch.autograd.grad(
        expected.sin().sum(), [x, *(net.parameters[name] for name in theirs)]
    )
    torch.testing.assert_close(gradients, wanted, rtol=1e-7, atol=1e-9)


def test_final_momentum_is_that_of_the_others_unless_given():
    def momenta(**options):
        norms = build_backbone("paws_wrn_10_1", **options).named_modules()
        found = {n: m.momentum for n, m in norms if isinstance(m, nn.BatchNorm2d)}
        return found.pop("bn1"), set(found.values())

    assert momenta() == (0.1, {0.1})
    assert momenta(bn_momentum=0.02) == (0.02, {0.02})
    assert momenta(bn_momentum=0.02, final_bn_momentum=0.99) == (0.99, {0.02})


def test_paws_wrn_starts_as_torch_does():
    torch.manual_seed(0)
    for name, module in build_backbone("paws_wrn_28_2").named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            bound = module.weight[0].numel() ** -0.5  # uniform in +-bound
            assert 0.95 * bound < module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name
            assert 0.7 * bound < module.bias.abs().max() <= bound, name


def test_resnet20_starts_glorot_uniform():
    torch.manual_seed(0)
    for name, module in build_backbone("resnet20_v2").named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            outer, inner, *kernel = module.weight.shape
            bound = (6 / ((outer + inner) * kernel[0] * kernel[1])) ** 0.5
            assert 0.99 * bound < module.weight.abs().max() <= bound, name


@pytest.mark.parametrize(("name", "width"), [("resnet50w2", 2), ("resnet50w4", 4)])
def test_wider_resnets_are_resnet50_with_every_width_multiplied(name, width):
    with torch.device("meta"):
        original, wider = torchvision.models.resnet50(), build_backbone(name)
    expected = {}
    for key, value in original.state_dict().items():
        if not key.startswith("fc."):
            shape = [n * width if i < 2 else n for i, n in enumerate(value.shape)]
            expected[key] = (shape[0], 3, 7, 7) if key == "conv1.weight" else tuple(shape)
    assert {key: tuple(value.shape) for key, value in wider.state_dict().items()} == expected
    layers = zip(original.modules(), wider.modules(), strict=True)
    convolutions = [(a, b) for a, b in layers if isinstance(a, nn.Conv2d)]
    assert len(convolutions) == 53
    for a, b in convolutions:
        assert (a.stride, a.padding, a.groups) == (b.stride, b.padding, b.groups)


def test_wider_resnet_starts_and_has_the_options_of_resnets():
    torch.manual_seed(0)
    backbone = build_backbone("resnet50w2", in_channels=1, small_stem=True, bn_momentum=0.02)
    assert backbone.conv1.weight.shape == (128, 1, 3, 3)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == 0.02
            assert module.weight.eq(1).all(), name  # no residual branch starts at zero
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()
            std = module.weight.std().item()
            assert std == pytest.approx((2 / fan_out) ** 0.5, rel=0.06), name
    assert build_backbone("resnet50w2").conv1.weight.std().item() == pytest.approx(
        (2 / (128 * 49)) ** 0.5, rel=0.03
    )


@pytest.mark.parametrize("depth", [4, 5, 13, 27])
def test_wrong_depth(depth):
    with pytest.raises(ValueError, match=rf"'paws_wrn_.*' must be 6n \+ 4 .*, got {depth}"):
        build_backbone(f"paws_wrn_{depth}_1")


def test_wrong_options():
    with pytest.raises(ValueError, match=r"`width` .*'paws_wrn_.*must be > 0, got 0"):
        PAWSWideResNet(10, 0)
    for build in (PAWSWideResNet, lambda *_, norm: ResNet20V2(norm=norm)):
        with pytest.raises(ValueError, match=r"`norm` must be one of .* got 'layer'"):
            build(10, 1, norm="layer")
    with pytest.raises(ValueError, match=r"'final_bn_momentum', 'norm'\), got 'conv_bias'"):
        build_backbone("paws_wrn_10_1", conv_bias="all")
    with pytest.raises(ValueError, match=r"'resnet20_v2' must be .*'norm'\), got 'small_stem'"):
        build_backbone("resnet20_v2", small_stem=True)
    with pytest.raises(ValueError, match=r"'resnet50w2' must be .*'bn_momentum'\), got 'norm'"):
        build_backbone("resnet50w2", norm="none")


@pytest.mark.parametrize("name", ["paws_wrn_10_1", "resnet20_v2", "resnet50w2"])
def test_nothing_pretrained(name):
    with pytest.raises(ValueError, match=f"`pretrained` must be False .*'{name}', got True"):
        build_backbone(name, pretrained=True)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pawswrn_28_2", "'paws_wrn_28_2'"),
        ("resnet20v2", "'resnet20_v2'"),
        ("resnet50_w4", "'resnet50w4'"),
    ],
)
def test_unknown_name(name, near):
    with pytest.raises(ValueError, match=rf"'paws_wrn_<depth>.*got '{name}'\. .*{near}"):
        build_backbone(name)


@pytest.mark.parametrize("name", ["paws_wrn_10_1", "resnet20_v2"])
def test_compiles_into_one_graph_for_export(name):
    backbone = build_backbone(name).eval()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(backbone, (x,)).module()
    torch.testing.assert_close(exported(x), backbone(x))
