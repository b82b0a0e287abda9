"""What `compare` refuses before the first run, and what a run that fails says."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_ssl.methods
from lightning_ssl.cli import main
from lightning_ssl.cli.errors import parameters
from lightning_ssl.cli.trainer import run_trainer
from lightning_ssl.commands import train_and_test
from lightning_ssl.commands.compare_check import _outline
from lightning_ssl.commands.compare_table import Run
from lightning_ssl.commands.options import read_options

# The package's name of it is the function.
module = import_module("lightning_ssl.commands.compare")
SMALL = "--data.dataset digits --model.backbone wrn_10_1"
ONE = ("--methods", "[Supervised]")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What would be trained."""
    runs: list[Run] = []
    monkeypatch.setattr(module, "_train", lambda given, jobs: runs.extend(given) or [])
    return runs


def compare(*args: str, options: str) -> None:
    main(["compare", "--labels", "[200]", "--run_dir", "out", "--options", options, *args])


@pytest.mark.parametrize(
    ("args", "options", "parts"),
    [
        (("--methods", "[Supervised, FixMatsch]"), SMALL, ("`model` must be", "'FixMatsch'")),
        (ONE, "--model.lrr 1", ("'lrr'",)),
        ((*ONE, "--method_options", "{VAT: ''}"), SMALL,
         ("`method_options` must be for methods that are compared, Supervised, got VAT",)),
        (("--methods", "[VAT, VAT]"), SMALL, ("`methods` must differ", "['VAT', 'VAT']")),
        (("--methods", "[]"), SMALL, ("`methods` must be names", "got []")),
        ((), "--seed_everything=3", ("must leave --seed_everything to `seeds`",)),
        (("--labels", "[0]"), SMALL, ("`labels` must be numbers of at least 1, got [0]",)),
        (("--batch_sizes", "[]"), SMALL, ("`batch_sizes` must be numbers", "got []")),
        (("--seeds", "0"), SMALL, ("`seeds` must be at least 1, got 0",)),
        (("--jobs", "0"), SMALL, ("`jobs` must be at least 1, got 0",)),
        (ONE, f"{SMALL} 'a", ("`options` must be options", "wrn_10_1 'a", "No closing quotation")),
        ((*ONE, "--method_options", "{Supervised: '\"'}"), SMALL,
         ("`method_options` of Supervised must be", "'\"", "No closing quotation")),
        (ONE, f"{SMALL} --model.class_path FixMatch",
         ("must leave the model to `methods`, got lightning_ssl.methods.FixMatch in place",)),
        (ONE, f"{SMALL} --data.seed 0",
         ("must leave data.seed to `seeds`, got 0", "--data.seed null")),
        (ONE, f"{SMALL} -c stl10 --data.root .",
         ("must leave data.fold to `labels`, got 0", "--data.fold null")),
        (ONE, f"{SMALL} --data.coin_flip true",
         ("must leave data.coin_flip to `labels`, got True", "--data.coin_flip false")),
        (("--methods", "[Supervised, FlexMatch]"), f"{SMALL} --model.ema_decay 1.5",
         ("`ema_decay` must be in [0, 1), got 1.5",)),
        ((*ONE, "--labels", "[200, 5]"), SMALL, ("`labels` must be", "got 5: ", "10 classes")),
        (("--methods", "[FlexMatch]", "--labels", "[5]"), SMALL,
         ("error: `labels` must be", "got 5: ", "10 classes")),
        (ONE, f"{SMALL} --data.views '{{strong: {{class_path: lightning_ssl.augment.PadCrop}}}}'",
         ("`data.views` must be views of Supervised, got strong:", "--data.views null")),
    ],
)  # fmt: skip
def test_bad_options_are_found_before_the_first_run(
    args: tuple[str, ...], options: str, parts: tuple[str, ...], trained: list[Run], capsys: Any
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        compare(*args, options=f"{options} ")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [part for part in ("error: ", *parts) if part not in said] == [], said
    assert not trained
    assert not Path("out").exists()


def test_a_config_of_another_method_lends_what_both_have(trained: list[Run]) -> None:
    """The network is pre-trained and the data are not there: neither is asked for."""
    network = "backbone: resnet18, backbone_args: {pretrained: true}, optimizer: {name: adamw}"
    model = f"{{class_path: FixMatch, init_args: {{threshold: 0.5, {network}}}}}"
    Path("fixmatch.yaml").write_text(f"model: {model}")
    options = "--data.dataset cifar10 --data.root nowhere -c fixmatch.yaml --model.ema_decay 0.5"
    own = "{VAT: '--model.epsilon 2', FixMatch: '--config=flexmatch'}"
    compare("--methods", "[VAT, FixMatch]", "--seeds", "1", "--method_options", own,
            options=options)  # fmt: skip
    models = [read_options(run_trainer, ["fit", *run.options])["model"] for run in trained]
    assert [m["class_path"].rpartition(".")[2] for m in models] == ["VAT", "FixMatch"]
    vat, fixmatch = (m["init_args"] for m in models)
    assert (vat["backbone"], vat["optimizer"]["name"]) == ("resnet18", "adamw")
    assert (vat["epsilon"], vat["ema_decay"]) == (2, 0.5)
    assert (fixmatch["backbone"], fixmatch["ema_decay"]) == ("wrn_28_2", 0.999)


@pytest.mark.parametrize("name", module._all_methods())
def test_every_method_is_built_of_shapes(name: str) -> None:
    sizes = {"num_labeled": 40, "num_unlabeled": 100, "class_counts": [4] * 10, "image_side": 32}
    known: dict[str, Any] = {**sizes, "image_std": (0.2, 0.2, 0.2)}
    class_ = getattr(lightning_ssl.methods, name)
    taken = {key: value for key, value in known.items() if key in parameters(class_)}
    model = _outline(class_, num_classes=10, backbone="wrn_10_1", **taken)
    assert model is not None
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_method_that_asks_for_values_is_left_to_its_run() -> None:
    assert _outline(lambda **options: torch.ones(1).item()) is None


def test_a_run_ends_with_what_was_wrong(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(train_and_test, "_end_with_parent", lambda: None)
    options = ["--model", "FixMatch", *SMALL.split(), "--model.threshold", "1.5"]
    monkeypatch.setattr(sys, "argv", ["", "result.json", *options, "--run_dir", "out"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train_and_test._main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("\nerror: `threshold` must be in [0, 1], got 1.5.\n")
