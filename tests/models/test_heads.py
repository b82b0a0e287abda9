"""Heads."""

import math

import pytest
import torch

from lightning_ssl.models import LinearHead, MLPHead


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
