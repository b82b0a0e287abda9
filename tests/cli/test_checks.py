"""Values out of range, damaged checkpoints, advice that helps."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import Namespace

from lightning_ssl.cli import main
from lightning_ssl.cli.checkpoint import known_to_checkpoint
from lightning_ssl.cli.checks import check_fit, check_values
from lightning_ssl.cli.errors import USER_ERRORS, is_users
from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.methods import Supervised

from runs import SMALL, differences, fit

FIXMATCH = ("fit", "--model", "FixMatch", *SMALL)


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    said = capsys.readouterr().err
    assert stopped.value.code == 2, said
    assert not Path("runs").exists()
    return said[said.index("error: ") :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit("Supervised", str(folder), 1)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.gradient_clip_val", -1),
        ("trainer.gradient_clip_val", float("inf")),
        ("trainer.gradient_clip_val", float("nan")),
        ("trainer.log_every_n_steps", -1),
        ("trainer.val_check_interval", 0),
        ("trainer.val_check_interval", 0.0),
        ("trainer.accumulate_grad_batches", 0),
        ("trainer.max_steps", -2),
        ("trainer.limit_train_batches", 0),
        ("trainer.limit_val_batches", -1),
        *(("trainer.devices", value) for value in ("abc", "0", 0, -2, [], ["a"], "0,b", "")),
        *(("trainer.max_time", value) for value in ("1:00", "00:00:00:00", {"days": -1})),
        *(("trainer.max_time", value) for value in ({"hours": 0}, {"years": 1}, timedelta(0))),
        ("data.seed", 2**70),
        ("data.seed", -1),
        ("data.num_workers", -1),
        ("data.num_labels", -10),
        ("data.image_size", 1),
        ("data.image_size", 100_000),
    ],
)
def test_a_value_out_of_range(name: str, value: object) -> None:
    group, _, option = name.partition(".")
    config = Namespace(trainer=Namespace(), data=Namespace(init_args=Namespace()))
    (config.trainer if group == "trainer" else config.data.init_args)[option] = value
    with pytest.raises(ValueError, match=rf"`{name}` \(--{name}\) must be .*got "):
        check_values(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [("devices", value) for value in ("auto", "-1", -1, 2, "2", "0,1", [0, 1], None)]
    + [("max_time", value) for value in ("00:00:00:01", {"minutes": 2}, timedelta(days=1), None)]
    + [("max_steps", -1), ("val_check_interval", 0.5), ("log_every_n_steps", 0)],
)
def test_a_value_in_range(name: str, value: object) -> None:
    check_values(Namespace(trainer=Namespace({name: value}), data=Namespace()))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--trainer.gradient_clip_val", "-1"), "`trainer.gradient_clip_val`"),
        (("--trainer.devices", "abc"), "`trainer.devices`"),
        *((("--trainer.devices", v), "must be the number of processes") for v in ("[0, 0]", "-1")),
        (("--data.cached_views", "0"), "`data.cached_views` must be at least 1"),
        (("--data.classes", "[]"), "`data.classes` must be"),
        (("--data.seed", str(2**70)), "`data.seed`"),
        (("--model.backbone", "timm/vit_tiny_patch16_224", "--data.image_size", "32"), "be 224"),
        (("--seed_everything", "-1"), "`seed_everything` (--seed_everything) must be at least 0"),
        (("--seed_everything", str(2**40)), "at most 4294967295"),
        (
            ("--trainer.min_steps", "5", "--trainer.max_steps", "2"),
            "at most `trainer.max_steps` (2)",
        ),
        (("--trainer.min_epochs", "5", "--trainer.max_epochs", "2"), "`trainer.min_epochs`"),
        (("--trainer.max_steps", "1e3"), "trainer.max_steps"),
        (("--trainer.max_steps", "0"), "`trainer.max_steps` (--trainer.max_steps) must be -1 or"),
        (("--trainer.max_time", "abc"), "`trainer.max_time` (--trainer.max_time) must be DD:HH:MM"),
        (("--data.image_size", "1"), "`data.image_size` (--data.image_size)"),
        (("--data.image_size", "100000"), "at most 10000"),
        (("--data.num_workers", "100000"), "`data.num_workers` must be in [0, "),
        (("--data.batch_size", str(10**10)), "`data.batch_size` must be at most "),
        (("--data.unlabeled_batch_size", str(10**10)), "2 views of each image of 8x8 pixels"),
        (("--data.mean", "[125, 125, 125]"), "`data.mean` must be of pixels in [0, 1]"),
        (("--data.std", "[0, 0, 0]"), "`data.std` must be above 0"),
        (("--data.std", "[58.1, 57.1, 57.4]"), "`data.std` must be above 0, of pixels in [0, 1]"),
        (("--model.backbone", "wrn_10_99999999"), "The width of a `backbone`"),
        (("--model.backbone", "paws_wrn_10_101"), "at most 100"),
        (("--model.backbone", "wrn_600004_1"), "The depth of a `backbone`"),
        (("--model.backbone", "wrn_10_" + "9" * 5000), "at most 100"),
        (("--model.backbone_args", "{bn_momentum: 7}"), "`backbone_args.bn_momentum`"),
        (("--model.backbone_args", "{bn_momentum: abc}"), "a number in [0, 1]"),
        (("--model.backbone_args", "{bn_eps: -1}"), "`backbone_args.bn_eps`"),
        (("--model.backbone_args", "{raw_shortcut_input: 1}"), "true or false"),
        (("--run_dir", "file/run"), "`run_dir`"),
    ],
)
def test_a_command_with_such_a_value(
    args: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    said = fails(capsys, *FIXMATCH, *args)
    assert part in said
    assert "got " in said.lower()
    assert said.count("\n") == 1


def test_memory_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = Mock()
    monkeypatch.setattr("lightning_ssl.methods.base.build_network", build)
    for build.side_effect in (
        MemoryError("Unable to allocate 9 TiB"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.\nC++ frame"),
    ):
        said = fails(capsys, *FIXMATCH)
        assert "`data.unlabeled_batch_size`" in said
        assert said.count("\n") == 1
    assert not is_users(RuntimeError("a fault of ours"))


def test_a_warm_up_that_never_ends() -> None:
    with pytest.warns(UserWarning, match=r"`schedule\.warmup` 2 is not over.* 2 updates ends"):
        fit("Supervised", "a", 2, "--model.schedule.warmup", "2")


@pytest.mark.parametrize(
    ("backbone", "side", "least"),
    [("resnet18", 32, 2), ("resnet18", 40, 1), ("wrn_10_1", 8, 1), ("timm/resnet10t", 32, 2)],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_one_image_is_too_few_where_a_map_of_features_shrinks_to_a_point(
    backbone: str, side: int, least: int, processes: int
) -> None:
    method = Supervised(10, backbone=backbone)
    modes = {name: module.training for name, module in method.named_modules()}
    before = {name: value.clone() for name, value in method.state_dict().items()}
    images = torch.zeros(4, side, side, 3, dtype=torch.uint8).numpy()
    source = from_arrays(images, np.array([0, 1, 0, 1]))
    data = SSLDataModule.from_source(source, batch_size=processes)
    if least == 1:
        check_fit(method, data, processes)
        method(torch.randn(1, 3, side, side)).sum().backward()  # which PyTorch takes, too
        return
    said = rf"`data\.batch_size` must be at least {2 * processes}, got {processes}: BatchNorm"
    with pytest.raises(ValueError, match=said):
        check_fit(method, data, processes)
    assert {name: module.training for name, module in method.named_modules()} == modes
    assert differences(before, method.state_dict()) == []
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        method(torch.randn(1, 3, side, side))


def test_a_contrast_needs_two_images(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "fit", "--model", "SimCLR", *SMALL, "--data.unlabeled_batch_size", "1")
    assert "`data.unlabeled_batch_size` must be at least 2, got 1" in said
    said = fails(capsys, "fit", "--model", "VMFSNE", *SMALL, "--data.unlabeled_batch_size", "15")
    assert "`data.unlabeled_batch_size` must be at least 16, got 15" in said
    assert "`model.perplexity` 30.0" in said


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("fit",), ("`--model`", "--data.dataset", "`-c`")),
        (("fit", "--model", "FixMatch"), ("`data.dataset`", "digits, cifar10", "got none")),
        (("fit", "--model", "FixMach"), ("Did you mean 'FixMatch'?",)),
        (("fit", "-c", "fixmach"), ("Did you mean 'fixmatch'?",)),
        (("fitt",), ("'fitt'", "compare", "pseudo-label", "Did you mean 'fit'?")),
        (("pseudo_label",), ("Did you mean 'pseudo-label'?",)),
        (("compare", "--labels", "20"), ("`labels`", "a list, such as [20], got 20")),
        (("compare", "--label", "[20]"), ("`compare` has the options --labels", "'--labels'?")),
        ((*FIXMATCH, "--trainer.max_stepz", "3"), ("Did you mean '--trainer.max_steps'?",)),
        ((*FIXMATCH, "--trainr.max_steps", "3"), ("Did you mean '--trainer.max_steps'?",)),
        ((*FIXMATCH, "--run_dri", "a"), ("Did you mean '--run_dir'?",)),
        ((*FIXMATCH, "--dat.root", "a"), ("Did you mean '--data.root'?",)),
    ],
)
def test_advice(
    args: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, *args)
    assert [part for part in parts if part not in said] == [], said


def test_refused_options_are_not_called_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, *FIXMATCH, "--model.zzz", "1")
    assert "Allowed: " in said
    assert "num_classes" not in said
    assert "class_counts" not in said


def test_the_seed_that_the_data_seed_comes_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, advice in (
        (("--seed_everything", "5"), "give --seed_everything 0."),
        (("--data.seed", "5"), "give --data.seed 0."),
    ):
        said = fails(capsys, "fit", "--model", "Supervised", *SMALL, "--run_dir", str(folder),
                     "--ckpt_path", "last", "--trainer.max_steps", "2", *flags)  # fmt: skip
        assert advice in said


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_network_that_learnt_nothing(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (("--model", "Supervised", *SMALL), ("-c", str(folder / "config.yaml"))):
        said = fails(capsys, command, *source)
        assert "`ckpt_path` (--ckpt_path) must be a checkpoint" in said
        assert "--model.weights" in said


def test_weights_beside_a_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, "first")
    first, run = "first/checkpoints/last.ckpt", str(tmp_path / "second")
    fit("Supervised", run, 1, "--model.weights", first)
    other = ("--model.weights", "other.ckpt")
    again = ("-c", f"{run}/config.yaml", "--ckpt_path", "last")
    kept = {path: path.read_bytes() for path in Path(run).rglob("*") if path.is_file()}
    for command in (("fit", "--trainer.max_steps", "2"), ("test",)):
        said = fails(capsys, *command, *again, *other)
        assert f"`model.weights` (--model.weights) must be {first} beside `ckpt_path`" in said
    assert kept == {path: path.read_bytes() for path in Path(run).rglob("*") if path.is_file()}
    said = fails(capsys, "fit", *SMALL, "--ckpt_path", "first/checkpoints/last.ckpt", *other)
    assert "must be null beside `ckpt_path`" in said
    assert "got 'other.ckpt'" in said

    shutil.rmtree("first")  # which nobody needs any more
    last = f"{run}/checkpoints/last.ckpt"
    main(["test", *again])
    main(["fit", *again, "--trainer.max_steps", "2"])
    main(["fit", "--ckpt_path", last, "--run_dir", run, "--trainer.max_steps", "3"])
    assert torch.load(last, weights_only=True)["started_from"] == first
    main(["fit", *again, "--trainer.max_steps", "4"])
    assert torch.load(last, weights_only=True)["global_step"] == 4


def changed(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(checkpoint: Any) -> Any:
        change(checkpoint)
        return checkpoint

    return apply


def record(**values: Any) -> Callable[[Any], Any]:
    return changed(lambda checkpoint: checkpoint["SSLDataModule"].update(values))


def wrong_shape(checkpoint: Any) -> None:
    weights = checkpoint["state_dict"]
    name = next(name for name, value in weights.items() if value.ndim == 4)
    weights[name] = weights[name][:, :1]


DAMAGES = [
    (lambda _: [1, 2], "a list"),
    (lambda _: {}, "`state_dict`"),
    (changed(lambda c: c.pop("state_dict")), "`state_dict`"),
    (changed(wrong_shape), "of shape"),
    (changed(lambda c: c["state_dict"].pop(next(iter(c["state_dict"])))), "lacks the weight"),
    (changed(lambda c: c.update(SSLDataModule=3)), "`SSLDataModule` must be a dict"),
    (changed(lambda c: c["SSLDataModule"].pop("classes")), "lacks `classes`"),
    (record(classes="abc"), "`classes` of the data must be a list of names"),
    (record(classes=["a", "a"]), "must be a list of names, each once"),
    (record(exif_orientation="yes"), "`exif_orientation` of the data must be a bool"),
    (record(mean=[0.5]), "`mean` of the data"),
    (record(std=[0.5, 0.0, 0.5]), "`std` of the data"),
    (record(image_size=-3), "`image_size` of the data"),
    (record(labeled=[1, 2]), "`labeled` of the data"),
    (changed(lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], "a"))), "lacks"),
    (changed(lambda c: c.update(started_from=7)), "`started_from` must be a file or null"),
    (changed(lambda c: c.update(method=7)), "`method` must be a class path"),
    (changed(lambda c: c.pop("pytorch-lightning_version")), "`pytorch-lightning_version` must be"),
    (changed(lambda c: c.update({"pytorch-lightning_version": "a"})), "must be the version"),
]


def test_a_damaged_checkpoint(whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(whole, "whole.ckpt")
    for change, part in DAMAGES:
        torch.save(change(torch.load("whole.ckpt", weights_only=True)), "a.ckpt")
        said = fails(capsys, "test", "--ckpt_path", "a.ckpt")
        assert "'a.ckpt'" in said
        assert part in said


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("optimizer_states", (None, 3, [], [3])),
        ("lr_schedulers", (None, 3, [], [3])),
        ("loops", (None, 3, {}, {"fit_loop": 3})),
        ("callbacks", (None, 3, {"EMA": 3})),
        ("current_model_state", (None, 3, {})),
        ("averaging_state", (None, 3, {})),
    ],
)
def test_a_checkpoint_that_no_run_goes_on_from(
    key: str, values: tuple[Any, ...], whole: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        torch.save({**whole, key: value}, "a.ckpt")
        said = fails(capsys, "fit", "--ckpt_path", "a.ckpt", "--trainer.max_steps", "2")
        assert f"`ckpt_path` 'a.ckpt' must hold `{key}` for a run to go on from it" in said
    if key == "optimizer_states":
        main(["test", "--ckpt_path", "a.ckpt"])  # for which the weights are enough
    before = (folder / "config.yaml").read_bytes()
    shutil.copy(folder / "checkpoints" / "last.ckpt", "a.ckpt")
    said = fails(capsys, "fit", "--ckpt_path", "a.ckpt", "--run_dir", str(folder))
    assert "already holds a run" in said
    assert "not that of `ckpt_path` 'a.ckpt': give another folder" in said
    assert (folder / "config.yaml").read_bytes() == before


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = [
    "pytorch-lightning_version",
    "SSLDataModule",
    "hyper_parameters",
    "datamodule_hyper_parameters",
    "seed",
    "method",
]
FORM = ["classes", "image_size", "in_channels", "mean", "std", "labeled", "val", "seed", "views"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from([*KEYS, *FORM]), value=plain, content=st.none() | plain)
def test_any_checkpoint(whole: Any, key: str, value: Any, content: Any) -> None:
    kept = {name: whole[name] for name in KEYS}  # small, so that writing takes no time
    checkpoint = {**kept, "state_dict": {}, "SSLDataModule": dict(whole["SSLDataModule"])}
    (checkpoint if key in KEYS else checkpoint["SSLDataModule"])[key] = value
    torch.save(content if content is not None else checkpoint, "any.ckpt")
    for predict in (True, False):
        try:
            assert isinstance(known_to_checkpoint("any.ckpt", predict), dict)
        except USER_ERRORS as error:
            assert "'any.ckpt'" in str(error)  # noqa: PT017  either is right


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60))
def test_any_bytes_as_a_checkpoint(content: bytes) -> None:
    Path("any.ckpt").write_bytes(content)
    with pytest.raises(USER_ERRORS, match=r"'any\.ckpt'"):
        known_to_checkpoint("any.ckpt", predict=True)
