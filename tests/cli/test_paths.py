"""Paths are taken as they are typed."""

import contextlib
import io
from pathlib import Path

import pytest
import yaml

from lightning_ssl.cli import main, run
from lightning_ssl.cli.functions import run_function

from runs import fit

FLAGS = ("data.root", "data.init_args.labels_file", "model.weights", "predictions.path", "run_dir",
         "trainer.default_root_dir", "data.features_dir")  # fmt: skip
HOME = str(Path.home())

# Typed, and what is meant; a name that YAML would take for something else begins with `./`.
NAMES = [
    ("a=b/epoch=0-step=21.ckpt", "a=b/epoch=0-step=21.ckpt"),
    ("a b", "a b"),
    ("a,b", "a,b"),
    ("[ab]", "./[ab]"),
    ("{a: b}", "./{a: b}"),
    ("{run_dir}", "./{run_dir}"),
    ("'a'", "./'a'"),
    ('"a"', './"a"'),
    ("a #b", "a #b"),
    ("#a", "./#a"),
    ("-a", "./-a"),
    ("-a=b", "./-a=b"),
    ("--a b", "./--a b"),
    ("1e3", "./1e3"),
    ("&x", "./&x"),
    ("a: b", "a: b"),
    ("/x/a: b", "/x/a: b"),
    ("true", "true"),
    ("~/a=b", f"{HOME}/a=b"),
]


def typed(form: str, *options: tuple[str, str]) -> list[str]:
    if form == "--x=y":
        return [f"--{flag}={value}" for flag, value in options]
    return [part for flag, value in options for part in (f"--{flag}", value)]


def read_paths(form: str, names: list[str]) -> list[str]:
    """What ``fit`` reads where each name is given to one of the paths."""
    given = typed(form, *zip(FLAGS, names, strict=False))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        run(["fit", "--model", "FixMatch", *given, "--print_config"])
    config = yaml.safe_load(printed.getvalue())
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    found = [data["root"], data["labels_file"], model["weights"], config["predictions"]["path"],
             config["run_dir"], config["trainer"]["default_root_dir"],
             data["features_dir"]]  # fmt: skip
    return found[: len(names)]


@pytest.mark.parametrize("form", ["--x y", "--x=y"])
def test_a_trainer_subcommand(form: str) -> None:
    # Some of the pairs of name and path: reading a command takes half a second.
    for start in range(0, len(NAMES), len(FLAGS)):
        names, meant = zip(*NAMES[start : start + len(FLAGS)], strict=True)
        assert read_paths(form, [*names]) == [*meant]


@pytest.mark.parametrize("form", ["--x y", "--x=y"])
@pytest.mark.parametrize(("name", "meant"), NAMES)
def test_another_command(name: str, meant: str, form: str) -> None:
    def command(ckpt_path: str, root: str | None = None, options: str = "") -> None:
        found.extend((ckpt_path, root, options))

    found: list[str | None] = []
    run_function(command, "command", typed(form, ("ckpt_path", name), ("root", name)))
    assert found == [meant, meant, ""]
    for text in ("-c -x=1", "--data.seed=1", "--data.root 'a b'"):
        found.clear()
        run_function(command, "command", typed(form, ("ckpt_path", name), ("options", text)))
        assert found == [meant, None, text]


def test_a_forgotten_value_is_not_the_next_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model", "FixMatch", "--run_dir", "--data.root=a b"])
    assert "--run_dir: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--x y", "--x=y"])
@pytest.mark.parametrize("name", ["epoch=0-step=21.ckpt", "-x=1.ckpt", "a: b.ckpt", "[#1], 'é'"])
def test_a_missing_checkpoint_is_named_whole(
    name: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("predict", "probe"):
        with pytest.raises(SystemExit):
            main([command, *typed(form, ("ckpt_path", name))])
        assert f"{name}'" in capsys.readouterr().err, command


def test_a_run_in_a_folder_of_odd_name() -> None:
    folder = "r=1, [x] #é {y} 'q'"
    fit("Supervised", folder, 1)
    last = Path(folder, "checkpoints", "last.ckpt")
    odd = last.rename(last.with_name("epoch=0-step=1.ckpt"))
    last.with_name("-x: 1.ckpt").write_bytes(odd.read_bytes())
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    main(["test", "--ckpt_path", str(odd), *quiet])
    main(["predict", f"--ckpt_path={odd.with_name('-x: 1.ckpt')}", "--data.dataset", "digits",
          "--predictions.path", "#p=[1].csv", *quiet])  # fmt: skip
    assert Path("#p=[1].csv").exists()
    main(["pseudo-label", f"--ckpt_path={odd}", "--output", "-o[1].csv", "--accelerator", "cpu",
          "--progress_bar", "false"])  # fmt: skip
    assert sorted(path.name for path in Path().glob("*o*")) == ["-o[1].csv"]
    assert not list(Path().glob(".*"))
