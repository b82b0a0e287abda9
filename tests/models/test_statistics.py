"""Passes that leave BatchNorm's running statistics alone."""

import copy

import pytest
import torch
from torch import nn

from lightning_ssl.models import build_backbone, keep_statistics

from runs import differences


@pytest.mark.parametrize("name", ["wrn_10_1", "resnet18", "timm/resnet10t"])
def test_statistics_stay_and_outputs_do_not_change(name):
    network = build_backbone(name).double()
    twin, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with keep_statistics(network):
        inside = network(x)
        inside.sum().backward()
    assert differences(network.state_dict(), before) == []  # the count of batches, too
    # Without running statistics another kernel may run.
    torch.testing.assert_close(inside, twin(x), rtol=1e-10, atol=1e-12)
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    network(x)
    assert differences(network.state_dict(), twin.state_dict()) == []  # learns again afterwards


def test_evaluation_mode_still_uses_the_running_statistics():
    network = nn.Sequential(nn.BatchNorm2d(3)).eval()
    x = torch.randn(4, 3, 5, 5) + 7
    with keep_statistics(network):
        torch.testing.assert_close(network(x), x / (1 + 1e-5) ** 0.5)


def test_an_error_inside_restores_and_layers_without_statistics_keep_none():
    layer, without = nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)
    network = nn.Sequential(layer, without)

    def interrupted():
        with keep_statistics(network):
            assert not layer.track_running_stats
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        interrupted()
    assert layer.track_running_stats
    assert not without.track_running_stats
