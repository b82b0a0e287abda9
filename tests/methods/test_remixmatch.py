"""ReMixMatch against loops over images: values, gradients and what outlives a step."""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from lightning_ssl.augment import CTAugmentProbe, Views
from lightning_ssl.augment.ctaugment import OPERATIONS
from lightning_ssl.methods import ReMixMatch, remixmatch
from lightning_ssl.optim import Optimizer
from lightning_ssl.types import Batch, Samples

from by_hand import cross_entropy, softmax
from runs import fit, load

C, B, U = 3, 4, 5
SHAPE = (3, 2, 2)
TEMPERATURE, RAMP = 0.8, 0.3


class Alone(ReMixMatch):
    """Without a trainer: writes nothing down, and the average is a network of its own."""

    average: Any = None

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_classes(self, *args: Any) -> None: ...

    @property
    def teacher(self) -> Any:
        return self.average[0]


def linear(**options: Any) -> Alone:
    """One linear layer on the pixels for each head, and another network as the average."""
    torch.manual_seed(0)
    module = Alone(C, backbone="wrn_10_1", **{"augment": "ctaugment"} | options).double()
    module.backbone = nn.Flatten()
    module.classifier, module.rotation = nn.Linear(12, C).double(), nn.Linear(12, 4).double()
    teacher = deepcopy(module)
    nn.init.normal_(teacher.classifier.weight)
    module.average = [teacher]
    # A third in float64; the module was built in float32.
    alignment: Any = module.imbalance
    for buffer in (alignment.predicted.value, alignment.predicted.window):
        buffer.fill_(1 / C)
    if not options.get("class_counts"):
        alignment.occurring.value.fill_(1 / C)
    return module


def draw_batch(generator: torch.Generator, views: int, shape: tuple[int, ...] = SHAPE) -> Batch:
    def images(copies: int, n: int) -> torch.Tensor:
        return torch.randn(copies, n, *shape, generator=generator, dtype=torch.float64)

    labeled = {"weak": images(1, B), "strong": images(1, B), "probe": images(1, B)}
    target = torch.randint(C, (B,), generator=generator)
    drawn = {"probe": CTAugmentProbe().draw(B, generator)}
    unlabeled = {"weak": images(1, U), "strong": images(views, U)}
    return Batch(0, Samples(labeled, target, drawn=drawn), Samples(unlabeled))


@dataclass
class State:
    """What outlives a step, as lists."""

    counts: list[int] | None
    window: list[list[float]] = field(default_factory=lambda: [[1 / C] * C for _ in range(128)])
    occurring: list[float] = field(default_factory=lambda: [1 / C] * C)
    rates: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.counts:
            self.occurring = [count / sum(self.counts) for count in self.counts]


@dataclass
class Drawn:
    """Partners and weights of MixUp."""

    partner: torch.Tensor
    weight: torch.Tensor


def _remember(module: Alone, batch: Batch, state: State, probabilities: list[list[float]]) -> None:
    """What a step leaves behind: the means, and the rates of the bins that probes drew."""
    x, probes = batch.labeled, batch.labeled.drawn or {}
    state.window = [*state.window[1:], [sum(p[c] for p in probabilities) / U for c in range(C)]]
    if state.counts is None:
        shares = [x.target.tolist().count(c) / B for c in range(C)]
        pairs = zip(state.occurring, shares, strict=True)
        state.occurring = [0.999 * old + 0.001 * new for old, new in pairs]
    for i, image in enumerate(x.views["probe"][0]):
        p = softmax(module.teacher.classifier(image.flatten()))
        label = [float(c == x.target[i]) for c in range(C)]
        omega = 1 - sum(abs(a - b) for a, b in zip(p, label, strict=True)) / 2
        for slot, op in enumerate(probes["probe"]["op"][i].tolist()):
            for level, count in enumerate(OPERATIONS[op].bins):
                place = int(probes["probe"]["uniform"][i, slot, level].item() * count)
                if count:
                    old = state.rates.get((op, level, place), 1.0)
                    state.rates[op, level, place] = 0.99 * old + 0.01 * omega


def step_by_loops(
    module: Alone, batch: Batch, state: State, drawn: Drawn, ramp: float, labeled_view: str
) -> torch.Tensor:
    """Sections 3.1 to 3.4 of https://arxiv.org/abs/1911.09785, image by image."""
    x, u = batch.labeled.views, batch.unlabeled.views
    mean = [sum(row[c] for row in state.window) / 128 for c in range(C)]
    targets = [[float(c == y) for c in range(C)] for y in batch.labeled.target.tolist()]
    images = list(x[labeled_view][0])
    guesses, probabilities = [], []
    for image in u["weak"][0]:
        p = softmax(module.classifier(image.flatten()))
        probabilities.append(p)
        aligned = [p[c] * (state.occurring[c] + 1e-6) / (mean[c] + 1e-6) for c in range(C)]
        sharp = [(value / sum(aligned)) ** (1 / TEMPERATURE) for value in aligned]
        guesses.append([value / sum(sharp) for value in sharp])
    for view in (u["weak"][0], *u["strong"]):
        images += list(view)
        targets += guesses

    rows: dict[str, list[torch.Tensor]] = {"x": [], "u": [], "kl": [], "rotation": []}
    for n, (j, weight) in enumerate(
        zip(drawn.partner.tolist(), drawn.weight.tolist(), strict=True)
    ):
        image = weight * images[n] + (1 - weight) * images[j]
        mixed = [weight * a + (1 - weight) * b for a, b in zip(targets[n], targets[j], strict=True)]
        rows["x" if n < B else "u"].append(cross_entropy(module.classifier(image.flatten()), mixed))
    for i, image in enumerate(u["strong"][0]):
        rows["kl"].append(cross_entropy(module.classifier(image.flatten()), guesses[i]))
        turned = torch.rot90(image, i % 4, (1, 2)).flatten()
        rows["rotation"].append(cross_entropy(module.rotation(turned), i % 4))
    loss: Any = {name: sum(parts) / len(parts) for name, parts in rows.items()}

    _remember(module, batch, state, probabilities)
    return (
        loss["x"]
        + ramp * (module.lambda_u * loss["u"] + module.lambda_kl * loss["kl"])
        + module.lambda_rotation * loss["rotation"]
    )  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("views", "counts", "augment", "weights"),
    [
        (2, None, "ctaugment", (1.5, 0.5, 0.5)),
        (1, [5, 1, 2], "ctaugment", (0.7, 2.0, 3.0)),
        (3, None, "randaugment", (1.0, 0.0, 0.3)),
    ],
)
def test_50_steps_equal_the_paper(
    views: int,
    counts: list[int] | None,
    augment: Any,
    weights: tuple[float, float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("lambda_u", "lambda_kl", "lambda_rotation")
    module = linear(strong_views=views, class_counts=counts, augment=augment, ramp=RAMP,
                    temperature=TEMPERATURE, **dict(zip(names, weights, strict=True)))  # fmt: skip
    parameters = [*module.classifier.parameters(), *module.rotation.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.3)
    state, generator = State(counts), torch.Generator().manual_seed(1)
    rows = B + (views + 1) * U
    for step in range(50):
        batch = draw_batch(generator, views)
        drawn = Drawn(torch.randperm(rows, generator=generator),
                      0.5 + 0.5 * torch.rand(rows, generator=generator).double())  # fmt: skip
        ramp = min(1.0, step / 30)
        monkeypatch.setattr(remixmatch, "ramp_up", lambda of, asked, value=ramp: {
            RAMP: value}[asked])  # fmt: skip
        monkeypatch.setattr(remixmatch, "draw_mixup", lambda count, alpha, like, d=drawn: (
            d.partner, d.weight))  # fmt: skip
        expected = step_by_loops(module, batch, state, drawn, ramp,
                                 "strong" if augment == "ctaugment" else "weak")  # fmt: skip
        wanted = torch.autograd.grad(expected, parameters)
        loss = module.training_step(batch, 0)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found = [p.grad for p in parameters]
        torch.testing.assert_close(found, list(wanted), rtol=1e-9, atol=1e-10)
        optimizer.step()
    window = torch.tensor(state.window, dtype=torch.float64)
    alignment: Any = module.imbalance
    torch.testing.assert_close(alignment.predicted.value, window.mean(0))
    assert alignment.predicted.value.std() > 1e-3
    occurring = torch.tensor(state.occurring, dtype=torch.float64)
    torch.testing.assert_close(alignment.occurring.value, occurring)
    if module.ctaugment is not None:
        assert len(state.rates) > 100
        for place, rate in state.rates.items():
            assert module.ctaugment.rates[place].item() == pytest.approx(rate, rel=1e-9)
        changed = (module.ctaugment.rates.abs() != 1).sum()
        assert changed == len(state.rates)


def test_only_the_mixed_images_move_running_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Alone(C, backbone="wrn_10_1", augment="ctaugment", alpha=0.0).double()
    module.average = [deepcopy(module)]
    other = deepcopy(module)
    monkeypatch.setattr(remixmatch, "ramp_up", lambda *_: 1.0)
    seen: list[int] = []
    module.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    batch = draw_batch(torch.Generator().manual_seed(0), 2, (3, 8, 8))
    teacher = deepcopy(module.teacher.state_dict())
    module.training_step(batch, 0)
    rows = B + 3 * U
    assert seen == [U, rows, U, U]  # guess, mixed, first strong view, turned
    x, u = batch.labeled.views, batch.unlabeled.views
    other(torch.cat([*x["strong"], *u["weak"], *u["strong"]]))
    for (name, one), two in zip(module.backbone.named_buffers(), other.backbone.buffers(),
                                strict=True):  # fmt: skip
        torch.testing.assert_close(one, two, msg=name)
        if name.endswith("num_batches_tracked"):
            assert one == 1
    for name, value in module.teacher.state_dict().items():
        assert torch.equal(value, teacher[name]), name
    assert not module.teacher.training  # asked in evaluation mode


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": "wrn_10_1"},
        {
            "backbone": "timm/vit_tiny_patch16_224",
            "backbone_args": {"depth": 2, "embed_dim": 24, "img_size": 32},
            "optimizer": Optimizer("adamw", layer_decay=0.5),
        },
    ],
)
def test_the_rotation_head_decays_as_in_the_original(network: Any) -> None:
    module = ReMixMatch(C, **network)
    decayed, rest, *layers = module.parameter_groups()
    parts = [id(p) for group in (decayed, rest, *layers) for p in group["params"]]
    assert sorted(parts) == sorted(id(p) for p in module.parameters())
    assert rest["weight_decay"] == 0
    inside = {id(p) for p in decayed["params"]}
    assert {id(module.rotation.weight), id(module.classifier.weight)} <= inside  # type: ignore
    assert all(p.ndim > 1 for p in decayed["params"])
    assert not any(p.ndim > 1 for p in rest["params"])


def test_average_and_checkpoint_hold_the_head_the_means_and_the_rates() -> None:
    each = ("--trainer.log_every_n_steps", "1")
    options = ("--model.augment", "ctaugment", "--model.ema_decay", "0.9")
    cli = fit("ReMixMatch", "a", 4, *options, *each)
    state = load("a")
    means = ("imbalance.predicted.window", "imbalance.occurring.value")
    for name in ("rotation.weight", "ctaugment.rates", *means):
        assert name in state["state_dict"]
        same = torch.equal(state["state_dict"][name], state["current_model_state"][name])
        assert same is (name != "rotation.weight")
    rates = state["state_dict"]["ctaugment.rates"]
    assert (rates[rates > 0] < 1).any()
    assert state["state_dict"]["imbalance.predicted.position"] == 4
    # From the labels of digits: two of each class.
    torch.testing.assert_close(
        state["state_dict"]["imbalance.occurring.value"], torch.full((10,), 0.1)
    )
    assert cli.trainer.callback_metrics["train/usable_bins"] == 1


def test_magnitudes_that_hide_the_class_fall_out() -> None:
    """An average that tells classes by brightness does not recognise an inverted image."""
    module = linear()
    nn.init.zeros_(module.teacher.classifier.weight)
    nn.init.zeros_(module.teacher.classifier.bias)
    with torch.no_grad():
        module.teacher.classifier.weight[0] = 10.0
    images = torch.full((1000, *SHAPE), 255, dtype=torch.uint8)
    views = Views({"labeled": {"probe": module.views["labeled"]["probe"]._replace(after=None)}}, 2)
    assert module.ctaugment is not None
    for step in range(10):
        view, drawn = views("labeled", images, step, dtype=torch.float64)
        samples = Samples(view, torch.zeros(1000, dtype=torch.int64), drawn=drawn)
        module._learn_magnitudes(samples)
    names = [op.name for op in OPERATIONS]
    weights = module.ctaugment.weights()
    inverted = weights[names.index("invert"), 0]
    assert (inverted[:5] > 0).all()
    assert not inverted[12:].any()
    # Of a uniform image a turn or a shift leaves most as it was.
    assert (weights[names.index("shear_x"), 0] > 0).all()


def test_without_what_the_probes_drew_is_an_error() -> None:
    module = linear()
    batch = draw_batch(torch.Generator().manual_seed(0), 2)
    with pytest.raises(ValueError, match=r"view 'probe' drew, .* got \(\)"):
        module._learn_magnitudes(batch.labeled._replace(drawn=None))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strong_views": 0}, r"`strong_views` must be at least 1, got 0"),
        ({"temperature": 0.0}, r"`temperature` must be above 0, got 0.0"),
        ({"temperature": math.nan}, r"`temperature` must be above 0, got nan"),
        ({"alpha": -1.0}, r"`alpha` must be at least 0, got -1"),
        ({"lambda_kl": -0.5}, r"`lambda_kl` must be at least 0, got -0.5"),
        ({"translation": "side"}, r"`translation` must be one of \('fraction', .*, got 'side'"),
        ({"augment": "auto"}, r"`augment` must be one of \('ctaugment', 'rand.*, got 'auto'"),
        (
            {"class_counts": [1, 2]},
            r"`class_counts` must be 3 numbers of at least 0, .*, got \[1, 2\]",
        ),
        ({"class_counts": [-1, 2, 2]}, r"of at least 0, one above 0, got \[-1, 2, 2\]"),
        ({"class_counts": [0, 0, 0]}, r"one above 0, got \[0, 0, 0\]"),
        (
            {"augment": "ctaugment", "ema_decay": 0.0},
            r"`ema_decay` must be in \(0, 1\) for ReMixMatch",
        ),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ReMixMatch(C, backbone="wrn_10_1", **options)


def test_a_temperature_above_one_is_allowed() -> None:
    assert ReMixMatch(3, temperature=2.0, backbone="wrn_10_1").temperature == 2


# Strong views, weight of the rotation, updates over which weights rise, network.
PUBLISHED = {
    "remixmatch": (8, 0.5, 16_384, "wrn_28_2"),
    "remixmatch_cifar10_40": (1, 2, 131_072, "wrn_28_2"),
    "remixmatch_svhn": (8, 0.5, 16_384, "wrn_28_2"),
    "remixmatch_svhn_40": (1, 3, 16_384, "wrn_28_2"),
    "remixmatch_stl10": (4, 0.5, 16_384, "wrn_37_2"),
    "remixmatch_usb": (2, 0.5, 16_384, "wrn_28_2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_have_the_published_values(name: str, printed: Any) -> None:
    config = printed(name)
    model, data = config["model"], config["data"]
    views, rotation, rise, backbone = PUBLISHED[name]
    assert (model["strong_views"], model["lambda_rotation"]) == (views, rotation)
    assert model["ramp"] * config["trainer"]["max_steps"] == rise
    assert config["trainer"]["max_steps"] == 2**20
    assert model["backbone"] == backbone
    same = ("lambda_u", "lambda_kl", "temperature", "alpha", "ema_decay")
    assert tuple(model[key] for key in same) == (1.5, 0.5, 0.5, 0.75, 0.999)
    assert (data["batch_size"], data["unlabeled_batch_size"]) == (64, 64)
    assert data["include_labeled"]
    optimizer = model["optimizer"]
    if name == "remixmatch_usb":
        values = (optimizer["name"], optimizer["lr"], optimizer["weight_decay"])
        assert values == ("sgd", 0.03, 5e-4)
        assert model["augment"] == "randaugment"
    else:
        assert optimizer["name"] == "adamw"
        assert optimizer["lr"] * optimizer["weight_decay"] == pytest.approx(4e-5)
        assert model["schedule"]["name"] == "constant"
        assert (model["augment"], model["translation"]) == ("ctaugment", "pixels")
        assert data["normalize"] == "symmetric"
