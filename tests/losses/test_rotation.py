"""Rotation: which way, in which order, and the average of two streams."""

import math

import pytest
import torch

from lightning_ssl.losses import four_rotations, rotation_labels, rotation_loss


def test_copies_are_image_major_and_counter_clockwise():
    images = torch.randn(3, 2, 5, 5)
    copies = four_rotations(images)
    labels = rotation_labels(copies).tolist()
    assert labels == [0, 1, 2, 3] * 3
    for row, k in enumerate(labels):
        assert torch.equal(copies[row], torch.rot90(images[row // 4], k, (-2, -1)))
    # Pixel by pixel: a quarter turn to the left brings the right column to the top.
    turned, original = copies[1], images[0]
    for i in range(5):
        for j in range(5):
            assert torch.equal(turned[:, i, j], original[:, j, 4 - i])


def test_images_must_be_square():
    with pytest.raises(ValueError, match=r"`images` must be square, got \(4, 6\)"):
        four_rotations(torch.zeros(2, 3, 4, 6))


def test_each_stream_counts_half_whatever_its_size():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(20, 4, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64).requires_grad_()
    loss = rotation_loss(u, x)
    halves = []
    for z in (u, x):
        total = torch.zeros((), dtype=torch.float64)
        for row in range(len(z)):
            total = total - torch.log(torch.exp(z[row, row % 4]) / torch.exp(z[row]).sum())
        halves.append(total / len(z))
    expected = 0.5 * halves[0] + 0.5 * halves[1]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(loss, (u, x))
    wanted = torch.autograd.grad(expected, (u, x))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert rotation_loss(u * 0, x * 0).item() == pytest.approx(math.log(4))
