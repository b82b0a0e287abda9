"""Exemplar's triplet loss against explicit loops."""

import math

import pytest
import torch

from lightning_ssl.losses import batch_hard_triplet_loss


def loss_by_loops(embeddings, shown=None):
    """Every anchor, every partner, one distance at a time."""
    copies, images, _ = embeddings.shape
    rows = [
        (
            shown[image] if shown else image,
            embeddings[copy, image] / embeddings[copy, image].square().sum().sqrt(),
        )
        for image in range(images)
        for copy in range(copies)
    ]
    total = torch.zeros((), dtype=embeddings.dtype)
    for i, (image, e) in enumerate(rows):
        positive, negative = [], []
        for j, (other, f) in enumerate(rows):
            distance = (e - f).square().sum().clamp(min=1e-12).sqrt()
            if other != image:
                negative.append(distance)
            elif i != j:
                positive.append(distance)
        hardest = max(positive, key=lambda d: d.item()) - min(negative, key=lambda d: d.item())
        total = total + torch.log1p(torch.exp(hardest))
    return total / len(rows)


@pytest.mark.parametrize(("copies", "images", "width"), [(2, 2, 3), (4, 5, 7), (8, 3, 2)])
def test_value_and_gradient_equal_loops(copies, images, width):
    generator = torch.Generator().manual_seed(copies)
    shape = (copies, images, width)
    e = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    loss, expected = batch_hard_triplet_loss(e), loss_by_loops(e)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(value, e)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_an_image_that_comes_twice_is_no_negative_of_itself():
    generator = torch.Generator().manual_seed(3)
    e = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    shown = [7, 2, 7, 9, 2]
    loss, expected = batch_hard_triplet_loss(e, torch.tensor(shown)), loss_by_loops(e, shown)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert abs(loss - batch_hard_triplet_loss(e)) > 1e-3
    found, wanted = (torch.autograd.grad(value, e)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_collapse_gives_log_2_and_no_nan():
    e = torch.ones(4, 3, 5, requires_grad=True)
    loss = batch_hard_triplet_loss(e)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, e)
    assert gradient.isfinite().all()
    nothing = torch.zeros(4, 3, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(batch_hard_triplet_loss(nothing), nothing)
    assert gradient.isfinite().all()


def test_nearly_equal_copies_still_have_a_direction():
    """In float32, 1 - cos of these is 0; their difference is not."""
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(1, 3, 6, generator=generator) + torch.randn(2, 3, 6, generator=generator) * 1e-4
    exact = e.double().requires_grad_()
    e.requires_grad_()
    (found,) = torch.autograd.grad(batch_hard_triplet_loss(e), e)
    (wanted,) = torch.autograd.grad(batch_hard_triplet_loss(exact), exact)
    cosine = torch.nn.functional.cosine_similarity(found.double().flatten(), wanted.flatten(), 0)
    assert cosine > 0.99


def test_the_length_of_an_embedding_does_not_matter():
    e = torch.randn(3, 4, 6, dtype=torch.float64)
    scaled = e * torch.rand(3, 4, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(batch_hard_triplet_loss(e), batch_hard_triplet_loss(scaled))


def test_half_precision_is_raised():
    e = torch.randn(3, 4, 6).half()
    loss = batch_hard_triplet_loss(e)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, batch_hard_triplet_loss(e.float()))


def test_autocast_does_not_choose_other_partners():
    generator = torch.Generator().manual_seed(1)
    # Images that are nearly alike: bfloat16 cannot tell which of them is the nearest.
    e = torch.randn(1, 1, 8, generator=generator) + torch.randn(3, 9, 8, generator=generator) * 0.05
    expected = batch_hard_triplet_loss(e)
    with torch.autocast("cpu", torch.bfloat16):
        loss = batch_hard_triplet_loss(e)
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(("copies", "images"), [(1, 4), (4, 1)])
def test_one_image_or_one_copy_is_an_error(copies, images):
    with pytest.raises(ValueError, match=f"at least 2 images on every rank, got {copies} of"):
        batch_hard_triplet_loss(torch.randn(copies, images, 3))
