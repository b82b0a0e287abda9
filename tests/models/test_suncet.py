"""Checkpoints of the original PAWS code: every tensor lands where it must, misfits are named."""

import pytest
import torch
from torch import nn

from lightning_ssl.methods import Supervised
from lightning_ssl.models import (
    PredictionHead,
    ProjectionHead,
    build_backbone,
    load_weights,
)

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def batch_norm(key, width):
    return {f"{key}.{part}": () if part == "num_batches_tracked" else (width,) for part in BN}


def linear(key, outer, *inner):
    return {f"{key}.weight": (outer, *inner), f"{key}.bias": (outer,)}


def resnet50():
    shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    inner = 64
    for layer, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
        for block in range(blocks):
            name, outer = f"layer{layer}.{block}", 4 * width
            shapes[f"{name}.conv1.weight"] = (width, inner, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (outer, width, 1, 1)
            for norm, channels in (("bn1", width), ("bn2", width), ("bn3", outer)):
                shapes |= batch_norm(f"{name}.{norm}", channels)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (outer, inner, 1, 1)
                shapes |= batch_norm(f"{name}.downsample.1", outer)
            inner = outer
    return shapes


def wrn(blocks=4):
    shapes = {**linear("conv1", 16, 3, 3, 3), **batch_norm("bn1", 128)}
    inner = 16
    for layer, width in ((1, 32), (2, 64), (3, 128)):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            shapes |= batch_norm(f"{name}.bn1", inner) | batch_norm(f"{name}.bn2", width)
            shapes |= linear(f"{name}.conv1", width, inner, 3, 3)
            shapes |= linear(f"{name}.conv2", width, width, 3, 3)
            if block == 0:
                shapes |= linear(f"{name}.shortcut.0", width, inner, 1, 1)
            inner = width
    return shapes


def head(name, width, layers, out):
    """`fc1` and so on, `bn1` and so on between them."""
    shapes = {}
    for i in range(1, layers + 1):
        shapes |= linear(f"{name}.fc{i}", out if i == layers else width, width)
        shapes |= {} if i == layers else batch_norm(f"{name}.bn{i}", width)
    return shapes


def prediction(name, width, hidden):
    shapes = batch_norm(f"{name}.bn1", width) | linear(f"{name}.fc1", hidden, width)
    return shapes | batch_norm(f"{name}.bn2", hidden) | linear(f"{name}.fc2", width, hidden)


def fill(shapes):
    """Tensors that are told apart by their value; expanded, so that the file stays small."""
    return {
        key: torch.tensor(i) if key.endswith("tracked") else torch.tensor(float(i)).expand(shape)
        for i, (key, shape) in enumerate(shapes.items())
    }


def save(path, encoder, before="", **rest):
    """A file as suncet writes it, with what it holds beside the weights."""
    groups = [
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-6, "nesterov": False, "params": [0]},
        {"LARS_exclude": True, "weight_decay": 0, "initial_lr": 6.4, "params": [1]},
    ]
    others = {
        "opt": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": groups},
        **{"epoch": 100, "unlabel_prob": 0.9, "loss": -0.5, "s_batch_size": 7, "u_batch_size": 64},
        **{"world_size": 64, "lr": 6.4, "temperature": 0.1},
        "amp": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        **rest,
    }
    torch.save({"encoder": {before + key: v for key, v in encoder.items()}, **others}, path)


class Net(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def wrn_28_2(**heads):
    return Net(backbone=build_backbone("paws_wrn_28_2"), **heads)


def paws_resnet50():
    backbone, projection = build_backbone("resnet50"), ProjectionHead(2048, 2048)
    return Net(backbone=backbone, projection=projection, prediction=PredictionHead(2048))


PROJECTION_2020 = {
    "fc.0.weight": "projection.fc1.weight",
    "fc.0.bias": "projection.fc1.bias",
    "fc.2.weight": "projection.fc2.weight",
    "fc.2.bias": "projection.fc2.bias",
}

# Name: shapes in the file, number of keys, names of the heads' tensors here, the module they fit.
LAYOUTS = {
    "wrn": (
        lambda: wrn() | head("fc", 128, 3, 128),
        197,
        {"fc.": "projection."},
        lambda: wrn_28_2(projection=ProjectionHead(128, 128)),
    ),
    "wrn fine-tuned": (
        lambda: wrn() | head("fc", 128, 2, 10),
        190,
        {"fc.": "classifier."},
        lambda: Supervised(10, "mlp", backbone="paws_wrn_28_2"),
    ),
    "resnet": (
        lambda: resnet50() | head("fc", 2048, 3, 2048) | prediction("pred", 2048, 512),
        348,
        {"fc.": "projection.", "pred.": "prediction."},
        paws_resnet50,
    ),
    "resnet fine-tuned": (
        lambda: resnet50() | head("fc", 2048, 2, 1000),
        327,
        {"fc.": "classifier."},
        lambda: Supervised(1000, "mlp", backbone="resnet50"),
    ),
    "2020": (
        lambda: wrn() | linear("fc.0", 128, 128) | linear("fc.2", 64, 128),
        185,
        PROJECTION_2020,
        lambda: wrn_28_2(projection=ProjectionHead(128, 64, layers=2, norm="none")),
    ),
    "2020 fine-tuned": (
        lambda: wrn() | linear("fc", 10, 128),
        183,
        {"fc.": "classifier."},
        lambda: Supervised(10, backbone="paws_wrn_28_2"),
    ),
}


def here(key, names):
    for theirs, ours in names.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return f"backbone.{key}"


@pytest.mark.parametrize("before", ["", "module."])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_tensor_lands_where_it_must(layout, before, tmp_path):
    shapes, number, names, build = LAYOUTS[layout]
    encoder, module = fill(shapes()), build()
    assert len(encoder) == number
    save(tmp_path / "file", encoder, before)
    loaded = load_weights(module, tmp_path / "file")
    state = module.state_dict()
    assert set(loaded) == set(state) == {here(key, names) for key in encoder}
    for key, value in encoder.items():
        found = state[here(key, names)]
        assert found.shape == value.shape, key
        assert found.eq(value).all(), key


@pytest.mark.parametrize("amp", [None, {"loss_scaler0": {"loss_scale": 1.0, "unskipped": 2}}])
def test_what_else_a_file_holds_does_not_matter(amp, tmp_path):
    shapes, _, _, build = LAYOUTS["2020"]
    sched = {"last_epoch": 3, "_last_lr": [0.1, 0.1], "lr_lambdas": [{}, {}], "warmup_steps": 0}
    save(tmp_path / "file", fill(shapes()), amp=amp, sched=sched, best_top1_acc=0.0)
    load_weights(build(), tmp_path / "file")


def broken(change):
    shapes, _, _, build = LAYOUTS["wrn"]
    encoder = fill(shapes())
    change(encoder)
    return encoder, build()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda e: e.pop("fc.fc3.bias"), "missing in the file: projection.fc3.bias$"),
        (
            lambda e: e.pop("layer2.0.bn1.num_batches_tracked"),
            "missing in the file: backbone.layer2.0.bn1.num_batches_tracked$",
        ),
        (
            lambda e: e.update({"fc.fc3.weight": torch.zeros(64, 128)}),
            r"of another shape: projection.fc3.weight \(64, 128\) for \(128, 128\)$",
        ),
        (
            lambda e: e.update({"pred.fc1.bias": torch.zeros(2), "extra": torch.zeros(1)}),
            "unexpected in the file: prediction.fc1.bias, backbone.extra$",
        ),
        (
            lambda e: [e.pop("fc.fc3.weight"), e.pop("fc.fc3.bias")],
            "missing in the file: projection.fc3.weight, projection.fc3.bias$",
        ),
    ],
)
def test_misfits_are_named_and_nothing_is_loaded(change, line, tmp_path):
    encoder, module = broken(change)
    save(tmp_path / "file", encoder, "module.")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"do not fit Net.\n  {line}"):
        load_weights(module, tmp_path / "file")
    after = module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("pretrained", "name"),
    [(True, "wrn"), (True, "2020"), (False, "wrn fine-tuned"), (False, "2020 fine-tuned")],
)
def test_a_head_of_another_kind_is_a_misfit(pretrained, name, tmp_path):
    """A head of pre-training never passes for a classifier, nor the other way round."""
    shapes, *_ = LAYOUTS[name]
    save(tmp_path / "file", fill(shapes()))
    classifier, projection = nn.Linear(128, 10), ProjectionHead(128, 128)
    module = wrn_28_2(**({"classifier": classifier} if pretrained else {"projection": projection}))
    missing = "classifier.weight" if pretrained else "projection.fc1.weight"
    unexpected = "projection" if pretrained else "classifier"
    with pytest.raises(ValueError, match=f"(?s)missing .*{missing}.*unexpected .*{unexpected}"):
        load_weights(module, tmp_path / "file")


def test_adapt_decides_what_is_compared(tmp_path):
    shapes, *_ = LAYOUTS["wrn"]
    encoder = fill(shapes())
    save(tmp_path / "file", encoder)
    module = wrn_28_2()
    seen = {}

    def adapt(state):
        seen.update(state)
        return {key: value + 1 for key, value in state.items() if key.startswith("backbone.")}

    load_weights(module, tmp_path / "file", adapt=adapt)
    assert set(seen) == {here(key, {"fc.": "projection."}) for key in encoder}
    assert module.state_dict()["backbone.conv1.bias"].eq(encoder["conv1.bias"] + 1).all()
    # After the choice by prefix.
    seen.clear()
    load_weights(
        module.backbone, tmp_path / "file", prefix="backbone.", adapt=lambda s: seen.update(s) or s
    )
    assert set(seen) == {key for key in encoder if not key.startswith("fc.")}


@pytest.mark.parametrize("layout", ["wrn", "2020"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_supervised_starts_from_a_pretraining(layout, kind, tmp_path):
    shapes, *_ = LAYOUTS[layout]
    encoder = fill(shapes())
    save(tmp_path / "file", encoder, "module.")
    module = Supervised(10, kind, backbone="paws_wrn_28_2")
    with torch.no_grad():  # a mark of what is kept
        last = module.classifier.fc2 if kind == "mlp" else module.classifier
        last.weight.fill_(0.25)
        last.bias.fill_(0.5)
    if (layout, kind) == ("2020", "mlp"):  # it has no BatchNorm to take over
        with pytest.raises(ValueError, match=r"missing .* classifier.bn1.weight, .*tracked$"):
            load_weights(module, tmp_path / "file", adapt=module.adapt_weights)
        return
    loaded = load_weights(module, tmp_path / "file", adapt=module.adapt_weights)
    state = module.state_dict()
    assert set(loaded) == set(state)
    assert last.weight.eq(0.25).all()
    assert last.bias.eq(0.5).all()
    taken = ("fc.fc1.", "fc.bn1.") if kind == "mlp" else ()
    for key, value in encoder.items():
        if key.startswith(taken) or not key.startswith("fc."):
            assert state[here(key, {"fc.": "classifier."})].eq(value).all(), key


def test_supervised_names_what_a_pretraining_lacks(tmp_path):
    shapes, *_ = LAYOUTS["wrn"]
    encoder = fill(shapes())
    del encoder["layer3.1.conv2.weight"], encoder["fc.fc1.bias"]
    encoder["rotation.weight"] = torch.zeros(4, 128)
    save(tmp_path / "file", encoder)
    module = Supervised(10, "mlp", backbone="paws_wrn_28_2")
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_weights(module, tmp_path / "file", adapt=module.adapt_weights)
    missing, unexpected = str(caught.value).splitlines()[1:]
    assert missing.split(": ")[1] == "backbone.layer3.1.conv2.weight, classifier.fc1.bias"
    assert unexpected.split(": ")[1] == "backbone.rotation.weight"


def test_only_a_pretraining_is_adapted():
    module = Supervised(10, "mlp", backbone="paws_wrn_10_1")
    head = {"projection.fc1.bias": torch.ones(64), "prediction.fc1.bias": torch.ones(2)}
    other = {"rotation.bias": torch.ones(4)}
    adapted = module.adapt_weights(head | other)
    fresh = {f"classifier.fc2.{name}" for name in ("weight", "bias")}
    # What is no head of a pre-training stays, to be named as unexpected.
    assert set(adapted) == {"classifier.fc1.bias", "rotation.bias", *fresh}
    for state in (other, head | {"classifier.weight": torch.ones(3)}):
        assert module.adapt_weights(state) == state
