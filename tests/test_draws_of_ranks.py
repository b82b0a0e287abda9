"""What each process draws for its own images: two processes against both slices on one."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor

from lightning_ssl import methods
from lightning_ssl.data import SSLDataModule, open_source
from lightning_ssl.optim import Optimizer, Schedule
from lightning_ssl.seeding import derive_seed
from lightning_ssl.state import adaptive_thresholds, averages

UPDATES, RATE, SEED = 3, 0.005, 5
# A network that has learnt nothing is not sure of much.
UNSURE = {"threshold": 0.28}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MixMatch": ("MixMatch", {"ramp": 0}),
    "ReMixMatch": ("ReMixMatch", {"ramp": 0}),
    "RegMixMatch": ("RegMixMatch", {"mix_threshold": 0.28}),
    "LogitAdjustment": ("FixMatch", UNSURE | {"imbalance": "LogitAdjustment"}),
    "ProgressiveAlignment": ("FixMatch", UNSURE | {"imbalance": "ProgressiveAlignment"}),
    "ABCHead": ("FixMatch", UNSURE | {"imbalance": "ABCHead", "imbalance_args": UNSURE}),
}


def build(name: str) -> tuple[Any, SSLDataModule]:
    """A method and digits of which some classes have few labels."""
    seed_everything(SEED, verbose=False)
    data = SSLDataModule.from_source(
        open_source("digits"), labels_per_class=12, imbalance_ratio=12, val_per_class=0,
        batch_size=8, unlabeled_batch_size=16,
    )  # fmt: skip
    method, options = METHODS[name]
    if method in ("FixMatch", "ReMixMatch"):
        options = options | {"class_counts": data.class_counts}
    plain = Optimizer("sgd", RATE, weight_decay=0, momentum=0, nesterov=False)
    module = getattr(methods, method)(
        10, backbone="wrn_10_1", backbone_args={"norm": "none"}, ema_decay=0, optimizer=plain,
        schedule=Schedule("constant"), **options,
    )  # fmt: skip
    return module, data


class Keep(Callback):
    """What a process sees and what it makes of it."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        self.batches.append(batch)
        self.losses.append(outputs["loss"].detach())


def _fit(name: str) -> tuple[list[Any], list[Tensor], dict[str, Tensor]]:
    module, data = build(name)
    keep = Keep()
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        max_steps=UPDATES, limit_val_batches=0, accelerator="cpu", strategy="ddp", devices=2,
        precision="64-true", callbacks=[keep], **dict.fromkeys(quiet, False),
    )  # fmt: skip
    trainer.fit(module, data)
    return keep.batches, keep.losses, module.state_dict()


class Talk:
    """Means over processes that take turns: each is asked again until it hears the means."""

    def __init__(self) -> None:
        self.said: list[Tensor] = []
        self.agreed: list[Tensor] = []

    def mean(self, values: Tensor) -> Tensor:
        """Say something, and hear what both said on average, where that is known."""
        place = len(self.said)
        self.said.append(values.detach())
        if place >= len(self.agreed):
            return values
        return values + (self.agreed[place] - values).detach()


def step_on_one(module: Any, batches: list[Any], step: int, talk: Talk) -> list[Tensor]:
    """Losses of both slices, of which each has its draws, and an update by the mean gradient."""
    state, parameters = deepcopy(module.state_dict()), list(module.parameters())
    talk.agreed, known = [], False
    while not known:
        losses, said = [], []
        total = [torch.zeros_like(p) for p in parameters]
        for rank, batch in enumerate(batches):
            module.load_state_dict(state)
            module._trainer = SimpleNamespace(
                global_step=step, global_rank=rank, estimated_stepping_batches=UPDATES,
                log_every_n_steps=0,
            )  # fmt: skip
            talk.said = []
            torch.manual_seed(derive_seed(SEED, "step", step, rank))
            loss = module.training_step(batch, step)
            slopes = torch.autograd.grad(loss, parameters)
            total = [t + slope for t, slope in zip(total, slopes, strict=True)]
            losses.append(loss.detach())
            said.append(talk.said)
        agreed = [(one + two) / 2 for one, two in zip(*said, strict=True)]
        known = len(agreed) == len(talk.agreed) and all(map(torch.equal, agreed, talk.agreed))
        talk.agreed = agreed
    with torch.no_grad():
        for parameter, slope in zip(parameters, total, strict=True):
            parameter -= RATE * slope / 2
    return losses


@pytest.mark.ddp
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_equal_their_slices(
    name: str, two_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batches, losses, one), (other_batches, other_losses, two) = two_ranks.run(_fit, name)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key

    module, talk = build(name)[0].double(), Talk()
    for user in (averages, adaptive_thresholds):
        monkeypatch.setattr(user, "mean_over_ranks", talk.mean)
    parts: dict[str, list[float]] = {}

    def log_losses(loss: Tensor, **losses: Tensor) -> None:
        for part, value in losses.items():
            parts.setdefault(part, []).append(value.item())

    module.log_losses = log_losses
    module.log = module.log_dict = lambda *args, **kwargs: None
    exact = {"rtol": 1e-10, "atol": 1e-10}
    for step in range(UPDATES):
        wanted = step_on_one(module, [batches[step], other_batches[step]], step, talk)
        torch.testing.assert_close([losses[step], other_losses[step]], wanted, **exact)
        assert wanted[0] != wanted[1]
    for key, value in module.state_dict().items():
        torch.testing.assert_close(one[key], value, **exact, msg=key)
    assert all(any(values) for values in parts.values()), parts
