"""Text files and names of files, in every locale; outputs that cannot be written."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_ssl
from lightning_ssl.files import as_name, check_output, check_output_folder, printable, writing_text

PACKAGE = Path(lightning_ssl.__file__).parent
NAMES = ("open", "read_text", "write_text")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_text_file_is_opened_with_an_encoding(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        # `os.open` and `Image.open` are no text's; a bare `read_text` is our own.
        if name not in NAMES or ast.unparse(node.func) in ("Image.open", "os.open", "read_text"):
            continue
        binary = any(isinstance(arg, ast.Constant) and "b" in str(arg.value) for arg in node.args)
        assert binary or "encoding" in [keyword.arg for keyword in node.keywords], node.lineno


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a.png", "a.png"),
        ("ü/日本".encode(), "ü/日本"),
        (b"bad-\xff\xfe.png", r"bad-\xff\xfe.png"),
    ],
)
def test_a_name_as_text(name: bytes, text: str) -> None:
    assert printable(os.fsdecode(name)) == text
    if "\\" not in text:
        assert as_name(text) == os.fsdecode(name)


def test_an_ascii_locale(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    code = """
import os
from lightning_ssl.files import as_name, printable, writing_text
open(as_name("ü.png"), "wb").close()
names = [printable(name) for name in os.listdir()]
with writing_text("out.txt") as file:
    print(*names, "\\udcff", file=file)
"""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(PACKAGE.parent)}
    (tmp_path / "code.py").write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, "../code.py"], cwd=folder, env=env, check=True)
    assert (folder / "ü.png").exists()
    assert (folder / "out.txt").read_text(encoding="utf-8") == "ü.png \\udcff\n"


@pytest.mark.parametrize(
    "path", ["", "folder", "x" * 300, "file/a.csv", "/proc/a.csv", "a\0b", "/dev/null"]
)
def test_an_output_that_cannot_be_written(path: str) -> None:
    Path("folder").mkdir()
    Path("file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="`output` must be a file that can be written, got"):
        check_output(path, "output")


def test_an_output_that_can_be_written_is_not_made() -> None:
    check_output("new/folder/a.csv", "output")
    assert not list(Path().iterdir())
    with pytest.raises(KeyError), writing_text("a.csv"):
        raise KeyError
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file", "'a/b.csv' in it: '.*file' is no folder"),
        ("file/x", "'a/b.csv' in it: '.*file' is no folder"),
        ("link", "'a/b.csv' in it: '.*link' is no folder"),
        ("inner", "'a/b.csv' in it: '.*inner/a' is no folder"),
        ("taken", "'a/b.csv' in it: it is a folder"),
        ("/proc/self", "'a/b.csv' in it: "),
    ],
)
def test_an_output_folder_that_cannot_be_written_to(path: str, said: str) -> None:
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    Path("inner").mkdir()
    Path("inner/a").touch()
    Path("taken/a/b.csv").mkdir(parents=True)
    message = f"`output` must be a folder that can be written to, got '{path}': {said}"
    with pytest.raises(ValueError, match=message):
        check_output_folder(path, "output", ("a/b.csv",))
    check_output_folder("new", "output", ("a/b.csv",))
    assert not Path("new").exists()
