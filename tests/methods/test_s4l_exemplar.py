"""S4L-Exemplar against loops; what is mined, and what is not."""

import pytest
import torch
from torch import nn

from lightning_ssl.losses import swapped_identities
from lightning_ssl.methods import S4LExemplar
from lightning_ssl.types import Batch, Samples

from runs import fit


def make_batch(labeled=2, unlabeled=3, copies=3, side=2):
    generator = torch.Generator().manual_seed(1)
    x, u = (
        torch.randn(copies, n, 3, side, side, generator=generator, dtype=torch.float64)
        for n in (labeled, unlabeled)
    )
    target = torch.arange(labeled) + 1
    return Batch(0, Samples({"exemplar": x}, target), Samples({"exemplar": u}))


def triplet_by_loops(embed, images, swapped=False):
    """``images[m][i]`` is copy m of image i; ``swapped`` numbers blocks of as many rows as images.

    The latter is what ``do_triplet`` of semi_supervised/exemplar.py does with its arguments.
    """
    rows = []
    for i in range(images.shape[1]):
        for m in range(images.shape[0]):
            e = embed(images[m, i].flatten())
            rows.append((len(rows) // images.shape[1] if swapped else i, e / e.norm()))
    total = 0
    for a, (i, e) in enumerate(rows):
        farthest = max(
            ((e - f).norm() for b, (j, f) in enumerate(rows) if j == i and a != b),
            key=lambda d: d.item(),
        )
        nearest = min(((e - f).norm() for j, f in rows if j != i), key=lambda d: d.item())
        total = total + torch.log(1 + torch.exp(farthest - nearest))
    return total / len(rows)


@pytest.mark.parametrize("swapped", [False, True])
def test_training_step_equals_loops(swapped):
    torch.manual_seed(0)
    module = S4LExemplar(
        4, 3, embedding_dim=5, lambda_triplet=0.7, swap_identities=swapped, backbone="wrn_10_1"
    ).double()
    module.backbone = nn.Flatten()
    module.classifier, module.embedding = nn.Linear(12, 4).double(), nn.Linear(12, 5).double()
    batch = make_batch()
    x, u = batch.labeled.views["exemplar"], batch.unlabeled.views["exemplar"]
    labeled = [
        -module.classifier(x[m, i].flatten()).log_softmax(0)[batch.labeled.target[i]]
        for m in range(3)
        for i in range(2)
    ]
    triplets = [triplet_by_loops(module.embedding, images, swapped) for images in (u, x)]
    expected = sum(labeled) / 6 + 0.7 * 0.5 * sum(triplets)
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    parameters = [*module.classifier.parameters(), *module.embedding.parameters()]
    found, wanted = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_identities_of_the_original_hold_two_images():
    """With the 16 images of a core and 8 copies of the script."""
    identity = swapped_identities(8, 16, torch.device("cpu"))
    assert [identity[:, i].unique().tolist() for i in range(16)] == [[i // 2] for i in range(16)]


def test_one_batchnorm_batch_of_all_copies():
    module = S4LExemplar(4, copies=3, backbone="wrn_10_1").double()
    seen = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    module.training_step(make_batch(side=8), 0)
    assert seen == [3 * (2 + 3)]


def test_the_same_image_in_both_streams_is_no_negative():
    """Were the streams mined together, every labelled image would have itself as nearest other."""
    module = S4LExemplar(4, copies=2, lambda_triplet=1, backbone="wrn_10_1").double().eval()
    images = torch.randn(1, 3, 3, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1, -1)
    same = Samples({"exemplar": images}, torch.zeros(3, dtype=torch.int64))
    loss = module.training_step(Batch(0, same, same), 0)
    classes = nn.functional.cross_entropy(module(images[0]), same.target)
    # Copies are equal and images are not: below log 2.
    assert (loss - classes).item() < 0.69


def test_a_short_list_repeats_images_that_are_not_pushed_apart():
    """Every column of both batches shows one of two images."""
    module = S4LExemplar(4, copies=2, backbone="wrn_10_1").double().eval()
    images = torch.randn(1, 2, 3, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1, -1)
    target = torch.tensor([1, 2])

    def loss(labeled, unlabeled):
        x, u = torch.tensor(labeled), torch.tensor(unlabeled)
        samples = Samples({"exemplar": images[:, x]}, target[x], index=x)
        others = Samples({"exemplar": images[:, u]}, index=u)
        return module.training_step(Batch(0, samples, others), 0)

    once = loss([0, 1], [0, 1])
    torch.testing.assert_close(once, loss([0, 1, 0, 1], [0, 1]))
    torch.testing.assert_close(once, loss([0, 1], [0, 1, 0, 1]))


def test_views_are_copies_with_noise():
    cli = fit("S4LExemplar", "a", 1, "--model.copies", "3")
    assert cli.model.views == {"labeled": {"exemplar": 3}, "unlabeled": {"exemplar": 3}}
    assert cli.model.embedding.weight.shape == (128, 64)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("copies", 1, "at least 2"), ("embedding_dim", 0, "at least 1"), ("lambda_triplet", -1, "0")],
)
def test_errors_name_argument_and_value(option, value, allowed):
    with pytest.raises(ValueError, match=rf"`{option}` must be .*{allowed}, got {value}"):
        S4LExemplar(4, backbone="wrn_10_1", **{option: value})
