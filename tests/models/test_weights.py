"""Warm starts: what loads, what is named, and that an error changes nothing."""

import collections
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_ssl.models import load_weights


def net(classes=3):
    module = nn.Sequential()
    module.add_module("backbone", nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    module.add_module("head", nn.Linear(5, classes))
    return module


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.ckpt"


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_everything_fits(path, wrap, before):
    source, target = net(), net()
    torch.save(wrap({before + key: value for key, value in source.state_dict().items()}), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_weights(target, path)
    assert loaded == list(target.state_dict())
    assert same(snapshot(source), snapshot(target))


def test_prefix_selects_a_part(path):
    source, target = net(), net().backbone
    torch.save(source.state_dict(), path)
    load_weights(target, str(path), prefix="backbone.")
    assert same(snapshot(source.backbone), snapshot(target))


def misfit(path):
    """A file with one missing, one unexpected and two mismatched tensors."""
    state = dict(net(classes=7).state_dict())
    del state["backbone.0.bias"]
    state["rotation.weight"] = torch.zeros(4, 5)
    torch.save({"state_dict": state}, path)
    return state


def test_strict_names_everything_and_loads_nothing(path):
    misfit(path)
    target = net()
    before = snapshot(target)
    with pytest.raises(ValueError, match="do not fit Sequential") as caught:
        load_weights(target, path)
    text = str(caught.value)
    assert str(path) in text
    assert "missing in the file: backbone.0.bias\n" in text
    assert "unexpected in the file: rotation.weight\n" in text
    assert "head.weight (7, 5) for (3, 5), head.bias (7,) for (3,)" in text
    assert same(before, snapshot(target))


def test_not_strict_loads_what_fits_and_warns(path):
    state = misfit(path)
    target = net()
    before = snapshot(target)
    with pytest.warns(UserWarning, match=r"(?s)Loaded 6 of 9 .*rotation.weight"):
        loaded = load_weights(target, path, strict=False)
    after = snapshot(target)
    for key in after:
        assert torch.equal(after[key], (state if key in loaded else before)[key])
    assert len(loaded) == 6


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_fits(path, strict):
    torch.save({"other.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"(?s)Nothing in `weights` .*other.weight"):
        load_weights(net(), path, strict=strict)
    torch.save(net().state_dict(), path)
    with pytest.raises(ValueError, match="Nothing in `weights`"):
        load_weights(net(), path, strict=strict, prefix="encoder.")


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match=f"`weights` must be .*{path.name}"):
        load_weights(net(), path)
    with pytest.raises(FileNotFoundError, match="`weights` must be"):
        load_weights(net(), path.parent)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 torn"])
def test_no_checkpoint(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"`weights` must be a checkpoint .*{path.name}"):
        load_weights(net(), path)


def test_torn_checkpoint(path):
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=f"`weights` must be a checkpoint .*{path.name}"):
        load_weights(net(), path)


def test_checkpoint_with_code_is_refused(path):
    torch.save({"state_dict": net().state_dict(), "other": collections.ChainMap()}, path)
    with pytest.raises(ValueError, match="weights_only=True"):
        load_weights(net(), path)


@pytest.mark.parametrize("content", [[1, 2], {"encoder": {}, "epoch": 3}, {"state_dict": 4}])
def test_file_without_weights(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match="with a 'state_dict' or an 'encoder', or a state"):
        load_weights(net(), path)


class Method(nn.Module):
    """A network of timm's and a head, as methods have them."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("test_resnet", num_classes=0)
        self.classifier = nn.Linear(self.backbone.num_features, 3)


def published(kind):
    """Weights of a whole network, as people have them."""
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    wraps = {
        "timm": state,
        "model": {"model": state, "epoch": 3},
        "parallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "dino": {
            "student": {f"module.{key}": value + 1 for key, value in state.items()},
            "teacher": state,
        },
    }
    return state, wraps.get(kind, state)


@pytest.mark.parametrize("kind", ["timm", "model", "parallel", "dino", "safetensors"])
def test_a_network_alone_goes_to_the_backbone(path, kind):
    state, content = published(kind)
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    target = Method()
    head = snapshot(target.classifier)
    with pytest.warns(UserWarning, match=r"unexpected in the file: backbone.fc.") as caught:
        loaded = load_weights(target, path)
    assert len(str(caught[0].message).splitlines()) == 2
    assert all(torch.equal(target.state_dict()[key], state[key[9:]]) for key in loaded)
    assert len(loaded) == len(target.backbone.state_dict())
    assert same(head, snapshot(target.classifier))


def test_a_network_that_lacks_something_is_an_error_of_counts_and_five_names(path):
    state, _ = published("timm")
    torch.save({key: value for key, value in state.items() if "layer1" not in key}, path)
    target = Method()
    before = snapshot(target)
    missing = [key for key in state if "layer1" in key]
    with pytest.raises(ValueError, match="do not fit Method") as caught:
        load_weights(target, path)
    named = ", ".join(f"backbone.{key}" for key in missing[:5])
    assert f"missing in the file: {named} and {len(missing) - 5} more\n" in str(caught.value)
    assert same(before, snapshot(target))
    with pytest.warns(UserWarning, match="Loaded"):
        load_weights(target, path, strict=False)
    assert not same(before, snapshot(target))


def test_torn_safetensors(path):
    save_file(dict(net().state_dict()), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=f"`weights` must be .*safetensors, got .*{path.name}"):
        load_weights(net(), path)
