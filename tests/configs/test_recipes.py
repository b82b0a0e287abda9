"""The configs of the PAWS family against the numbers that facebookresearch/suncet ships."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from lightning_ssl.data.orders import Stratified
from lightning_ssl.data.plan import Plan
from lightning_ssl.optim import Schedule, multiplier

CIFAR, IMAGENET = 50_000, 1_281_167
LABELED = {"cifar10": 4_000, "imagenet": 128_116}  # lines of suncet's lists


@dataclass(frozen=True)
class Shipped:
    """A run in the terms of the original, which counts the images of one process."""

    images: int  # that an epoch passes over
    processes: int
    epochs: int
    warmup: int
    start: float
    rate: float
    final: float
    classes: int | None = None
    per_class: int = 0
    labeled: int = 0  # where a batch is not made of classes
    unlabeled: int | None = None
    unique: bool = False
    decay: float = 1e-6
    model: dict[str, Any] = field(default_factory=dict)
    label_fraction: float | None = 0.1

    @property
    def steps(self) -> int:
        """Steps of an epoch: each process drops what does not fill its last batch."""
        own = -(-self.images // self.processes)
        # An epoch of the fine-tuning by classes visits every class in every step.
        size = self.unlabeled or self.labeled or self.per_class * (self.classes or 0)
        return own // size


_PAWS = {
    "me_max": True,
    "global_views": 2,
    "local_views": 6,
    "temperature": 0.1,
    "sharpening": 0.25,
    "label_smoothing": 0.1,
    "head_args": None,
}
_CIFAR = {"backbone": "paws_wrn_28_2", "output_dim": 128, "prediction_head": False}
_IMAGENET = {"backbone": "resnet50", "output_dim": 2048}
PAWS_CIFAR = Shipped(
    *(CIFAR, 1, 600, 10, 0.8, 3.2, 0.032),
    classes=10,
    per_class=64,
    unlabeled=256,
    label_fraction=None,
    model=_CIFAR | _PAWS | {"support_views": 2},
)
PAWS_IMAGENET = Shipped(
    *(IMAGENET, 64, 100, 10, 0.3, 6.4, 0.064),
    classes=15,
    per_class=7,
    unlabeled=64,
    unique=True,
    model=_IMAGENET | _PAWS | {"support_views": 1, "prediction_head": True},
)
SIMCLR_CT = Shipped(
    *(IMAGENET, 64, 100, 10, 0.6, 4.8, 0.048),
    classes=20,
    per_class=2,
    unlabeled=44,
    model=_IMAGENET
    | {"prediction_head": False, "head_args": None, "temperature": 0.1}
    | {"supervised_updates": None, "detach_keys": True},
)
SUNCET = Shipped(
    *(LABELED["cifar10"], 1, 30, 0, 0.1, 0.1, 0.01),
    classes=10,
    per_class=64,
    decay=0.0,
    label_fraction=None,
    model=_CIFAR | {"temperature": 0.1, "view": "basic", "copies": 2, "freeze_norm": True},
)
FINETUNE = Shipped(
    *(LABELED["imagenet"], 4, 50, 0, 0.02, 0.02, 0.0),
    labeled=256,
    decay=0.0,
    model={"backbone": "resnet50", "head": "mlp", "freeze_backbone": False},
)
_ROPAWS = {"prior_power": 1.0, "prior_temperature": 3.0}
SHIPPED = {
    "paws": PAWS_CIFAR,
    "paws_cifar10": PAWS_CIFAR,
    "paws_imagenet": PAWS_IMAGENET,
    "simclr_ct_imagenet": SIMCLR_CT,
    "suncet": SUNCET,
    "suncet_cifar10": SUNCET,
    "paws_imagenet_finetune": FINETUNE,
    "ropaws": replace(PAWS_CIFAR, model=PAWS_CIFAR.model | _ROPAWS | {"prior_temperature": 0.1}),
    "ropaws_imagenet": replace(PAWS_IMAGENET, epochs=300, model=PAWS_IMAGENET.model | _ROPAWS),
}
METHODS = ("paws", "ropaws", "suncet")  # configs without data
UPDATES = {  # of the run and of its warm-up
    "paws": (117_000, 1_950),
    "paws_cifar10": (117_000, 1_950),
    "paws_imagenet": (31_200, 3_120),
    "simclr_ct_imagenet": (45_400, 4_540),
    "suncet": (180, 0),
    "suncet_cifar10": (180, 0),
    "paws_imagenet_finetune": (6_250, 0),
    "ropaws": (117_000, 1_950),
    "ropaws_imagenet": (93_600, 3_120),
}
each_shipped = pytest.mark.parametrize("name", SHIPPED)


def rate(config: dict[str, Any], step: int) -> float:
    """Learning rate of an update."""
    schedule = Schedule(**config["model"]["schedule"])
    fraction = multiplier(step, config["trainer"]["max_steps"], schedule)
    return float(config["model"]["optimizer"]["lr"] * fraction)


def different(first: Any, second: Any, path: str = "") -> set[str]:
    """Names of the options in which two configs differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {
            name
            for key in {*first, *second}
            for name in different(first.get(key), second.get(key), f"{path}.{key}".strip("."))
        }
    return set() if first == second else {path}


@each_shipped
def test_sizes(name: str, printed: Any) -> None:
    shipped, data = SHIPPED[name], printed(name)["data"]
    ranks = shipped.processes
    if shipped.classes is None:
        assert data["batch_size"] == shipped.labeled * ranks
    else:
        classes = shipped.classes * (ranks if shipped.unique else 1)
        # All classes of CIFAR-10 need not be counted.
        assert (data["classes_per_batch"] or 10) == classes
        assert data["batch_size"] == shipped.classes * shipped.per_class * ranks
    assert data["unique_classes_per_rank"] is shipped.unique
    assert data["labeled_order"] is None
    assert data["label_fraction"] == shipped.label_fraction
    assert data["val_per_class"] == 0
    assert data["include_labeled"]
    assert data["views"] is None
    if shipped.unlabeled is not None:
        assert data["unlabeled_batch_size"] == shipped.unlabeled * ranks
        assert data["steps_per_epoch"] == "unlabeled"
        assert shipped.images // data["unlabeled_batch_size"] == shipped.steps
    else:
        assert data["steps_per_epoch"] == "labeled"
        assert shipped.images // data["batch_size"] == shipped.steps


@pytest.mark.parametrize("name", [n for n, shipped in SHIPPED.items() if shipped.classes])
def test_support_of_each_process(name: str, printed: Any) -> None:
    shipped, data = SHIPPED[name], printed(name)["data"]
    assert shipped.classes is not None
    classes, images = (10, 400) if shipped.images <= CIFAR else (1000, 128)
    targets = torch.arange(classes).repeat(images)
    options = {key: data[key] for key in ("classes_per_batch", "unique_classes_per_rank")}
    order = Stratified(targets, data["batch_size"], 0, "labeled", **options)
    for rank in range(0, shipped.processes, 21):
        plan = Plan(order, None, rank=rank, world_size=shipped.processes)
        rows = plan(3).labeled
        assert rows is not None
        counts = targets[rows].bincount(minlength=classes)
        assert counts.unique().tolist() in ([0, shipped.per_class], [shipped.per_class])
        assert counts.count_nonzero() == shipped.classes
        assert len(rows.unique()) == len(rows)


@each_shipped
def test_updates_and_rates(name: str, printed: Any) -> None:
    shipped, config = SHIPPED[name], printed(name)
    updates, warmup = UPDATES[name]
    assert updates == shipped.epochs * shipped.steps
    assert warmup == shipped.warmup * shipped.steps
    assert config["trainer"]["max_steps"] == updates
    assert config["trainer"]["accumulate_grad_batches"] == 1
    assert config["model"]["schedule"]["warmup"] == warmup
    assert config["model"]["schedule"]["name"] == "cosine"
    assert rate(config, 0) == pytest.approx(shipped.start, rel=1e-12)
    assert rate(config, warmup) == pytest.approx(shipped.rate, rel=1e-12)
    assert rate(config, updates) == pytest.approx(shipped.final, rel=1e-12, abs=1e-12)
    middle = (shipped.rate + shipped.final) / 2
    assert rate(config, (warmup + updates) // 2) == pytest.approx(middle, rel=1e-12)
    # Validation falls on ends of epochs.
    assert config["trainer"]["val_check_interval"] % shipped.steps == 0


@each_shipped
def test_model_and_optimizer(name: str, printed: Any) -> None:
    shipped, config = SHIPPED[name], printed(name)
    model = config["model"]
    assert {key: model[key] for key in shipped.model} == shipped.model
    assert model["ema_decay"] == 0
    optimizer = {
        **{"momentum": 0.9, "weight_decay": shipped.decay, "weight_decay_end": None},
        **{"lr": shipped.rate, "name": "lars", "nesterov": False, "lr_in_momentum": True},
        **{"layer_decay": None, "shortcut_norms": False},
    }
    if name == "paws_imagenet_finetune":
        optimizer |= {"name": "sgd", "nesterov": True, "lr_in_momentum": False}
    assert model["optimizer"] == optimizer


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in METHODS])
def test_how_recipes_run(name: str, printed: Any) -> None:
    trainer, ranks = printed(name)["trainer"], SHIPPED[name].processes
    assert trainer["precision"] == "16-mixed"
    assert trainer["strategy"] == ("auto" if ranks == 1 else "ddp")
    # The original synchronises BatchNorm while pre-training on several GPUs, not while fine-tuning.
    assert trainer["sync_batchnorm"] is (ranks == 64)


@pytest.mark.parametrize("name", ["paws_cifar10", "suncet_cifar10"])
def test_pixels_on_cifar10(name: str, printed: Any) -> None:
    data = printed(name)["data"]
    assert data["std"] == [0.2023, 0.1994, 0.2010]
    assert data["mean"] is None  # the package's is that of the original
    assert data["num_labels"] == LABELED["cifar10"]


def test_the_last_norm(printed: Any) -> None:
    assert printed("paws_cifar10")["model"]["backbone_args"] == {"final_bn_momentum": 0.99}
    assert printed("paws")["model"]["backbone_args"] is None


def test_rates_between(printed: Any) -> None:
    config = printed("paws_cifar10")
    for step, value in ((0, 0.8), (1949, 3.198769), (1950, 3.2), (60_000, 1.593293)):
        assert rate(config, step) == pytest.approx(value, abs=1e-6)
    assert rate(config, 116_999) == pytest.approx(0.032, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "updates", "end"),
    [
        ("paws_imagenet", 31_200, 0.305),
        ("paws_imagenet", 93_600, 0.0839),
        ("paws_cifar10", 117_000, 0.0343),
    ],
)
def test_the_schedule_before_its_correction(
    name: str, updates: int, end: float, printed: Any
) -> None:
    early = ("--model.schedule.name", "cosine_early", "--trainer.max_steps", str(updates))
    config = printed(name, *early)
    assert rate(config, updates - 1) == pytest.approx(end, rel=5e-3)
    lowest = config["model"]["optimizer"]["lr"] * config["model"]["schedule"]["final"]
    assert rate(config, updates - config["model"]["schedule"]["warmup"]) == pytest.approx(lowest)


@pytest.mark.parametrize(
    ("name", "own", "ratio"),
    [("ropaws", 256, 5 * 256 / 64), ("ropaws_imagenet", 64, 5 * 64 / 7)],
)
def test_ratio_of_ropaws(name: str, own: int, ratio: float, printed: Any) -> None:
    """The original takes the unlabelled images of one process and the images of one class."""
    config, shipped = printed(name), SHIPPED[name]
    assert shipped.unlabeled == own
    support = config["data"]["batch_size"] * config["model"]["support_views"]
    here = config["model"]["label_ratio"] * config["data"]["unlabeled_batch_size"] / support
    assert here == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "like", "options"),
    [
        (
            "paws_cifar10",
            "paws",
            {"model.backbone_args", "data.std", "trainer.precision"},
        ),
        ("suncet_cifar10", "suncet", {"data.std", "trainer.precision"}),
        ("ropaws", "paws", {"class", "model.label_ratio"}),
        ("ropaws_imagenet", "paws_imagenet", {"class", "model.label_ratio", "trainer.max_steps"}),
        (
            "paws_tf_cifar10",
            "paws",
            {
                *("model.optimizer.weight_decay", "model.schedule.final", "model.schedule.warmup"),
                *("trainer.max_steps", "trainer.val_check_interval"),
            },
        ),
        (
            "paws_imagenet_1gpu",
            "paws_imagenet",
            {
                *("data.batch_size", "data.unlabeled_batch_size", "data.unique_classes_per_rank"),
                *("model.optimizer.lr", "model.schedule.warmup", "trainer.max_steps"),
                *("trainer.val_check_interval", "trainer.strategy", "trainer.sync_batchnorm"),
            },
        ),
        (
            "simclr_ct_imagenet_1gpu",
            "simclr_ct_imagenet",
            {
                *("data.batch_size", "data.unlabeled_batch_size"),
                *("model.optimizer.lr", "model.schedule.warmup", "trainer.max_steps"),
                *("trainer.val_check_interval", "trainer.strategy", "trainer.sync_batchnorm"),
            },
        ),
        (
            "paws_imagenet_vit",
            "paws_imagenet",
            {
                *("model.backbone", "model.backbone_args", "model.output_dim", "model.head_args"),
                *("model.optimizer.name", "model.optimizer.lr", "model.optimizer.nesterov"),
                *("model.optimizer.weight_decay", "model.optimizer.weight_decay_end"),
                *("model.optimizer.lr_in_momentum", "model.schedule.warmup"),
                *("model.schedule.warmup_start", "model.schedule.final"),
                *("data.unlabeled_batch_size", "trainer.max_steps", "trainer.val_check_interval"),
            },
        ),
    ],
)
def test_recipes_change_only_this(name: str, like: str, options: set[str], printed: Any) -> None:
    first, second = printed(name), printed(like)
    own = {"model.prior_temperature", "model.prior_power"}  # RoPAWS has them, PAWS has not
    assert different(first, second) - own == options


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("paws_imagenet_1gpu", 100), ("simclr_ct_imagenet_1gpu", 100), ("paws_imagenet_vit", 100)],
)
def test_length_of_other_recipes(name: str, epochs: int, printed: Any) -> None:
    config = printed(name)
    steps = IMAGENET // config["data"]["unlabeled_batch_size"]
    assert config["trainer"]["max_steps"] == epochs * steps
    assert config["model"]["schedule"]["warmup"] == 10 * steps
    assert config["data"]["batch_size"] % config["data"]["classes_per_batch"] == 0


def test_values_of_the_others(printed: Any) -> None:
    vit = printed("paws_imagenet_vit")
    assert rate(vit, 0) == pytest.approx(2e-4)
    assert rate(vit, 12_510) == pytest.approx(1e-3)
    assert rate(vit, 125_100) == pytest.approx(1e-6)
    decay = ("weight_decay", "weight_decay_end")
    assert [vit["model"]["optimizer"][name] for name in decay] == [0.04, 0.4]
    tf = printed("paws_tf_cifar10")
    assert tf["trainer"]["max_steps"] == 50 * 195
    assert [rate(tf, step) for step in (0, 975, 9_750)] == pytest.approx([0.8, 3.2, 0])
