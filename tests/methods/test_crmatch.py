"""CRMatch over many steps against a loop over images, and its map against the pooled features."""

import pytest
import torch
from torch import nn

from lightning_ssl.methods import CRMatch
from lightning_ssl.types import Batch, Samples

from by_hand import best, cross_entropy, softmax
from steps import EXACT


class Corner(nn.Module):
    """A network whose map is the image, and whose features are the pixel in a corner."""

    def __init__(self):
        super().__init__()
        self.avgpool = nn.Identity()

    def forward(self, images):
        return self.avgpool(images)[:, :, 0, 0]


def images(generator, count):
    shape = (1, count, 4, 2, 2)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    return drawn.requires_grad_()


def loss_by_loops(module, parts, target, weights):
    x, weak, strong = (list(part[0]) for part in parts)
    lambda_u, lambda_distance, lambda_rotation = weights
    total = sum(cross_entropy(i[:, 0, 0], y) for i, y in zip(x, target.tolist(), strict=True)) / 3
    kept = 0
    for one, other in zip(weak, strong, strict=True):
        probs = softmax(one[:, 0, 0].tolist())
        if max(probs) < 0.6:
            continue
        kept += 1
        d, e = (module.distance.weight @ i.reshape(-1) + module.distance.bias for i in (one, other))
        cosine = (d @ e) / (d.square().sum().sqrt() * e.square().sum().sqrt())
        total = total + lambda_u * cross_entropy(other[:, 0, 0], best(probs)) / 7
        if cosine > 0:
            total = total + lambda_distance * cosine / 7
    turned = weak[::2]  # 7 images a step against 3 labelled ones: every second, which are 4
    head = module.rotation
    for image in turned:
        corners = [image[:, 0, 0], image[:, 0, 1], image[:, 1, 1], image[:, 1, 0]]
        for k, corner in enumerate(corners):  # a turn to the left brings the right corner here
            hidden = (head.fc1.weight @ corner + head.fc1.bias).clamp(min=0)
            loss = cross_entropy(head.fc2.weight @ hidden + head.fc2.bias, k)
            total = total + lambda_rotation * loss / (4 * len(turned))
    return total, kept


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.3)])
def test_fifty_steps_equal_loops(weights):
    generator, kept = torch.Generator().manual_seed(5), 0
    torch.manual_seed(0)
    module = CRMatch(4, 8, 0.6, *weights, backbone="wrn_10_1")
    module.backbone, module.classifier = Corner(), nn.Identity()
    module.distance = nn.Linear(16, 5)
    module.rotation.fc1, module.rotation.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)
    module.double()
    for step in range(50):
        parts = tuple(images(generator, n) for n in (3, 7, 7))
        target = torch.randint(4, (3,), generator=generator)
        u = Samples({"weak": parts[1], "strong": parts[2]})
        loss = module.training_step(Batch(step, Samples({"weak": parts[0]}, target), u), step)
        expected, count = loss_by_loops(module, parts, target, weights)
        kept += count
        torch.testing.assert_close(loss, expected, **EXACT)
        heads = [*module.distance.parameters(), *module.rotation.parameters()]
        found, wanted = (
            torch.autograd.grad(v, (*parts, *heads), allow_unused=True, materialize_grads=True)
            for v in (loss, expected)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert 50 < kept < 300


def test_the_pseudo_label_gives_no_gradient_but_the_distance_does():
    torch.manual_seed(0)
    module = CRMatch(4, 8, 0.0, 1.0, 0.0, 0.0, backbone="wrn_10_1")
    module.backbone, module.classifier = Corner(), nn.Identity()
    module.distance, module.rotation = nn.Linear(16, 5), nn.Linear(4, 4)
    module.double()
    x, weak, strong = (images(torch.Generator().manual_seed(n), n) for n in (3, 6, 7))
    strong = strong.detach()[:, :6].requires_grad_()
    batch = Batch(0, Samples({"weak": x}, torch.tensor([0, 1, 2])), Samples(
        {"weak": weak, "strong": strong}))  # fmt: skip
    (gradient,) = torch.autograd.grad(module.training_step(batch, 0), weak)
    assert not gradient.any()
    module.lambda_distance = 1.0
    (gradient,) = torch.autograd.grad(module.training_step(batch, 0), weak)
    assert gradient.any()


def test_the_distance_head_fits_the_map_and_building_it_leaves_batchnorm_alone():
    module = CRMatch(4, 20, in_channels=1, backbone="wrn_10_1")
    assert module.distance.in_features == 64 * 5 * 5
    assert module.training
    assert module.backbone.training
    for layer in module.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_batches_tracked == 0
            assert not layer.running_mean.any()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("threshold", 1.2, r"in \[0, 1\]"), ("lambda_distance", -1, "at least 0"),
     ("lambda_rotation", -1, "at least 0"), ("lambda_u", -1, "at least 0")],
)  # fmt: skip
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}.*, got {value}"):
        CRMatch(4, 8, backbone="wrn_10_1", **{option: value})
