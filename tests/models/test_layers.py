"""Rates of the layers of a network, against an assignment by hand."""

import re

import pytest
import torch
from torch import nn

from lightning_ssl.methods import FixMatch, Supervised
from lightning_ssl.models import build_backbone, layer_scales
from lightning_ssl.optim import Optimizer, Schedule, build_optimizer, build_scheduler

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
METHOD = {"backbone": "timm/vit_tiny_patch16_224", "backbone_args": VIT, "ema_decay": 0}


def layer_by_hand(name: str, depth: int) -> int:
    """Layer of a parameter of a transformer in BEiT's count; the head is layer ``depth + 1``."""
    if re.match(r"cls_token|pos_embed|patch_embed", name):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return depth if name.startswith("norm.") else depth + 1


class TestScales:
    @pytest.mark.parametrize("decay", [0.5, 0.65, 1.0])
    @pytest.mark.parametrize("pooling", ["token", "avg"])
    def test_transformer(self, decay, pooling):
        backbone = build_backbone("timm/vit_tiny_patch16_224", global_pool=pooling, **VIT)
        scales = layer_scales(backbone, decay)
        seen = set()
        for name, parameter in backbone.named_parameters():
            layer = layer_by_hand(name, 3)
            seen.add(layer)
            assert scales[parameter] == pytest.approx(decay ** (4 - layer), rel=1e-12), name
        # Only the norm after average pooling belongs to the head.
        assert seen == ({0, 1, 2, 3} if pooling == "token" else {0, 1, 2, 3, 4})
        assert len(scales) == len(list(backbone.parameters()))

    def test_convolutions(self):
        backbone = build_backbone("timm/resnet10t")
        scales = layer_scales(backbone, 0.5)
        for name, parameter in backbone.named_parameters():
            stage = re.match(r"layer(\d)", name)
            layer = int(stage[1]) if stage else 0  # four stages of one block each
            assert scales[parameter] == 0.5 ** (5 - layer), name

    def test_no_decay(self):
        assert layer_scales(nn.Linear(2, 2), None) == {}

    @pytest.mark.parametrize("name", ["wrn_10_1", "resnet18"])
    def test_other_networks(self, name):
        message = (
            r"`optimizer.layer_decay` needs a `backbone` .*`group_matcher`.*, got (Wide)?ResNet"
        )
        with pytest.raises(ValueError, match=message):
            layer_scales(build_backbone(name), 0.5)


class TestRates:
    def make(self, **options) -> tuple[Supervised, torch.optim.Optimizer]:
        torch.manual_seed(0)
        config = Optimizer("adamw", lr=0.01, weight_decay=0.1, **options)
        method = Supervised(5, **METHOD, optimizer=config)
        return method, build_optimizer(method.parameter_groups(), config)

    def test_every_parameter_once_at_its_rate(self):
        method, optimizer = self.make(layer_decay=0.5)
        rates = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert parameter not in rates
                rates[parameter] = group["lr"]
                assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
        for name, parameter in method.named_parameters():
            own = name.removeprefix("backbone.")
            layer = layer_by_hand(own, 3) if own != name else 4
            assert rates.pop(parameter) == pytest.approx(0.01 * 0.5 ** (4 - layer), rel=1e-12)
        assert not rates
        # What is logged as the learning rate is the full one.
        assert optimizer.param_groups[0]["lr"] == 0.01
        assert optimizer.param_groups[0]["params"] == [method.classifier.weight]

    def test_no_decay_is_two_groups(self):
        _, optimizer = self.make()
        assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
        _, one = self.make(layer_decay=1.0)
        for group, other in zip(optimizer.param_groups, one.param_groups, strict=True):
            assert len(group["params"]) == len(other["params"])

    @pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
    def test_schedule_multiplies_all(self, name):
        config = Optimizer(name, lr=0.1, layer_decay=0.5)
        method = Supervised(5, **METHOD, optimizer=config)
        optimizer = build_optimizer(method.parameter_groups(), config)
        scheduler = build_scheduler(optimizer, Schedule("cosine", warmup=4), 12)
        start = [0.1 * 0.5**k for k in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)]
        for step in range(9):
            factor = (
                step / 4 if step < 4 else (1 + torch.tensor((step - 4) / 8 * torch.pi).cos()) / 2
            )
            found = [group["lr"] for group in optimizer.param_groups]
            assert found == pytest.approx([s * float(factor) for s in start], rel=1e-6, abs=1e-9)
            optimizer.step()
            scheduler.step()

    def test_updates_equal_those_of_one_optimizer_for_each_parameter(self):
        """AdamW by hand in float64: kernel times (1 - lr wd), then the step at its own rate."""
        method, optimizer = self.make(layer_decay=0.5)
        method.double()
        expected = {n: [p.detach().clone(), 0.0, 0.0] for n, p in method.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        for step in range(1, 4):
            optimizer.zero_grad()
            images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
            nn.functional.cross_entropy(method(images), torch.arange(6) % 5).backward()
            for name, parameter in method.named_parameters():
                own = name.removeprefix("backbone.")
                lr = 0.01 * 0.5 ** (4 - (layer_by_hand(own, 3) if own != name else 4))
                value, first, second = expected[name]
                grad = parameter.grad
                first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
                root = (second / (1 - 0.999**step)).sqrt() + 1e-8
                decay = 0.1 if parameter.ndim > 1 else 0.0
                value = value * (1 - lr * decay) - lr * first / (1 - 0.9**step) / root
                expected[name] = [value, first, second]
            optimizer.step()
        for name, parameter in method.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name][0], rtol=1e-9, atol=1e-12)

    def test_a_frozen_network_leaves_the_head(self):
        config = Optimizer(lr=0.1, layer_decay=0.5)
        method = Supervised(5, **METHOD, optimizer=config, freeze_backbone=True)
        assert [group["lr_scale"] for group in method.parameter_groups()] == [1.0, 1.0]

    @pytest.mark.parametrize("value", [0, -0.5, 1.1])
    def test_range(self, value):
        with pytest.raises(
            ValueError, match=r"`optimizer.layer_decay` must be in \(0, 1\] or null"
        ):
            Optimizer(layer_decay=value)

    def test_a_checkpoint_keeps_it(self):
        method = FixMatch(5, **METHOD, optimizer=Optimizer(layer_decay=0.5))
        checkpoint: dict = {"hyper_parameters": dict(method.hparams)}
        method.on_save_checkpoint(checkpoint)
        stored = checkpoint["hyper_parameters"]["optimizer"]
        assert stored["layer_decay"] == 0.5
        assert FixMatch(5, **METHOD, optimizer=stored).optimizer.layer_decay == 0.5
