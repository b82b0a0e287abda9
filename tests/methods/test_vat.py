"""VAT against closed forms of a linear model, in the units of the images, in every precision."""

import copy
import math

import pytest
import torch
from torch import nn

from lightning_ssl.methods import MOAM, VAT, SSLModule
from lightning_ssl.methods.draws.adversary import Adversary, draw_directions
from lightning_ssl.seeding import derive_seed
from lightning_ssl.types import Batch, Samples

from runs import differences, fit

STD = (0.2, 0.3, 0.45)


def linear(**options):
    """A method whose network is one linear layer on the pixels of 3x2x2 images."""
    torch.manual_seed(0)
    module = VAT(4, backbone="wrn_10_1", ramp=0, **options).double()
    module.backbone, module.classifier = nn.Flatten(), nn.Linear(12, 4).double()
    return module


def make_batch(labeled=3, unlabeled=5, side=2, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x, u = (
        torch.randn(1, n, 3, side, side, generator=generator, dtype=torch.float64).to(dtype)
        for n in (labeled, unlabeled)
    )
    target = torch.randint(4, (labeled,), generator=generator)
    return Batch(7, Samples({"weak": x}, target), Samples({"weak": u}))


def starts(stream, step, count):
    """What the step draws: one generator per image of the run."""
    drawn = []
    for i in range(count):
        generator = torch.Generator()
        generator.manual_seed(derive_seed(0, "direction", stream, step * count + i))
        drawn.append(torch.randn(12, generator=generator, dtype=torch.float64))
    return torch.stack(drawn)


def loss_by_hand(module, batch, epsilon, student_first, use_labeled, weights):
    """Hessian of a linear softmax model, image by image; everything in units of [-1, 1]."""
    weight = module.classifier.weight
    unit = torch.tensor([0.5 / s for s in STD for _ in range(4)], dtype=torch.float64)
    x, u = batch.labeled.views["weak"][0].flatten(1), batch.unlabeled.views["weak"][0].flatten(1)
    losses = []
    for row, y in zip(x, batch.labeled.target, strict=True):
        losses.append(-module.classifier(row).log_softmax(0)[y])
    total = sum(losses) / len(losses)
    rows = list(zip(u, starts("unlabeled", 7, len(u)), strict=True))
    if use_labeled:
        rows += list(zip(x, starts("labeled", 7, len(x)), strict=True))
    for row, start in rows:
        z = module.classifier(row)
        p = z.softmax(0)
        slope = (weight * unit).detach()  # of the logits with respect to the change
        fixed = p.detach()
        hessian = slope.T @ (torch.diag(fixed) - torch.outer(fixed, fixed)) @ slope
        direction = hessian @ start
        change = epsilon * direction / direction.norm()
        q = module.classifier(row + unit * change).softmax(0)
        pair = (q, fixed) if student_first else (fixed, q)
        divergence = (pair[0] * (pair[0] / pair[1]).log()).sum()
        entropy = -(p * p.log()).sum()
        total = total + (weights[0] * divergence + weights[1] * entropy) / len(rows)
    return total


@pytest.mark.parametrize("use_labeled", [True, False])
@pytest.mark.parametrize("student_first", [True, False])
def test_training_step_equals_the_closed_form(student_first, use_labeled):
    module = linear(
        lambda_vat=0.7, lambda_entropy=0.2, epsilon=1.3, xi=1e-6, image_std=STD,
        student_first=student_first, use_labeled=use_labeled,
    )  # fmt: skip
    batch = make_batch()
    loss = module.training_step(batch, 0)
    expected = loss_by_hand(module, batch, 1.3, student_first, use_labeled, (0.7, 0.2))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    parameters = list(module.classifier.parameters())
    found = torch.autograd.grad(loss, parameters)
    wanted = torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Small(nn.Module):
    """A convolutional network whose BatchNorm couples the images of a batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x) * 3


def test_length_and_direction_are_those_of_images_in_minus_one_to_one():
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    start = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    std = torch.tensor(STD, dtype=torch.float64).view(3, 1, 1)
    network = Small().double()

    class Symmetric(nn.Module):
        """The same function of the same picture, given in [-1, 1]."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(((x + 1) / 2 - 0.4) / std)

    changed = Adversary(2.5, None, 1, True, STD).double()(network, (images - 0.4) / std, start)
    pixels = changed * std + 0.4
    symmetric = Adversary(2.5, None, 1, True, None)(Symmetric(), images * 2 - 1, start)
    # The deviations are kept in float32.
    torch.testing.assert_close(pixels * 2 - 1, symmetric, rtol=1e-6, atol=1e-6)
    lengths = (symmetric - (images * 2 - 1)).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((6,), 2.5, dtype=torch.float64))


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (3, 8), (1, 16)])
def test_default_lengths_keep_the_change_per_value(channels, side):
    images = torch.randn(4, channels, side, side)
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 3))
    changed = Adversary(None, None, 1, True, None)(network, images, torch.randn_like(images))
    change = (changed - images).flatten(1)
    assert change.square().mean(1).sqrt().tolist() == pytest.approx([6 / 3072**0.5] * 4, rel=1e-4)


def cosines(one, other):
    one, other = one.double().flatten(1), other.double().flatten(1)
    return (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_the_search_is_exact_in_every_precision(precision):
    images, start = torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8)
    images = images.bfloat16().float()
    network = Small().bfloat16().float()
    adversary = Adversary(None, None, 1, True, None)
    double = copy.deepcopy(network).double()
    exact = adversary(double, images.double(), start.double()) - images.double()
    if precision == "bfloat16":
        network, images, start = network.bfloat16(), images.bfloat16(), start.bfloat16()
        exact = adversary(double, images.double(), start.double()) - images.double()
    with torch.autocast("cpu", enabled=precision == "autocast"):
        changed = adversary(network, images, start)
    assert changed.dtype == images.dtype
    # Writing the changed images down in bfloat16 costs more than the search.
    assert cosines(changed.float() - images.float(), exact).min() > 0.999


def precisions():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_the_search_multiplies_without_tf32_and_leaves_the_settings():
    class Watched(nn.Module):
        def forward(self, x):
            seen.append(precisions())
            return x.flatten(1)[:, :3]

    seen, images = [], torch.randn(4, 3, 8, 8)
    before = precisions()
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        Adversary(None, None, 1, True, None)(Watched(), images, torch.randn_like(images))
        assert precisions() == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert seen == [("highest", False)] * 2


@pytest.mark.parametrize("use_labeled", [True, False])
def test_a_step_moves_statistics_once_and_leaves_gradients_to_the_loss(use_labeled):
    torch.manual_seed(0)
    module = VAT(4, backbone="wrn_10_1", ramp=0, power_iterations=2, use_labeled=use_labeled)
    twin = copy.deepcopy(module)
    batch = make_batch(side=8, dtype=torch.float32)
    module.training_step(batch, 0)
    assert all(p.grad is None for p in module.parameters())
    twin(torch.cat([batch.labeled.views["weak"][0], batch.unlabeled.views["weak"][0]]))
    assert differences(dict(module.named_buffers()), dict(twin.named_buffers())) == []


def test_without_weights_the_gradient_is_that_of_the_labelled_loss():
    torch.manual_seed(0)
    module = VAT(4, lambda_vat=0, backbone="wrn_10_1", ramp=0).double()
    batch = make_batch(side=8)
    module.training_step(batch, 0).backward()
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    images = torch.cat([batch.labeled.views["weak"][0], batch.unlabeled.views["weak"][0]])
    nn.functional.cross_entropy(module(images)[:3], batch.labeled.target).backward()
    for one, p in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad)


def test_a_draw_belongs_to_the_place_of_an_image_in_the_run():
    module = VAT(4, backbone="wrn_10_1")
    images = torch.zeros(6, 3, 4, 4)
    whole = [draw_directions(module, "unlabeled", images, step) for step in (0, 1)]
    for step in range(4):  # half the images a step
        half = draw_directions(module, "unlabeled", images[:3], step)
        assert torch.equal(half, whole[step // 2][3 * (step % 2) : 3 * (step % 2) + 3])
    other = draw_directions(module, "labeled", images, 0)
    assert abs(torch.corrcoef(torch.stack([other.flatten(), whole[0].flatten()]))[0, 1]) < 0.2
    torch.manual_seed(3)
    assert not torch.equal(draw_directions(module, "unlabeled", images, None), whole[0])
    assert torch.cat(whole).std().item() == pytest.approx(1, abs=0.1)


def test_the_ramp_rises_over_a_fraction_of_the_run():
    losses = {}
    for name, options in (("ramp", ("--model.ramp", "0.5")), ("zero", ("--model.lambda_vat", "0"))):
        recorded = losses[name] = []
        step = VAT.training_step

        def record(self, batch, batch_idx, recorded=recorded, step=step):
            loss = step(self, batch, batch_idx)
            parts = {n: m.value for n, m in self.trainer._results.items()}
            weight = (loss - parts["training_step.train/loss_x"]) / (
                0.3 * parts["training_step.train/loss_vat"]
            )
            recorded.append(weight.item())
            return loss

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VAT, "training_step", record)
            fit("VAT", name, 4, *options, "--trainer.log_every_n_steps", "1")
    assert losses["ramp"] == pytest.approx([0, 0.5, 1, 1], abs=1e-4)
    assert losses["zero"] == pytest.approx([0, 0, 0, 0], abs=1e-4)


def test_the_command_line_tells_the_deviation_of_the_data():
    cli = fit("VAT", "a", 1)
    std = cli.datamodule.std
    assert cli.model.adversary.unit.flatten().tolist() == pytest.approx([0.5 / s for s in std])
    again = VAT.load_from_checkpoint("a/checkpoints/last.ckpt")
    torch.testing.assert_close(again.adversary.unit, cli.model.adversary.unit)
    symmetric = fit("VAT", "b", 1, "--data.normalize", "symmetric").model
    assert symmetric.adversary.unit.eq(1).all()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("lambda_vat", -1.0, "at least 0"),
        ("lambda_entropy", math.nan, "at least 0"),
        ("epsilon", 0.0, "above 0 or null"),
        ("xi", -1e-3, "above 0 or null"),
        ("power_iterations", 0, "at least 1"),
        ("ramp", 1.5, r"in \[0, 1\]"),
        ("image_std", (0.5, 0.0), "values above 0"),
        ("ema_half_life", 0.0, "above 0 or null"),
        ("ema_half_life", float("inf"), "above 0 or null"),
    ],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must .*{allowed}.*, got"):
        VAT(4, backbone="wrn_10_1", **{option: value})


@pytest.mark.parametrize("method", [VAT, MOAM])
def test_a_clamped_norm_shortens_the_change_of_a_small_gradient(method):
    lengths = []
    for clamp in (False, True):
        torch.manual_seed(0)
        module = method(4, backbone="wrn_10_1", epsilon=2.0, xi=1e-6, clamp_norm=clamp).double()
        images = torch.rand(4, 3, 8, 8, dtype=torch.float64) * 2 - 1
        changed = module.adversary(module, images, torch.randn_like(images))
        lengths.append((changed - images).flatten(1).norm(dim=1))
    torch.testing.assert_close(lengths[0], torch.full((4,), 2.0).double())
    assert (lengths[1] < 0.1).all()
    assert (lengths[1] > 0).all()


def test_half_life_of_the_average():
    module: SSLModule = VAT(4, backbone="wrn_10_1", ema_half_life=1000)
    assert module.ema_decay**1000 == pytest.approx(0.5)
    assert module.ema_decay == pytest.approx(0.999307, abs=1e-6)
