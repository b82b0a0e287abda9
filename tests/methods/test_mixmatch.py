"""MixMatch against a loop over rows, values and gradients; what its guesses leave alone."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_ssl.methods import MixMatch, mixmatch
from lightning_ssl.types import Batch, Samples

from runs import differences


def loss_by_loops(x, target, u, partner, weight, temperature, lambda_u):
    """Algorithm 1 of https://arxiv.org/abs/1905.02249 where the network is the identity.

    Logits of labelled images ``(B, C)`` and of K views ``(K, U, C)``.
    """
    classes = x.shape[1]
    guesses = []
    for views in u.detach().transpose(0, 1).tolist():
        mean = [0.0] * classes
        for z in views:
            total = sum(math.exp(v) for v in z)
            mean = [m + math.exp(v) / total / len(views) for m, v in zip(mean, z, strict=True)]
        powers = [m ** (1 / temperature) for m in mean]
        guesses.append([p / sum(powers) for p in powers])
    rows = [*x, *(row for view in u for row in view)]
    targets = [[float(c == y) for c in range(classes)] for y in target.tolist()]
    targets += guesses * len(u)

    labeled = torch.zeros((), dtype=torch.float64)
    unlabeled = torch.zeros((), dtype=torch.float64)
    for n, (other, own) in enumerate(zip(partner.tolist(), weight.tolist(), strict=True)):
        z = own * rows[n] + (1 - own) * rows[other]
        q = [own * a + (1 - own) * b for a, b in zip(targets[n], targets[other], strict=True)]
        p = torch.exp(z) / torch.exp(z).sum()
        if n < len(x):
            labeled = labeled - sum(q[c] * torch.log(p[c]) for c in range(classes)) / len(x)
        else:
            error = sum((q[c] - p[c]) ** 2 for c in range(classes))
            unlabeled = unlabeled + error / (classes * (len(rows) - len(x)))
    return labeled + lambda_u * unlabeled


@pytest.mark.parametrize("seed", range(50))
def test_training_step_equals_the_paper(seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    views, alpha, temperature, lambda_u = [
        (2, 0.75, 0.5, 75.0), (1, 0.5, 0.25, 100.0), (3, 0.75, 1.0, 1.0), (2, 2.0, 0.7, 10.0)
    ][seed % 4]  # fmt: skip
    labeled, unlabeled = [(3, 3), (3, 5)][seed % 2]
    risen, shared = [1.0, 0.3, 0.0][seed % 3], seed % 5 == 0
    module = MixMatch(
        *(4, alpha, temperature, lambda_u),
        guess_views=views,
        ramp=0.25,
        shared_weight=shared,
        backbone="wrn_10_1",
    ).double()
    # The images are the logits: the network under test is the identity.
    module.backbone, module.classifier = nn.Flatten(), nn.Identity()
    count = labeled + views * unlabeled
    partner = torch.randperm(count, generator=generator)
    weight = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64) / 2
    asked = []

    def draw(*args):
        asked.append((*args[:2], args[3]))
        return partner, weight

    monkeypatch.setattr(mixmatch, "draw_mixup", draw)
    monkeypatch.setattr(mixmatch, "ramp_up", lambda of, ramp: risen if ramp == 0.25 else None)

    def logits(copies: int, count: int) -> Tensor:
        shape = (copies, count, 4, 1, 1)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
        return drawn.requires_grad_()

    x, u = logits(1, labeled), logits(views, unlabeled)
    target = torch.randint(4, (labeled,), generator=generator)
    loss = module.training_step(Batch(0, Samples({"weak": x}, target), Samples({"weak": u})), 0)
    expected = loss_by_loops(
        x.flatten(2)[0], target, u.flatten(2), partner, weight, temperature, risen * lambda_u
    )
    assert asked == [(count, alpha, shared)]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(value, (x, u)) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def make_batch(labeled=3, unlabeled=5):
    x, u = torch.randn(1, labeled, 3, 8, 8), torch.randn(2, unlabeled, 3, 8, 8)
    return Batch(0, Samples({"weak": x}, torch.arange(labeled)), Samples({"weak": u}))


def test_guesses_see_batch_statistics_and_leave_running_ones_alone(monkeypatch):
    module, batch = MixMatch(4, ramp=0, backbone="wrn_10_1"), make_batch()
    twin, mixed = copy.deepcopy(module), []
    monkeypatch.setattr(mixmatch, "draw_mixup", lambda n, *_: (torch.arange(n), torch.ones(n)))
    module.backbone.register_forward_hook(lambda _, args, __: mixed.append(args[0]))
    module.training_step(batch, 0)
    # One pass for the guesses, one over all mixed rows.
    assert [len(images) for images in mixed] == [10, 13]
    twin(mixed[1])
    assert differences(dict(module.named_buffers()), dict(twin.named_buffers())) == []
    assert all(part.training for part in module.modules())

    views = batch.unlabeled.views["weak"]
    probs = twin(views.flatten(0, 1)).softmax(1).view(2, 5, 4).mean(0)
    powers = probs.square()
    torch.testing.assert_close(module._guess(views), powers / powers.sum(1, keepdim=True))
    running = twin.eval()(views.flatten(0, 1)).softmax(1).view(2, 5, 4).mean(0)
    assert (running - probs).abs().max() > 0.01


def test_the_step_draws_its_own_mixing():
    """Nothing is labelled alone: images and targets of both kinds meet in one permutation."""
    module, batch = MixMatch(4, alpha=0.75, ramp=0, backbone="wrn_10_1"), make_batch(4, 4)
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    torch.manual_seed(0)
    module.training_step(batch, 0)
    rows = torch.cat([batch.labeled.views["weak"][0], *batch.unlabeled.views["weak"]]).flatten(1)
    # The coefficients of each mixed row in the original ones.
    mixed = seen[1].flatten(1)
    shares = torch.linalg.lstsq(rows.T.double(), mixed.T.double()).solution.T
    torch.testing.assert_close(shares @ rows.double(), mixed.double(), rtol=1e-4, atol=1e-4)
    own = shares.diagonal()
    assert own.min() >= 0.5 - 1e-4
    assert len({round(v, 4) for v in own.tolist()}) > 6  # a weight for each row, not one for all
    crossed = (shares[:4, 4:].abs() > 1e-4).any() and (shares[4:, :4].abs() > 1e-4).any()
    assert crossed


def test_the_config_has_the_numbers_of_the_paper(printed):
    config = printed("mixmatch")
    model, data = config["model"], config["data"]
    assert model["ramp"] * config["trainer"]["max_steps"] == 16384
    assert model["optimizer"]["name"] == "adamw"  # multiplies by 1 - lr * weight_decay
    assert model["optimizer"]["lr"] * model["optimizer"]["weight_decay"] == pytest.approx(4e-5)
    assert (model["alpha"], model["lambda_u"], model["temperature"]) == (0.75, 75, 0.5)
    assert (data["include_labeled"], data["normalize"]) == (False, "symmetric")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("alpha", -0.1, "at least 0"),
        ("temperature", 0.0, "above 0"),
        ("lambda_u", -1.0, "at least 0"),
        ("guess_views", 0, "at least 1"),
        ("ramp", 1.5, r"in \[0, 1\]"),
    ],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be {allowed}, got {value}"):
        MixMatch(4, backbone="wrn_10_1", **{option: value})
