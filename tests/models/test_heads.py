"""Heads."""

import math

import pytest
import torch

from lightning_ssl.models import LinearHead, MLPHead, PredictionHead, ProjectionHead


def test_linear_head_starts_as_xavier_normal():
    torch.manual_seed(0)
    head = LinearHead(512, 128)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 640), rel=0.02)
    assert head.bias.abs().max() == 0
    x = torch.randn(3, 512)
    torch.testing.assert_close(head(x), x @ head.weight.T)


def test_mlp_head_starts_at_zero_logits_and_can_learn():
    head = MLPHead(8, 3)
    x = torch.randn(5, 8)
    assert torch.equal(head(x), torch.zeros(5, 3))
    torch.nn.functional.cross_entropy(head(x), torch.tensor([0, 0, 1, 2, 1])).backward()
    assert head.fc2.weight.grad.abs().sum() > 0
    assert {name.split(".")[0] for name in head.state_dict()} == {"fc1", "bn1", "fc2"}


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_mlp_head_forward(norm):
    torch.manual_seed(0)
    head = MLPHead(8, 3, zero_init=False, norm=norm).double()
    x = torch.randn(6, 8, dtype=torch.float64)
    h = x @ head.fc1.weight.T + head.fc1.bias
    if norm == "batch":
        h = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 1e-5)
    expected = h.clamp(min=0) @ head.fc2.weight.T + head.fc2.bias
    torch.testing.assert_close(head(x), expected)
    assert bool(list(head.buffers())) == (norm == "batch")


def test_mlp_head_wrong_norm():
    with pytest.raises(ValueError, match=r"`norm` must be one of .* got 'layer'"):
        MLPHead(8, 3, norm="layer")


def test_parameter_counts():
    def count(head):
        return sum(p.numel() for p in head.parameters())

    assert count(ProjectionHead(128, 128)) == 50_048
    assert count(ProjectionHead(2048, 2048)) == 12_597_248
    assert count(PredictionHead(2048)) == 2_104_832


def by_hand(head, x, steps, activation):
    """Layers in the order of ``steps``, statistics of the batch written out; "act" activates."""
    for step in steps:
        if step == "act":
            x = {
                "relu": x.clamp(min=0),
                "gelu": 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
            }[activation]
        elif step.startswith("fc"):
            layer = getattr(head, step)
            x = x @ layer.weight.T + layer.bias
        elif isinstance(getattr(head, step), torch.nn.BatchNorm1d):
            layer = getattr(head, step)
            x = (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)
            x = x * layer.weight + layer.bias
    return x


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(
    ("build", "steps"),
    [
        (lambda **o: ProjectionHead(8, 5, **o), "fc1 bn1 act fc2 bn2 act fc3"),
        (lambda **o: ProjectionHead(8, 5, 7, **o), "fc1 bn1 act fc2 bn2 act fc3"),
        (lambda **o: ProjectionHead(8, 5, 7, layers=2, **o), "fc1 bn1 act fc2"),
        (lambda **o: PredictionHead(8, **o), "bn1 fc1 bn2 act fc2"),
        (lambda **o: PredictionHead(8, 7, **o), "bn1 fc1 bn2 act fc2"),
    ],
)
def test_heads_of_paws_equal_the_definition(build, steps, norm, activation):
    torch.manual_seed(0)
    head = build(norm=norm, activation=activation).double()
    for value in head.parameters():
        torch.nn.init.normal_(value)
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    found, expected = head(x), by_hand(head, x, steps.split(), activation)
    assert (found < 0).any()  # nothing after the last layer
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # A bias in front of a normalisation has no effect: its gradient is rounding noise.
    tensors = [x, *head.parameters()]
    gradients = torch.autograd.grad(found.sin().sum(), tensors)
    wanted = torch.autograd.grad(expected.sin().sum(), tensors)
    torch.testing.assert_close(gradients, wanted, rtol=1e-8, atol=1e-9)
    layers = {key.split(".")[0] for key in head.state_dict()}
    assert layers == {s for s in steps.split() if s != "act" and (norm == "batch" or s[0] == "f")}


def test_default_widths_of_the_heads_of_paws():
    def shapes(head):
        return {n: tuple(p.shape) for n, p in head.named_parameters() if n.endswith("weight")}

    assert shapes(ProjectionHead(8, 5, norm="none")) == {
        "fc1.weight": (8, 8),
        "fc2.weight": (8, 8),
        "fc3.weight": (5, 8),
    }
    assert shapes(PredictionHead(8, norm="none")) == {"fc1.weight": (2, 8), "fc2.weight": (8, 2)}


@pytest.mark.parametrize("head", [ProjectionHead, PredictionHead])
def test_wrong_options_of_the_heads_of_paws(head):
    with pytest.raises(ValueError, match=r"`norm` must be one of .* got 'layer'"):
        head(8, 8, norm="layer")
    with pytest.raises(ValueError, match=r"`activation` must be one of .*'gelu'.* got 'tanh'"):
        head(8, 8, activation="tanh")
    with pytest.raises(ValueError, match=r"`layers` must be one of \(2, 3\), got 4"):
        ProjectionHead(8, 8, layers=4)
