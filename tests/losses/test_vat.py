"""VAT: closed forms, brute force, an exact Hessian-vector product, and the limits of float32."""

import math

import pytest
import torch
from torch import nn

from lightning_ssl.losses import (
    adversarial_direction,
    entropy,
    kl_divergence,
    unit_direction,
    vat_loss,
)


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def softmax_by_loops(row):
    exponentials = [math.exp(v) for v in row]
    return [e / sum(exponentials) for e in exponentials]


def kl_by_loops(z, other):
    total = 0.0
    for a, b in zip(z.tolist(), other.tolist(), strict=True):
        p, q = softmax_by_loops(a), softmax_by_loops(b)
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(z)


def test_divergence_and_entropy_equal_loops():
    z, other = draw(5, 4, scale=2), draw(5, 4, seed=1)
    assert kl_divergence(z, other).item() == pytest.approx(kl_by_loops(z, other), rel=1e-12)
    by_loops = 0.0
    for row in z.tolist():
        by_loops -= sum(p * math.log(p) for p in softmax_by_loops(row)) / 5
    assert entropy(z).item() == pytest.approx(by_loops, rel=1e-12)


def test_gradients_of_both_orders_and_of_the_entropy():
    z, clean = draw(5, 4, scale=2).requires_grad_(), draw(5, 4, seed=1).requires_grad_()
    p, q = z.detach().softmax(1), clean.detach().softmax(1)

    ratio = p.log() - q.log()
    kl = (p * ratio).sum(1, keepdim=True)
    (found,) = torch.autograd.grad(vat_loss(z, clean), z)
    torch.testing.assert_close(found, p * (ratio - kl) / 5, rtol=1e-10, atol=1e-12)

    teacher = vat_loss(z, clean, student_first=False)
    assert teacher.item() == pytest.approx(kl_by_loops(clean, z), rel=1e-12)
    (found,) = torch.autograd.grad(teacher, z)
    torch.testing.assert_close(found, (p - q) / 5, rtol=1e-10, atol=1e-12)

    plogp = (p * p.log()).sum(1, keepdim=True)
    (found,) = torch.autograd.grad(entropy(z), z)
    torch.testing.assert_close(found, -p * (p.log() - plogp) / 5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("student_first", [True, False])
def test_the_clean_prediction_learns_nothing(student_first):
    z, clean = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    vat_loss(z, clean, student_first=student_first).backward()
    assert z.grad.abs().sum() > 0
    assert clean.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_in_half_precision_stay_finite(dtype):
    z = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=dtype, requires_grad=True)
    loss = vat_loss(z, -z.detach()) + entropy(z)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(120)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-30, 1e-40, 1e30])
def test_a_direction_has_length_one_whatever_its_scale(scale):
    values = (draw(4, 3, 5, 5) * scale).float()
    values[1] = 0
    norms = unit_direction(values).double().flatten(1).norm(dim=1)
    expected = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=0)
    if scale > 1e-38:  # not subnormal
        cosine = (unit_direction(values)[0] * values[0] / values[0].abs().max()).sum()
        assert cosine == pytest.approx((values[0] / values[0].abs().max()).norm().item(), rel=1e-5)


def hessian(weight, probs):
    """Of the divergence of one row of a linear softmax model with respect to its input."""
    return weight @ (torch.diag(probs) - torch.outer(probs, probs)) @ weight.T


@pytest.mark.parametrize("student_first", [True, False])
@pytest.mark.parametrize("power_iterations", [1, 3])
def test_direction_of_a_linear_softmax_model(student_first, power_iterations):
    x, weight, start = draw(4, 6), draw(6, 3, seed=1), draw(4, 6, seed=2)
    found = adversarial_direction(
        lambda r: (x + r) @ weight, x @ weight, start,
        xi=1e-5, power_iterations=power_iterations, student_first=student_first,
    )  # fmt: skip
    assert not found.requires_grad
    for row, first, p in zip(found, start, (x @ weight).softmax(1), strict=True):
        expected = first
        for _ in range(power_iterations):
            expected = hessian(weight, p) @ expected
        expected = expected / expected.norm()
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)
        # For small changes the loss is half the quadratic form, in both orders.
        radius = 1e-3
        z = p.log()[None]
        changed = z + radius * row @ weight
        loss = vat_loss(changed, z, student_first=student_first).item()
        form = 0.5 * radius**2 * (row @ hessian(weight, p) @ row).item()
        assert loss == pytest.approx(form, rel=1e-2)


@pytest.mark.parametrize("scale", [3e-4, 1.0])
def test_a_clamped_norm_leaves_a_part_of_the_length_as_in_the_original(scale):
    """``normalize`` of semi_supervised/vat_utils.py: division by the root of max(sum, 1e-12)."""
    weight, x, start = draw(6, 4, seed=2, scale=scale), draw(5, 6, seed=3), draw(5, 6, seed=4)

    def network(change):
        return (x + change) @ weight

    clean, gradient = network(torch.zeros_like(x)), start
    for _ in range(2):
        sums = gradient.square().sum(1, keepdim=True)
        change = (1e-3 * gradient / sums.clamp(min=1e-12).sqrt()).requires_grad_()
        log_p, log_q = network(change).log_softmax(1), clean.log_softmax(1)
        (gradient,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(1).mean(), change)
    norm = gradient.square().sum(1, keepdim=True)
    wanted = gradient / norm.clamp(min=1e-12).sqrt()
    found = adversarial_direction(
        network, clean, start, xi=1e-3, power_iterations=2, clamp_norm=True
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-12)
    assert (found.norm(dim=1) < 1e-3).all() if scale < 1 else (found.norm(dim=1) > 1 - 1e-9).all()


def test_direction_equals_brute_force_in_the_plane():
    x, weight, start = draw(5, 2), draw(2, 4, seed=3, scale=2), draw(5, 2, seed=4)
    found = adversarial_direction(
        lambda r: (x + r) @ weight, x @ weight, start, xi=1e-4, power_iterations=60
    )
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    for row, clean in zip(found, x @ weight, strict=True):
        log_p = (clean + 1e-4 * circle @ weight).log_softmax(1)
        divergence = (log_p.exp() * (log_p - clean.log_softmax(0))).sum(1)
        best = circle[divergence.argmax()]
        assert abs(row @ best).item() == pytest.approx(1, abs=1e-6)  # both signs are as good


class Small(nn.Module):
    """A convolutional network whose BatchNorm couples the images of a batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(),
            nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.Softplus(),
            nn.Flatten(), nn.Linear(128, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x) * 3


def cosines(one, other):
    one, other = one.double().flatten(1), other.double().flatten(1)
    return (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)


def hessian_vector_product(network, x, direction):
    change = torch.zeros_like(x).requires_grad_()
    loss = kl_divergence(network(x + change), network(x).detach()) * len(x)
    (first,) = torch.autograd.grad(loss, change, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), change)
    return second


def test_direction_equals_the_hessian_vector_product():
    network, x, start = Small().double(), draw(6, 3, 8, 8), draw(6, 3, 8, 8, seed=1)
    exact = hessian_vector_product(network, x, unit_direction(start))

    def search(net, images, xi):
        return adversarial_direction(
            lambda r: net(images + r), net(images), start.to(images.dtype), xi=xi
        )

    assert cosines(search(network, x, 1e-5), exact).min() > 1 - 1e-6
    network = network.float()
    xi = 1e-2 * math.sqrt(192 / 3072)
    assert cosines(search(network, x.float(), xi), exact).min() > 0.999
    # The papers' distance measures rounding errors in float32.
    assert cosines(search(network, x.float(), 1e-6), exact).median() < 0.9


def test_no_parameter_receives_a_gradient():
    network, x = Small(), torch.randn(4, 3, 8, 8)
    network(x).sum().backward()
    before = [p.grad.clone() for p in network.parameters()]
    adversarial_direction(
        lambda r: network(x + r), network(x), torch.randn_like(x), xi=1e-2, power_iterations=2
    )
    assert all(torch.equal(p.grad, b) for p, b in zip(network.parameters(), before, strict=True))


def test_an_image_that_cannot_be_changed_has_no_direction():
    x = torch.zeros(2, 3)
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    reach = torch.tensor([[1.0], [0.0]])  # the second image does not reach the output
    found = adversarial_direction(
        lambda r: (x + r * reach) @ weight, x @ weight, torch.ones(2, 3), xi=1e-2
    )
    torch.testing.assert_close(found[0], torch.tensor([1.0, 2.0, 0.0]) / 5**0.5)
    assert found[1].tolist() == [0, 0, 0]
