"""Which images to label: centres that are known, loops, and real digits."""

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_ssl.evaluation.selection import most_uncertain, prototypes

SIZES = (5, 12, 3, 9)


def groups() -> tuple[Tensor, Tensor]:
    """Far groups of different sizes, in any order, and the group of each row."""
    generator = torch.Generator().manual_seed(0)
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    group = group[torch.randperm(len(group), generator=generator)]
    centres = 20 * torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    return centres[group] + torch.randn(len(group), 3, generator=generator), group


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_one_image_of_each_cluster_the_largest_first(seed: int) -> None:
    features, group = groups()
    chosen = prototypes(features, 4, seed=seed)
    assert group[chosen].tolist() == [1, 3, 0, 2]
    for row in chosen:
        centre = features[group == group[row]].mean(dim=0)
        assert int(cosine_similarity(features, centre[None]).argmax()) == row


def test_no_image_is_chosen_twice() -> None:
    """Centres in one direction all point at the same image, and the smaller clusters yield."""
    far = torch.tensor([[1.0, 0], [10, 0], [10, 0], [10, 0], [100, 3], [100, 3]])
    assert prototypes(far, 3).tolist() == [0, 4, 1]  # the first of those of cosine 1
    assert sorted(prototypes(groups()[0], 29).tolist()) == list(range(29))


def test_errors_of_prototypes() -> None:
    for count in (0, 30):
        with pytest.raises(ValueError, match=rf"`count` must be in \[1, 29\], .* got {count}\."):
            prototypes(groups()[0], count)
    with pytest.raises(ValueError, match="`features` must be finite"):
        prototypes(torch.tensor([[1.0], [torch.inf]]), 1)


def test_prototypes_of_digits() -> None:
    """They hold more classes than random images, and are the same again, at half precision too."""
    images, classes = load_digits(return_X_y=True)
    features, target = torch.from_numpy(images).float(), torch.from_numpy(classes)
    chosen = prototypes(features, 15, seed=1)
    assert torch.equal(prototypes(features.half(), 15, seed=1), chosen)  # pixels are small integers
    assert len(target[chosen].unique()) >= 9
    generator = torch.Generator().manual_seed(0)
    random = [target[torch.randperm(1797, generator=generator)[:15]].unique() for _ in range(20)]
    assert sum(len(found) for found in random) / 20 < 8.5
    assert not torch.equal(prototypes(features, 15, seed=2), chosen)


def sureness(row: list[float], by: str) -> float:
    if by == "margin":
        *_, second, first = sorted(row)
        return first - second
    return sum(p * math.log(p) for p in row if p > 0)


@pytest.mark.parametrize("by", ["margin", "entropy"])
def test_the_most_uncertain_by_loops(by: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(30, 4, generator=generator, dtype=torch.float64).mul(3).softmax(dim=1)
    probs[4] = torch.tensor([1.0, 0, 0, 0])
    probs[21] = probs[7]  # as sure, and later
    skip = torch.tensor([3, 12, 25])
    rows = [i for i in range(30) if i not in (3, 12, 25)]
    wanted = sorted(rows, key=lambda i: sureness(probs[i].tolist(), by))
    assert most_uncertain(probs, 27, by=by, skip=skip).tolist() == wanted
    assert most_uncertain(probs, 6, by=by, skip=skip).tolist() == wanted[:6]
    assert wanted.index(21) == wanted.index(7) + 1
    assert wanted[-1] == 4


def test_margin_and_entropy_differ_and_errors() -> None:
    probs = torch.tensor([[0.5, 0.48, 0.02], [0.4, 0.3, 0.3]])
    assert most_uncertain(probs, 1, by="margin").tolist() == [0]
    assert most_uncertain(probs, 1, by="entropy").tolist() == [1]
    with pytest.raises(ValueError, match="`by` must be 'margin' or 'entropy', got 'loss'"):
        most_uncertain(probs, 1, by="loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`count` must be in \[1, 1\], .* got 2"):
        most_uncertain(probs, 2, skip=torch.tensor([0]))
