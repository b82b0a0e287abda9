"""Names of files that are no text, configs that hold themselves."""

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from lightning_ssl.cli import main
from lightning_ssl.data import SSLDataModule

from runs import SMALL, fit, load

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")


def photo(path: bytes, size: tuple[int, int] = (40, 20), **options: object) -> None:
    Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        Image.new("RGB", size, (10, 100, 200)).save(file, **options)


@pytest.fixture
def images() -> str:
    """Classes and an image whose names are not UTF-8, and a photo of a phone held upright."""
    exif = Image.Exif()
    exif[274] = 6
    for name in (b"a", "größe".encode(), b"bad-\xff"):
        photo(b"images/labeled/%b/1.png" % name, format="PNG")
    photo(b"images/unlabeled/\xff.png", format="PNG")
    photo(b"images/unlabeled/phone.jpg", format="JPEG", exif=exif)
    return "images"


def test_no_work_is_lost(images: str) -> None:
    data = ("--data.dataset", "folder", "--data.root", images, "--data.num_labels", "null")
    cli = fit("FixMatch", "a", 1, *data, "--data.image_size", "72", "--data.num_workers", "0")
    assert cli.datamodule.source.train.decode(3).size == (20, 40)
    record = load("a")["SSLDataModule"]
    assert record["classes"] == ["a", r"bad-\xff", "größe"]
    assert record["exif_orientation"] is True
    checkpoint = "a/checkpoints/last.ckpt"
    main(["predict", "--ckpt_path", checkpoint, "--data.root", images, "--data.num_workers", "0",
          *QUIET])  # fmt: skip
    with open("predictions.csv", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert [path.removeprefix("images/") for path in paths] == [
        "labeled/a/1.png", r"labeled/bad-\xff/1.png", "labeled/größe/1.png",
        "unlabeled/phone.jpg", r"unlabeled/\xff.png",
    ]  # fmt: skip
    for table in ("table.csv", "table.parquet"):
        main(["pseudo-label", "--ckpt_path", checkpoint, "--output", table, "--accelerator", "cpu",
              "--progress_bar", "false", "--num_workers", "0"])  # fmt: skip
        again = SSLDataModule("folder", root=images, pseudo_labels=table)
        assert again.num_labeled == 5
    assert not list(Path().glob(".*"))


def test_a_run_goes_on_as_it_began(images: str) -> None:
    """A checkpoint of before knows no orientation, and its run had another size and order."""
    import torch

    data = ("--data.dataset", "folder", "--data.root", images, "--data.num_labels", "null")
    old = ("--data.exif_orientation", "false", "--data.image_size", "12",
           "--data.classes", r'[größe, a, "bad-\\xff"]')  # fmt: skip
    fit("Supervised", "a", 1, *data, *old)
    checkpoint = load("a")
    del checkpoint["SSLDataModule"]["exif_orientation"]
    torch.save(checkpoint, "a/checkpoints/last.ckpt")
    cli = fit("Supervised", "a", 2, *data, "--ckpt_path", "last")
    assert cli.trainer.global_step == 2
    assert cli.datamodule.classes == ("größe", "a", r"bad-\xff")
    assert (cli.datamodule.image_size, cli.datamodule.exif_orientation) == (12, False)
    assert load("a")["SSLDataModule"]["exif_orientation"] is False


def test_an_output_is_tried_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 1)
    checkpoint = ("--ckpt_path", "a/checkpoints/last.ckpt")
    long = "x" * 252 + ".csv"
    for command in (
        ("predict", *checkpoint, "--data.dataset", "digits", "--predictions.path", long, *QUIET),
        ("pseudo-label", *checkpoint, "--output", f"a/{long}"),
        ("probe", *checkpoint, "--output", f"/proc/{long}"),
        ("project", *checkpoint, "--output", "/proc/a"),
    ):
        with pytest.raises(SystemExit):
            main(command)
        assert "that can be written" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "data: &a {init_args: *a}",
        "&a [[[*a]]]",
        "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 9}]\n" for i in range(9)),
    ],
)
def test_yaml_that_holds_itself(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(text, encoding="utf-8")
    for command in (
        ("fit", "-c", "own.yaml"),
        ("fit", "--model", "FixMatch", *SMALL, "--data.classes", text),
        ("probe", "--config=own.yaml"),
        ("compare", "--labels", text),
    ):
        with pytest.raises(SystemExit):
            main(command)
        assert "without an anchor that holds its own alias" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "vpet"])
def test_a_config_that_is_a_pipe(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("own.yaml")
    with pytest.raises(SystemExit):
        main([command, "-c", "own.yaml"])
    assert "error: `--config` must be a file" in capsys.readouterr().err


def test_a_config_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("# ü\nmodel: FixMatch", encoding="cp1252")
    with pytest.raises(SystemExit):
        main(["fit", "-c", "own.yaml"])
    assert "error: `--config` 'own.yaml' is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "name", "said"),
    [
        ("ascii", "größe".encode(), "ascii, got 'größe': set PYTHONUTF8=1, or LC_ALL=C.UTF-8."),
        ("utf-8", b"bad-\xff", r"utf-8, got 'bad-\xff': rename it."),
    ],
)
def test_an_argument_that_is_no_text_in_the_locale(
    encoding: str, name: bytes, said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arg = name.decode(encoding, "surrogateescape")
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode(encoding, "surrogateescape"))
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    for command in (("fit", "--data.root", arg), ("probe", "--ckpt_path", arg), (arg,)):
        with pytest.raises(SystemExit):
            main(command)
        error = f"error: Arguments must be text in the encoding of the locale, {said}\n"
        assert capsys.readouterr().err == error
