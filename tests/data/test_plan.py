"""Which images a step sees: every image once per pass, random access, ranks."""

from types import SimpleNamespace

import pytest
import torch

from lightning_ssl.data.orders import Balanced, Shuffled
from lightning_ssl.data.plan import Plan, describe_run
from lightning_ssl.seeding import make_generator

SIZES = [(10, 3), (7, 7), (12, 5), (1, 1), (60, 64), (3, 8), (1, 4)]  # list, batch
TARGETS = torch.tensor([2] * 5 + [0] * 9 + [5] * 1 + [2] * 2)  # no class 1, 3 or 4

short = pytest.mark.filterwarnings("ignore:The .* list .* is shorter")


def walk(order, steps: int) -> list[int]:
    return torch.cat([order.batch(step) for step in range(steps)]).tolist()


def chunks(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def balanced_slowly(targets, batch_size: int, seed: int, stream: str, steps: int):
    """Deal class after class, image after image, from decks that are reshuffled when empty."""

    def deal(items, *keys):
        epoch = 0
        while True:
            generator = make_generator(seed, "plan", stream, *keys, epoch)
            yield from (items[i] for i in torch.randperm(len(items), generator=generator).tolist())
            epoch += 1

    classes = sorted(set(targets.tolist()))
    rounds = deal(classes, "rounds")
    members = {
        c: deal([i for i, t in enumerate(targets.tolist()) if t == c], "class", c) for c in classes
    }
    return [[next(members[next(rounds)]) for _ in range(batch_size)] for _ in range(steps)]


@short
@pytest.mark.parametrize(("size", "batch_size"), SIZES)
def test_shuffled_sees_every_image_once_per_pass(size, batch_size):
    seen = walk(Shuffled(size, batch_size, 0, "labeled"), steps=3 * size)  # 3 * batch_size passes
    passes = chunks(seen, size)
    assert len(passes) == 3 * batch_size
    assert all(sorted(one) == list(range(size)) for one in passes)
    if size > 6:
        assert len({tuple(one) for one in passes}) == len(passes)


@short
@pytest.mark.parametrize("make", [
    lambda seed=0, stream="unlabeled": Shuffled(37, 8, seed, stream),
    lambda seed=0, stream="unlabeled": Shuffled(5, 8, seed, stream),
    lambda seed=0, stream="unlabeled": Balanced(TARGETS, 4, seed, stream),
])  # fmt: skip
class TestOrders:
    def test_random_access_equals_walking(self, make):
        walked = make()
        for step in range(1001):
            last = walked.batch(step)
        order = make()
        assert torch.equal(order.batch(1000), last)
        # Backwards and to and fro on the same object.
        for step in (999, 3, 4, 1000, 3, 0):
            assert torch.equal(order.batch(step), make().batch(step))
            assert torch.equal(order.batch(step), walked.batch(step))
        assert order.batch(7).dtype == torch.int64

    def test_depends_on_seed_and_stream(self, make):
        assert walk(make(seed=1), 9) != walk(make(), 9)
        assert walk(make(stream="labeled"), 9) != walk(make(), 9)

    def test_leaves_the_global_generator_alone(self, make):
        torch.manual_seed(1)
        first, state = walk(make(), 9), torch.get_rng_state()
        torch.manual_seed(2)
        assert walk(make(), 9) == first
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)


def test_lists_of_any_length_cost_nothing_until_asked():
    order = Shuffled(10**12, 4, 0, "unlabeled")  # 4 TB as int32
    assert order.size == 10**12


def test_a_pass_is_drawn_once_as_int32(monkeypatch):
    drawn = []
    randperm = torch.randperm

    def spy(n, **kwargs):
        drawn.append((n, kwargs["dtype"]))
        return randperm(n, **kwargs)

    monkeypatch.setattr(torch, "randperm", spy)
    order = Shuffled(10, 4, 0, "unlabeled")
    walk(order, 10)  # 4 passes
    assert drawn == [(10, torch.int32)] * 4
    order.batch(0)
    assert len(drawn) == 5  # passes that are over are not kept


@short
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 30])
def test_balanced_is_the_slow_restatement(batch_size):
    order = Balanced(TARGETS, batch_size, 3, "labeled")
    expected = balanced_slowly(TARGETS, batch_size, 3, "labeled", steps=40)
    assert [order.batch(step).tolist() for step in range(40)] == expected


@pytest.mark.parametrize("batch_size", [3, 6])
def test_balanced_batches_of_whole_rounds_have_equal_counts(batch_size):
    order = Balanced(TARGETS, batch_size, 0, "labeled")
    for step in range(50):
        counts = torch.bincount(TARGETS[order.batch(step)], minlength=6).tolist()
        assert counts == [batch_size // 3, 0, batch_size // 3, 0, 0, batch_size // 3]


@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_balanced_counts_never_drift_apart(batch_size):
    seen = walk(Balanced(TARGETS, batch_size, 0, "labeled"), 60)
    counts = torch.nn.functional.one_hot(TARGETS[seen], 6)[:, [0, 2, 5]].cumsum(0)
    assert int((counts.amax(1) - counts.amin(1)).max()) == 1
    for c in (0, 2, 5):
        members = [i for i, t in enumerate(TARGETS.tolist()) if t == c]
        visits = [i for i in seen if TARGETS[i] == c]
        passes = chunks(visits, len(members))[:-1]
        assert len(passes) >= 2
        assert all(sorted(one) == members for one in passes)
    rounds = chunks(TARGETS[seen].tolist(), 3)
    assert len({tuple(one) for one in rounds if len(one) == 3}) > 3  # in random order


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_ranks_together_see_what_one_would(world_size, balanced):
    def orders():
        labeled = Balanced(TARGETS, 8, 0, "labeled") if balanced else Shuffled(17, 8, 0, "labeled")
        return labeled, Shuffled(50, 12, 0, "unlabeled")

    one = Plan(*orders())
    ranks = [Plan(*orders(), rank=r, world_size=world_size) for r in range(world_size)]
    for step in (0, 1, 2, 77, 5):
        parts = [plan(step) for plan in ranks]
        assert all(len(part.labeled) == 8 // world_size for part in parts)
        assert all(len(part.unlabeled) == 12 // world_size for part in parts)
        assert torch.equal(torch.cat([part.labeled for part in parts]), one(step).labeled)
        assert torch.equal(torch.cat([part.unlabeled for part in parts]), one(step).unlabeled)
        assert torch.equal(one(step).labeled, orders()[0].batch(step))


def test_without_unlabeled_images():
    assert Plan(Shuffled(9, 4, 0, "labeled"), None, rank=1, world_size=2)(3).unlabeled is None


@pytest.mark.parametrize("make", [
    lambda: Shuffled(3, 8, 0, "labeled"),
    lambda: Balanced(torch.tensor([0, 1, 1]), 8, 0, "labeled"),
])  # fmt: skip
def test_short_list_warns_once(make, recwarn):
    order = make()
    walk(order, 5)
    assert [str(w.message) for w in recwarn] == [
        "The labeled list (3 images) is shorter than its batch (8): images repeat inside a batch."
    ]


def test_list_as_long_as_its_batch_does_not_warn(recwarn):
    Shuffled(8, 8, 0, "labeled")
    assert not recwarn.list


def test_empty_list_and_batch():
    with pytest.raises(ValueError, match="unlabeled list holds no image"):
        Shuffled(0, 8, 0, "unlabeled")
    with pytest.raises(ValueError, match="labeled list holds no image"):
        Balanced(torch.empty(0, dtype=torch.int64), 8, 0, "labeled")
    with pytest.raises(ValueError, match="labeled batch size must be at least 1, got 0"):
        Shuffled(8, 0, 0, "labeled")


@pytest.mark.parametrize(("sizes", "flag", "received"), [
    ((6, 8), "data.batch_size", 6),
    ((8, 6), "data.unlabeled_batch_size", 6),
])  # fmt: skip
def test_batch_that_the_processes_do_not_divide(sizes, flag, received):
    orders = (Shuffled(20, sizes[0], 0, "labeled"), Shuffled(20, sizes[1], 0, "unlabeled"))
    with pytest.raises(ValueError, match=rf"`{flag}` .* \(4\), got {received}\.") as error:
        Plan(*orders, world_size=4)
    assert "processes" in str(error.value)


def test_describe_run():
    trainer = SimpleNamespace(accumulate_grad_batches=3, max_steps=500, max_epochs=None)
    plan = Plan(Shuffled(40, 8, 0, "labeled"), Shuffled(999, 24, 0, "unlabeled"), world_size=4)
    assert describe_run(trainer, plan, (10, 32), (40, 999), 41) == (
        "Run: 10 classes, images of 32x32 pixels; 40 labelled images, 8 a step; 999 unlabelled "
        "images, 24 a step; on each of 4 processes 2 + 6; epochs of 41 steps; an update every 3 "
        "steps; 500 updates."
    )
    trainer = SimpleNamespace(accumulate_grad_batches=1, max_steps=-1, max_epochs=7)
    plan = Plan(Shuffled(40, 8, 0, "labeled"), None)
    assert describe_run(trainer, plan, (3, 8), (40, 40), 5) == (
        "Run: 3 classes, images of 8x8 pixels; 40 labelled images, 8 a step; epochs of 5 steps; an "
        "update every 1 step; 7 epochs."
    )
