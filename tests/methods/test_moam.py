"""MOAM: the sum of its parts, each of which is tested by itself."""

import copy

import pytest
import torch
from torch import nn

from lightning_ssl.losses import entropy, four_rotations, kl_divergence
from lightning_ssl.methods import MOAM, S4LRotation
from lightning_ssl.methods.draws.adversary import Adversary, draw_directions
from lightning_ssl.types import Batch, Samples

from runs import differences


def make_batch(side=8):
    generator = torch.Generator().manual_seed(1)
    x, u = (
        torch.randn(1, n, 3, side, side, generator=generator, dtype=torch.float64) for n in (2, 5)
    )
    return Batch(3, Samples({"weak": x}, torch.tensor([1, 2])), Samples({"weak": u}))


@pytest.mark.parametrize("student_first", [True, False])
def test_the_loss_is_the_weighted_sum_of_its_parts(student_first):
    """Each part with the network as it was before the step; BatchNorm sees the same batches."""
    torch.manual_seed(0)
    module = MOAM(
        4, lambda_x=0.2, lambda_rotation=0.5, lambda_vat=0.7, lambda_entropy=0.11, epsilon=2.0,
        student_first=student_first, image_std=(0.2, 0.3, 0.4), backbone="wrn_10_1",
    ).double()  # fmt: skip
    batch = make_batch()
    twin = copy.deepcopy(module)
    loss = module.training_step(batch, 0)

    x, u = (four_rotations(s.views["weak"][0]) for s in (batch.labeled, batch.unlabeled))
    features = twin.backbone(torch.cat([x, u]))
    logits, turns = twin.classifier(features), twin.rotation(features)
    classes = nn.functional.cross_entropy(logits[:8], batch.labeled.target.repeat_interleave(4))
    turn = torch.tensor([0, 1, 2, 3])
    rotation = 0.5 * nn.functional.cross_entropy(turns[:8], turn.repeat(2))
    rotation = rotation + 0.5 * nn.functional.cross_entropy(turns[8:], turn.repeat(5))
    start = draw_directions(twin, "unlabeled", u, 3)
    adversary = Adversary(2.0, None, 1, student_first, (0.2, 0.3, 0.4)).double()
    moved = twin(adversary(twin, u, start))
    pair = (moved, logits[8:].detach()) if student_first else (logits[8:].detach(), moved)
    expected = (
        0.2 * classes + 0.5 * rotation + 0.7 * kl_divergence(*pair) + 0.11 * entropy(logits[8:])
    )
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [module.get_parameter(n) for n in names])
    wanted = torch.autograd.grad(expected, [twin.get_parameter(n) for n in names])
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


def test_statistics_move_as_in_rotation():
    torch.manual_seed(0)
    module = MOAM(4, backbone="wrn_10_1").double()
    other = S4LRotation(4, backbone="wrn_10_1").double()
    other.load_state_dict(module.state_dict())
    batch = make_batch()
    module.training_step(batch, 0)
    other.training_step(batch, 0)
    assert differences(module.state_dict(), other.state_dict()) == []


def test_defaults_are_those_of_the_code():
    module = MOAM(4, backbone="wrn_10_1")
    weights = ("lambda_x", "lambda_rotation", "lambda_vat", "lambda_entropy")
    assert [getattr(module, name) for name in weights] == [0.3, 0.4, 0.3, 0.3]


@pytest.mark.parametrize("option", ["lambda_x", "lambda_rotation", "lambda_vat", "lambda_entropy"])
def test_a_negative_weight_is_an_error(option):
    with pytest.raises(ValueError, match=rf"`{option}` must be at least 0, got -0.1"):
        MOAM(4, backbone="wrn_10_1", **{option: -0.1})
