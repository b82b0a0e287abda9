"""DeFixMatch against a loop over images, values and gradients, and its one promise."""

import pytest
import torch

from lightning_ssl.methods import DeFixMatch
from lightning_ssl.types import Batch, Samples

from steps import images, read_images, same


def fixmatch_by_loops(weak, strong, threshold):
    """FixMatch's unlabelled loss, and how many images counted."""
    loss, kept = torch.zeros((), dtype=torch.float64), 0
    for w, s in zip(weak.detach(), strong, strict=True):
        p = torch.softmax(w, 0)
        if p.max() >= threshold:
            kept += 1
            loss = loss - torch.log_softmax(s, 0)[p.argmax()] / len(weak)
    return loss, kept


@pytest.mark.parametrize(("threshold", "lambda_u"), [(0.8, 0.5), (0.6, 2.0)])
def test_steps_equal_loops(threshold, lambda_u):
    generator = torch.Generator().manual_seed(0)
    module = read_images(DeFixMatch(4, threshold, lambda_u, backbone="wrn_10_1"))
    kept, wrong, lowest = 0, 0, 0.0
    for _ in range(50):
        views = [images(n, 4, generator) for n in (3, 3, 6, 6)]
        x, x_strong, u, u_strong = (view.flatten(2)[0] for view in views)
        target = torch.randint(4, (3,), generator=generator)
        labeled = Samples(dict(zip(("weak", "strong"), views[:2], strict=True)), target)
        unlabeled = Samples(dict(zip(("weak", "strong"), views[2:], strict=True)))
        loss = module.training_step(Batch(0, labeled, unlabeled), 0)
        expected = torch.zeros((), dtype=torch.float64)
        for rows in (x, x_strong):
            for z, y in zip(rows, target, strict=True):
                expected = expected - torch.log_softmax(z, 0)[y] / 6
        # Its own pseudo-labels, right or wrong, not the labels.
        loss_u, _ = fixmatch_by_loops(u, u_strong, threshold)
        loss_x, kept_x = fixmatch_by_loops(x, x_strong, threshold)
        same(loss, expected + lambda_u * (loss_u - loss_x), *views)
        kept += kept_x
        wrong += int((x.argmax(1) != target).sum())
        lowest = min(lowest, loss.item())
    assert 0 < kept < 150
    assert wrong > 0
    assert lowest < 0 or lambda_u < 1


def test_images_that_are_labelled_and_unlabelled_cancel():
    """The same images in both streams leave the labelled loss."""
    generator = torch.Generator().manual_seed(0)
    views = {name: images(5, 4, generator) for name in ("weak", "strong")}
    target = torch.tensor([0, 1, 2, 3, 0])
    losses = []
    for lambda_u in (0.0, 7.0):
        module = read_images(DeFixMatch(4, 0.3, lambda_u, backbone="wrn_10_1"))
        batch = Batch(0, Samples(views, target), Samples(views))
        losses.append(module.training_step(batch, 0))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=1e-12)
