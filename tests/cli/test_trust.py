"""A checkpoint of a stranger: it runs no code, and fetches nothing."""

import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_ssl.cli import main
from lightning_ssl.cli.checkpoint import known_to_checkpoint
from lightning_ssl.cli.trust import WorkingFolder
from lightning_ssl.commands.restore import restore
from lightning_ssl.data import SSLDataModule
from lightning_ssl.methods import FixMatch, Supervised

from runs import fit

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
OPTIONS, DATA = "hyper_parameters", "datamodule_hyper_parameters"
EVIL = """
open("ran", "w").close()
from lightning_ssl.methods import FixMatch
class Evil(FixMatch): pass
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run of one update."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit("FixMatch", str(folder), 1)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def forge(finished: Path) -> Iterator[Callable[..., None]]:
    """Write `it.ckpt` with other entries, beside code that leaves the file `ran` when it runs."""
    for name in ("evil.py", "evil/inner.py", "space/evil.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(EVIL)
    Path("evil.yaml").write_text("class_path: evil.Evil\n")
    path = list(sys.path)

    def write(group: str | None = None, **entries: Any) -> None:
        content = torch.load(finished, weights_only=True)
        (content if group is None else content[group]).update(entries)
        torch.save(content, "it.ckpt")

    yield write
    sys.path[:] = path
    for name in ("evil", "evil.inner", "space", "space.evil"):
        sys.modules.pop(name, None)


class Pickled:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, ("ran", "w"))


NESTED = {"a": {"class_path": "evil.Evil"}}
FOREIGN: list[tuple[str | None, str, Any, str]] = [
    (None, "method", "evil.Evil", "give --model evil.Evil"),
    (None, "method", "evil.inner.Evil", "give --model evil.inner.Evil"),
    (None, "method", "space.evil.Evil", "give --model space.evil.Evil"),
    (None, "method", "no_such.Method", "which cannot be found"),
    (None, "method", "subprocess.Popen", "subprocess.Popen"),
    (OPTIONS, "optimizer", "evil.Evil", "in its options the class 'evil.Evil'"),
    (OPTIONS, "optimizer", "evil.yaml", "plain values"),
    (OPTIONS, "backbone_args", NESTED, "plain values"),
    (OPTIONS, "backbone_args", {"a": ["{class_path: evil.Evil}"]}, "plain values"),
    (OPTIONS, "backbone_args", '{"a": {"class\\u005fpath": "evil.Evil"}}', "plain values"),
    (OPTIONS, "backbone_args", {"a": {"class_path": "subprocess.Popen"}}, "plain values"),
    (OPTIONS, "backbone", "timm/hf-hub:a/b", "give --model.backbone timm/hf-hub:a/b"),
    (OPTIONS, "backbone", "timm/local-dir:b", "give --model.backbone timm/local-dir:b"),
    (DATA, "classes", NESTED, "plain values"),
    (None, "more", Pickled(), "is no checkpoint"),
]


COMMANDS = ("test", "validate", "predict", "fit", "probe", "project", "pseudo-label")


@pytest.mark.parametrize(
    ("command", "group", "key", "value", "said"),
    [
        (command, *row)
        for row in FOREIGN
        for command in (COMMANDS if row is FOREIGN[0] else ("test", "probe"))
    ],
)
def test_a_foreign_checkpoint_is_refused_before_its_code_runs(
    forge: Any,
    capsys: pytest.CaptureFixture[str],
    command: str,
    group: str | None,
    key: str,
    value: Any,
    said: str,
) -> None:
    forge(group, **{key: value})
    before = sorted(os.listdir())
    with pytest.raises(SystemExit):
        main([command, "--ckpt_path", "it.ckpt"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert sorted(os.listdir()) == before
    assert "subprocess.Popen" in error or not any(name in sys.modules for name in ("evil", "space"))


@pytest.mark.parametrize("command", ["test", "probe"])
def test_a_method_of_this_folder_runs_where_it_is_named(forge: Any, command: str) -> None:
    forge(method="evil.Evil")
    content = torch.load("it.ckpt", weights_only=True)
    content[OPTIONS] |= {"_class_path": "evil.Evil"}
    torch.save(content, "it.ckpt")
    short = (
        QUIET
        if command == "test"
        else ("--accelerator", "cpu", "--epochs", "1", "--num_workers", "0")
    )
    main([command, "--ckpt_path", "it.ckpt", "--model", "evil.Evil", *short])
    assert Path("ran").exists()


@pytest.mark.parametrize("config", ["model: evil.Evil", "model: {class_path: evil.Evil}"])
def test_a_config_may_name_it(forge: Any, config: str) -> None:
    forge(method="evil.Evil")
    Path("own.yaml").write_text(config)
    main(["test", "-c", "own.yaml", "--ckpt_path", "it.ckpt", *QUIET])


def test_views_of_a_checkpoint_are_left_out(forge: Any) -> None:
    forge(DATA, views={"strong": "evil.Evil"})
    assert "views" not in known_to_checkpoint("it.ckpt", predict=False)["data"]["init_args"]


@pytest.mark.parametrize(
    ("entry", "refused"), [("", True), (".", True), ("folder", False), ("working", True)]
)
def test_only_the_working_folder_is_not_trusted(
    forge: Any, monkeypatch: pytest.MonkeyPatch, entry: str, refused: bool
) -> None:
    """An editable install or `PYTHONPATH` of the same folder comes later in the path."""
    forge(method="evil.Evil")
    here = os.getcwd()
    places = {
        "": ["", *sys.path],  # python -c
        ".": [here, *sys.path],  # python -m
        "folder": [*sys.path[:1], here, *sys.path],
        "working": [*sys.path, WorkingFolder(here)],
    }
    monkeypatch.setattr(sys, "path", places[entry])
    if refused:
        with pytest.raises(ValueError, match="give --model"):
            known_to_checkpoint("it.ckpt", predict=False)
    else:
        known_to_checkpoint("it.ckpt", predict=False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a checkpoint asked for something to be fetched")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    monkeypatch.setattr("timm.models._factory.load_checkpoint", refuse)


SOURCES = [
    {"pretrained": True},
    {"pretrained": 1},
    {"checkpoint_path": "other.pth"},
    {"pretrained_cfg": {"url": "https://example.org/a.pth"}, "pretrained": True},
    {"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}, "pretrained": True},
]


@pytest.mark.parametrize("way", ["load_from_checkpoint", "restore", "command line"])
@pytest.mark.parametrize("network", SOURCES)
def test_building_from_a_checkpoint_fetches_nothing(
    no_network: None, way: str, network: dict[str, Any]
) -> None:
    method = FixMatch(10, backbone="timm/resnet10t")
    data = SSLDataModule("digits", num_labels=20)
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(method)
    trainer.save_checkpoint("plain.ckpt")
    content = torch.load("plain.ckpt", weights_only=True)
    content[OPTIONS].update(backbone_args=network, weights="other.pth")
    content["SSLDataModule"] = data.state_dict()
    content[DATA] = dict(data.hparams)
    torch.save(content, "it.ckpt")
    if way == "load_from_checkpoint":
        FixMatch.load_from_checkpoint("it.ckpt")
    elif way == "restore":
        restore("it.ckpt")
    else:
        main(["test", "--ckpt_path", "it.ckpt", "--trainer.limit_test_batches", "1", *QUIET])


@pytest.mark.parametrize(
    ("entries", "given", "said"),
    [
        ({"backbone": "timm/hf-hub:a/b"}, {}, "give --model.backbone"),
        ({"backbone_args": NESTED}, {}, "plain values"),
        ({}, {"class": Supervised}, "must be a checkpoint of Supervised, got one of FixMatch"),
    ],
)
def test_load_from_checkpoint_refuses(
    forge: Any, entries: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    forge(OPTIONS, **entries)
    for source in ("it.ckpt", Path("it.ckpt"), "file://" + os.path.abspath("it.ckpt")):
        with pytest.raises(ValueError, match=said):
            given.get("class", FixMatch).load_from_checkpoint(source)


def test_load_from_checkpoint_takes_what_it_took(forge: Any) -> None:
    forge()
    with open("it.ckpt", "rb") as file:
        for source in ("it.ckpt", file, "file://" + os.path.abspath("it.ckpt")):
            method = FixMatch.load_from_checkpoint(source, map_location="cpu", threshold=0.5)
            assert method.threshold == 0.5


@pytest.mark.parametrize(
    ("call", "word"),
    [("fit", "own"), ("validate", "it.ckpt"), ("test", "best"), ("predict", "best")],
)
def test_a_trainer_does_not_unpickle(
    forge: Any, monkeypatch: pytest.MonkeyPatch, call: str, word: str
) -> None:
    """By itself torch 2.5 would."""
    forge()
    asked = []
    load = torch.load

    def listen(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    method = FixMatch.load_from_checkpoint("it.ckpt")
    data = SSLDataModule("digits", num_labels=20, batch_size=8, unlabeled_batch_size=16)
    trainer = Trainer(max_steps=1, logger=False, accelerator="cpu", enable_progress_bar=False)
    if word != "it.ckpt":
        trainer.fit(method, data)
    word = trainer.checkpoint_callback.best_model_path if word == "own" else word
    monkeypatch.setattr(torch, "load", listen)
    getattr(trainer, call)(method, datamodule=data, ckpt_path=word)
    assert asked
    assert all(asked)
