"""Stratified batches: counts, layout, how often an image comes, random access, ranks, errors."""

from collections import Counter

import pytest
import torch

from lightning_ssl.data.orders import Stratified
from lightning_ssl.data.plan import Plan

# Class to number of images; no class 1, 3 or 5.
SIZES = {0: 8, 2: 5, 4: 12, 6: 4, 7: 9, 9: 30}
TARGETS = torch.tensor([c for c, size in SIZES.items() for _ in range(size)])
TARGETS = TARGETS[torch.randperm(len(TARGETS), generator=torch.Generator().manual_seed(0))]
SHAPES = [(6, 1), (6, 4), (3, 2), (4, 3), (5, 4), (1, 4), (2, 1)]  # classes, images of each

each_shape = pytest.mark.parametrize(("classes", "images"), SHAPES)
each_cut = pytest.mark.parametrize("unique", [False, True])
short = pytest.mark.filterwarnings("ignore:.* classes have fewer than", "ignore:The .* shorter")


def order(
    classes: int | None = None,
    images: int = 2,
    unique: bool = False,
    *,
    seed: int = 0,
    stream: str = "labeled",
    targets: torch.Tensor = TARGETS,
) -> Stratified:
    return Stratified(
        targets,
        (len(targets.unique()) if classes is None else classes) * images,
        seed,
        stream,
        classes_per_batch=classes,
        unique_classes_per_rank=unique,
    )


@each_cut
@each_shape
def test_equally_many_of_each_class_in_its_place_and_none_twice(classes, images, unique):
    some = order(classes, images, unique)
    met = set()
    for step in range(60):
        batch = some.batch(step)
        assert batch.dtype == torch.int64
        assert len(set(batch.tolist())) == len(batch) == classes * images
        seen = TARGETS[batch].tolist()
        first = seen[::images] if unique else seen[:classes]
        assert len(set(first)) == classes
        laid_out = [c for c in first for _ in range(images)] if unique else first * images
        assert seen == laid_out
        met |= set(seen)
    assert met == set(SIZES)


@each_shape
def test_both_cuts_hold_the_same_images(classes, images):
    by_class, by_round = order(classes, images, True), order(classes, images, False)
    for step in range(20):
        block = by_class.batch(step).view(classes, images)
        assert torch.equal(block.T.flatten(), by_round.batch(step))


@each_shape
def test_classes_come_equally_often_in_random_order(classes, images):
    per_permutation = 6 // classes
    some = order(classes, images)
    orders = set()
    for permutation in range(30):
        seen = []
        for part in range(per_permutation):
            seen += TARGETS[some.batch(permutation * per_permutation + part)[:classes]].tolist()
        assert len(set(seen)) == len(seen)  # no class twice before what is left is dropped
        orders.add(tuple(seen))
    assert len(orders) > (2 if classes == 1 else 15)


def test_what_is_left_of_a_permutation_of_classes_is_another_each_time():
    some = order(4, 2)
    left = [frozenset(SIZES) - set(TARGETS[some.batch(step)].tolist()) for step in range(60)]
    assert all(len(classes) == 2 for classes in left)
    assert len(set(left)) > 8  # of 15
    assert set().union(*left) == set(SIZES)


@each_cut
@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_within_a_class_every_image_comes_once_per_pass(images, unique):
    """A pass is as many visits as a class has whole batches; its remainder rests."""
    some = order(None, images, unique)
    visits = {c: [] for c in SIZES}
    for step in range(120):
        batch = some.batch(step)
        for c in SIZES:
            visits[c].append(batch[TARGETS[batch] == c].tolist())
    for c, size in SIZES.items():
        members = set(torch.nonzero(TARGETS.eq(c)).flatten().tolist())
        whole = size // images
        passes = [
            [i for visit in visits[c][start : start + whole] for i in visit]
            for start in range(0, 120 - 120 % whole, whole)
        ]
        for seen in passes:
            assert len(set(seen)) == len(seen) == whole * images
            assert set(seen) <= members
        assert len({tuple(seen) for seen in passes}) > 1
        # What rests is another each time, so in the end every image is used.
        assert {i for seen in passes for i in seen} == members


@short
def test_a_class_with_too_few_images_repeats_them_evenly():
    targets = torch.tensor([0] * 3 + [1] * 1 + [2] * 20)
    some = order(None, 4, targets=targets)
    seen = Counter()
    for step in range(30):
        batch = some.batch(step)
        assert torch.bincount(targets[batch]).tolist() == [4, 4, 4]
        assert len(set(batch[targets[batch] == 2].tolist())) == 4
        assert set(batch[targets[batch] == 1].tolist()) == {3}
        seen.update(batch.tolist())
    assert [seen[i] for i in range(4)] == [40, 40, 40, 120]
    assert [seen[i] for i in range(4, 24)] == [6] * 20


def test_too_few_images_are_said_once(recwarn):
    targets = torch.tensor([0] * 3 + [1] * 1 + [2] * 20)
    some = order(None, 4, targets=targets)
    for step in range(30):
        some.batch(step)
    assert [str(w.message) for w in recwarn] == [
        "2 of 3 classes have fewer than 4 labeled images: theirs repeat inside a batch."
    ]


def test_a_list_shorter_than_its_batch_is_said_once(recwarn):
    order(None, 4, targets=torch.tensor([0, 0, 1])).batch(3)
    assert [str(w.message) for w in recwarn] == [
        "The labeled list (3 images) is shorter than its batch (8): images repeat inside a batch."
    ]


def test_enough_images_are_no_news(recwarn):
    order(None, 4)
    assert not recwarn.list


@short
@each_cut
@pytest.mark.parametrize(("classes", "images"), [(6, 4), (4, 3), (5, 7)])
def test_random_access_equals_walking(classes, images, unique):
    walked = order(classes, images, unique)
    batches = [walked.batch(step) for step in range(200)]
    again = order(classes, images, unique)
    for step in (199, 3, 4, 100, 3, 0, 57):
        assert torch.equal(again.batch(step), batches[step])
        assert torch.equal(order(classes, images, unique).batch(step), batches[step])


def test_depends_on_seed_and_stream_and_on_nothing_else():
    def walk(**options):
        return torch.cat([order(4, 2, **options).batch(step) for step in range(9)]).tolist()

    assert walk() != walk(seed=1)
    assert walk() != walk(stream="other")
    torch.manual_seed(1)
    first, state = walk(), torch.get_rng_state()
    torch.manual_seed(2)
    assert walk() == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("classes", "images", "unique", "world"), [
    (6, 4, False, 2), (6, 4, False, 4), (5, 4, False, 4), (6, 4, True, 2), (6, 3, True, 3),
    (4, 1, True, 4), (4, 4, True, 2), (1, 4, False, 4),
])  # fmt: skip
def test_ranks_together_see_what_one_would(classes, images, unique, world):
    whole = Plan(order(classes, images, unique), None)
    ranks = [
        Plan(order(classes, images, unique), None, rank=r, world_size=world) for r in range(world)
    ]
    for step in (0, 1, 2, 77, 5):
        parts = [plan(step).labeled for plan in ranks]
        assert torch.equal(torch.cat(parts), whole(step).labeled)
        assert len({len(part) for part in parts}) == 1
        counts = [Counter(TARGETS[part].tolist()) for part in parts]
        if unique:  # all images of its own classes
            assert all(set(count.values()) == {images} for count in counts)
            assert sum(len(count) for count in counts) == classes == len(set().union(*counts))
        else:  # some of every class
            assert all(count == counts[0] for count in counts)
            assert counts[0] == Counter(dict.fromkeys(counts[0], images // world))
            assert len(counts[0]) == classes


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Stratified(TARGETS, 10, 0, "labeled"),
     r"`data\.batch_size` must be a multiple .* \(6, .*\), got 10\."),
    (lambda: Stratified(TARGETS, 10, 0, "labeled", classes_per_batch=4),
     r"`data\.batch_size` must be a multiple .* \(4, .*\), got 10\."),
    (lambda: Stratified(TARGETS, 4, 0, "labeled"),  # fewer images than classes
     r"`data\.batch_size` must be a multiple .* \(6, .*\), got 4\."),
    (lambda: Stratified(TARGETS, 14, 0, "labeled", classes_per_batch=7),
     r"`data\.classes_per_batch` must be in \[1, 6\].*got 7\."),
    (lambda: Stratified(TARGETS, 14, 0, "labeled", classes_per_batch=0),
     r"`data\.classes_per_batch` must be in \[1, 6\].*got 0\."),
    (lambda: Stratified(TARGETS[:0], 4, 0, "labeled"), "labeled list holds no image"),
    (lambda: Plan(order(6, 3), None, world_size=2),
     r"`data\.batch_size` \(18\) .* 2 processes .* 3 images per class"),
    (lambda: Plan(order(6, 1), None, world_size=2), r"`data\.batch_size` \(6\)"),
    (lambda: Plan(order(6, 4, True), None, world_size=4),
     r"`data\.classes_per_batch` must be a multiple .*\(4\).*got 6\."),
])  # fmt: skip
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
