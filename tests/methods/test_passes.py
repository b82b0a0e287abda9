"""Which images a step sends through the network together, and what BatchNorm makes of them."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from lightning_ssl import methods
from lightning_ssl.methods.families.teacher import TeacherModule
from lightning_ssl.types import Batch, Samples

from steps import at_update

B, U = 3, 5
Pass = tuple[int, bool, bool]


def learns(rows: int) -> Pass:
    """Normalised by the batch, whose statistics are kept for evaluation."""
    return rows, True, True


def asks(rows: int) -> Pass:
    """Normalised by the batch, which leaves no trace."""
    return rows, True, False


def adversary(rows: int) -> list[Pass]:
    """The clean prediction, the search for a direction and what was found."""
    return [asks(rows)] * 3


def record(network: Any) -> list[Pass]:
    """Rows, training mode and running statistics of all passes through a backbone from now on."""
    seen: list[Pass] = []
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    network.backbone.register_forward_hook(
        lambda _, args, __: seen.append((len(args[0]), norm.training, norm.track_running_stats))
    )
    return seen


def step(module: Any) -> None:
    """A training step on noise."""
    at_update(module, 0)
    module._trainer.estimated_stepping_batches, module._trainer.world_size = 10, 1
    module.log = module.log_dict = lambda *args, **kwargs: None

    def samples(stream: str, count: int, target: Any) -> Samples:
        copies = module.views.get(stream, {})
        views = {name: torch.randn(k, count, 3, 16, 16) for name, k in copies.items()}
        return Samples(views, target, index=torch.arange(count))

    module.training_step(
        Batch(0, samples("labeled", B, torch.arange(B)), samples("unlabeled", U, None)), 0
    )


TOGETHER = learns(B + 2 * U)

PASSES: list[tuple[str, dict[str, Any], list[Pass]]] = [
    ("Supervised", {}, [learns(B)]),
    ("FixMatch", {}, [TOGETHER]),
    ("FixMatch", {"separate_weak": True}, [asks(U), learns(B + U)]),
    ("FlexMatch", {"num_unlabeled": U}, [TOGETHER]),
    ("FreeMatch", {}, [TOGETHER]),
    ("SoftMatch", {}, [TOGETHER]),
    ("UDA", {}, [TOGETHER]),
    ("ReFixMatch", {}, [TOGETHER]),
    ("Dash", {"warmup": 0.0}, [TOGETHER]),
    ("Dash", {"warmup": 0.5}, [learns(B)]),
    ("AdaMatch", {}, [learns(2 * B + 2 * U), asks(2 * B)]),
    ("AdaMatch", {"simple": True}, [TOGETHER]),
    ("RegMixMatch", {}, [TOGETHER, learns(U)]),
    ("DeFixMatch", {}, [learns(2 * B + 2 * U)]),
    ("SequenceMatch", {"num_unlabeled": U}, [learns(B + 3 * U)]),
    ("CoMatch", {"bank_size": 4}, [learns(B + 3 * U)]),
    ("SimMatch", {"num_labeled": B}, [TOGETHER]),
    ("CRMatch", {"image_side": 16}, [learns(B + 2 * U + 4 * U)]),
    ("PiModel", {}, [TOGETHER]),
    ("PseudoLabel", {}, [learns(B + U)]),
    ("MeanTeacher", {}, [learns(B + U)]),
    ("VAT", {}, [learns(B + U), *adversary(B + U)]),
    ("MixMatch", {}, [asks(2 * U), TOGETHER]),
    ("ReMixMatch", {}, [asks(U), learns(B + 3 * U), asks(U), asks(U)]),
    ("S4LRotation", {}, [learns(4 * (B + U))]),
    ("S4LExemplar", {}, [learns(4 * (B + U))]),
    ("PAWS", {"local_views": 3}, [learns(2 * B + 2 * U), learns(3 * U)]),
    ("RoPAWS", {}, [learns(2 * B + 2 * U)]),
    ("SuNCEt", {}, [learns(2 * B)]),
    ("SimCLR", {}, [learns(2 * U)]),
    ("SimCLRCT", {}, [learns(B + 2 * U)]),
    ("VMFSNE", {"perplexity": 4, "local_views": 3}, [learns(2 * U), learns(3 * U)]),
    ("MOAM", {}, [learns(4 * (B + U)), *adversary(4 * U)]),
]


@pytest.mark.parametrize(("name", "options", "passes"), PASSES)
def test_batchnorm_sees_what_it_shall(
    name: str, options: dict[str, Any], passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = getattr(methods, name)(4, backbone="wrn_10_1", **options)
    teacher = deepcopy(module)
    monkeypatch.setattr(TeacherModule, "teacher", teacher)
    seen, taught = record(module), record(teacher)
    step(module)
    assert seen == passes
    assert taught == ([asks(U)] if name == "MeanTeacher" else [])


def test_every_method_is_here() -> None:
    assert {name for name, *_ in PASSES} | {"SSLModule"} == set(methods.__all__)
