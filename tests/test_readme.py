"""What README.md and docs/ show works: Python blocks run, commands run or at least parse."""

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer
from sklearn.datasets import load_digits

from lightning_ssl.augment import Views
from lightning_ssl.cli import run
from lightning_ssl.commands.train_and_test import train_and_test
from lightning_ssl.data import SSLDataModule, from_arrays

ENTRY = import_module("lightning_ssl.cli.main")  # the package hides it behind the function
ROOT = Path(__file__).parents[1]
PYTHON, TASKS = ROOT / "docs" / "python.md", ROOT / "docs" / "tasks.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
QUIET = (
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
)
# Later flags win: the commands as printed, but small and short.
SHORT = (
    *("--model.backbone", "wrn_10_1", "--trainer.max_steps", "2"),
    *("--data.batch_size", "4", "--data.unlabeled_batch_size", "4"),
)
NETWORKS = {"frozen", "timm/tf_efficientnet_lite0"}  # which keep their own backbone

pytestmark = [
    pytest.mark.filterwarnings("ignore:`ema_decay`"),
    pytest.mark.filterwarnings("ignore:BatchNorm momentum"),
    pytest.mark.filterwarnings("ignore:The .* list .* is shorter than its batch"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The .*Loader object does not have many workers"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`"),
    pytest.mark.filterwarnings("ignore:You are trying to `self.log"),
]


def blocks(language: str, page: Path = PAGES[0]) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def block(part: str) -> str:
    """The one Python block of the README and its page on Python that has some text in it."""
    (found,) = [text for text in (*blocks("python"), *blocks("python", PYTHON)) if part in text]
    return found


def shorten(text: str, **changes: str) -> str:
    """Replace values of arguments, each of which must be there once."""
    for name, value in changes.items():
        text, count = re.subn(rf"\b{name}=\S+?(?=[,)])", f"{name}={value}", text)
        assert count == 1, name
    return text


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Keep the weights with which `Trainer.fit` starts, and keep it on the CPU and quiet."""
    states: list[dict[str, torch.Tensor]] = []
    fit, init = Trainer.fit, Trainer.__init__

    def remember(self: Trainer, model: Any, *args: Any, **kwargs: Any) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        fit(self, model, *args, **kwargs)

    def quiet(self: Trainer, *args: Any, **kwargs: Any) -> None:
        flags = {"enable_progress_bar": False, "enable_model_summary": False}
        init(self, *args, accelerator="cpu", **flags, **kwargs)

    monkeypatch.setattr(Trainer, "fit", remember)
    monkeypatch.setattr(Trainer, "__init__", quiet)
    return states


def changed(before: dict[str, torch.Tensor], method: torch.nn.Module) -> bool:
    after = dict(method.named_parameters())
    return all(not torch.equal(before[name], value) for name, value in after.items())


def test_python_with_the_datamodule(started: list[dict[str, torch.Tensor]]) -> None:
    text = block("SSLDataModule(")
    assert len(text.splitlines()) <= 15
    scope: dict[str, Any] = {}
    # An average over 100 updates would still be near the start.
    exec(shorten(text, max_steps="100", backbone='"wrn_10_1", ema_decay=0.9'), scope)
    assert scope["data"].num_labeled == 20
    assert changed(started[0], scope["method"])
    assert scope["metrics"]["test/acc"] > 0.3  # chance is 0.1


def test_python_in_another_project(started: list[dict[str, torch.Tensor]]) -> None:
    text = block("LightningDataModule")
    assert len(text.splitlines()) < 30
    scope: dict[str, Any] = {}
    exec(shorten(text, max_steps="60", backbone='"wrn_10_1", ema_decay=0.9'), scope)
    method, images = scope["method"].eval(), scope["images"]
    assert changed(started[0], method)
    with torch.no_grad():
        predicted = method(images[40:] / 127.5 - 1).argmax(dim=1)
    right = predicted == torch.tensor(load_digits().target[40:])
    assert right.float().mean() > 0.3


def test_python_of_soft_nearest_neighbors(started: list[dict[str, torch.Tensor]]) -> None:
    text = block("LightningDataModule").replace("FixMatch", "PAWS")
    scope: dict[str, Any] = {}
    exec(shorten(text, max_steps="30", backbone='"wrn_10_1", ema_decay=0.9'), scope)
    assert changed(started[0], scope["method"])
    with torch.no_grad():
        exec(block("fit_support"), scope)
    right = scope["classes"][40:] == torch.tensor(load_digits().target[40:])
    assert right.float().mean() > 0.3


def test_python_of_a_new_method(started: list[dict[str, torch.Tensor]]) -> None:
    scope: dict[str, Any] = {}
    exec(block("(SSLModule)"), scope)
    data = SSLDataModule("digits", num_labels=20, batch_size=8, unlabeled_batch_size=8)
    method = scope["EntropyMinimization"](data.num_classes, backbone="wrn_10_1")
    trainer = Trainer(max_steps=3, log_every_n_steps=1, limit_val_batches=0, logger=False)
    trainer.fit(method, data)
    assert changed(started[0], method)
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_every_python_block_is_tested() -> None:
    assert len(blocks("python")) == 2
    assert len(blocks("python", PYTHON)) == 3
    others = [page for page in PAGES[1:] if page != PYTHON]
    arrays, declared, _ = [text for page in others for text in blocks("python", page)]
    images = np.zeros((40, 16, 16, 3), np.uint8)
    scope = {"images": images, "targets": [i % 2 if i < 10 else -1 for i in range(40)]}
    scope |= {"test_images": images[:4], "test_targets": [0, 1, 0, 1]}
    exec(arrays, scope | {"SSLDataModule": SSLDataModule, "from_arrays": from_arrays})
    scope = {}
    exec(declared, scope)
    assert Views(scope["views"], 16).count("unlabeled") == 2


def commands(page: Path) -> list[list[str]]:
    lines = [line for text in blocks("bash", page) for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("lightning-ssl ")]


def digits_as_photos() -> None:
    """The folders and files that the commands name, with digits for photos."""
    digits = load_digits()

    def save(path: str, index: int) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(path)

    for i in range(30):
        name = f"{digits.target[i]}/{i}.png"
        save(f"photos/labeled/{name}", i)
        save(f"photos/test/{name}", i)
        save(f"photos/unlabeled/{i + 30}.png", i + 30)
        save(f"archive/train/{name}", i)
        save(f"archive/test/{name}", i)
        save(f"new_photos/{i}.png", i)
    rows = [f"new_photos/{i}.png,{digits.target[i] if i < 20 else ''}" for i in range(30)]
    Path("images.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    Path("strong.yaml").write_text(blocks("yaml", TASKS)[0])


def parses(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    helps = any(arg.endswith(".help") for arg in args)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(args if helps or "--print_config" in args else [*args, "--print_config"])
    assert not stopped.value.code
    shown = "threshold" if helps and args[1] == "--model.help" else "data"
    assert args[0] in ENTRY.commands() or shown in capsys.readouterr().out


class Here:
    """A run of `compare` in this process: to start another takes longer than to train."""

    def __init__(self, command: list[str], **kwargs: Any) -> None:
        path, *options = command[3:]
        Path(path).write_text(json.dumps(train_and_test(options)))

    def poll(self) -> int:
        return 0

    def communicate(self) -> None:
        pass


def test_commands_of_the_readme(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those of its page of tasks, in their order: some use what others left behind."""
    # The package's name of it is the function.
    compare = import_module("lightning_ssl.commands.compare")
    popen = SimpleNamespace(Popen=Here, PIPE=None, STDOUT=None)
    monkeypatch.setattr(compare, "subprocess", popen)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    digits_as_photos()
    listed = [*commands(PAGES[0]), *commands(TASKS)]
    assert len(listed) >= 20
    for args in listed:
        if any(part in " ".join(args) for part in ("help", "print_config", "cifar10")):
            parses(args, capsys)
        elif args[0] == "fit":
            # A resumed run has to have something left to do.
            longer = ("--trainer.max_steps", "3") if "last" in args else ()
            pretrained = ("--model.backbone", "timm/tf_efficientnet_lite0")
            small = (*pretrained, "--data.image_size", "32") if set(args) & NETWORKS else ()
            cli: Any = run([*args, *QUIET, *SHORT, *longer, *small])
            assert cli.trainer.global_step == (3 if longer else 2)
        elif args[0] in ENTRY.commands():
            run(args)
        else:
            run([*args, *QUIET])
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + 30
    capsys.readouterr()
    for text in (block("lightning_ssl.load("), *blocks("python", ROOT / "docs" / "use.md")):
        exec(text, {})
    printed = capsys.readouterr().out
    assert printed.count("photos/unlabeled/") == 1
    assert printed.count("new_photos/") == 30
    assert {path.name for path in Path("runs/digits").iterdir()} >= {
        *("checkpoints", "config.yaml", "split.json", "metrics.csv")
    }


def test_commands_of_the_docs_parse(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--model", "FixMatch", "--data.dataset", "digits", *QUIET, *SHORT)
    run(["fit", *small, "--run_dir", "runs/a"])
    shutil.copytree("runs/a", "runs/photos")
    for page in PAGES[1:]:
        for args in commands(page) if page != TASKS else ():  # these run, above
            parses(args, capsys)


def test_quickstart_writes_what_the_readme_says() -> None:
    run(["quickstart", "--seeds", "1", "--max_steps", "20"])
    written = {path.name for path in Path("runs/quickstart").glob("*.*")}
    assert written == {"results.csv", "curves.png", "views.png"}
    for name in written:
        assert f"`{name}`" in PAGES[0].read_text()
    assert re.search(r"^quickstart: install\n.*lightning-ssl quickstart$",
                     (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text())
    targets = [(page.parent / name if name else page, anchor) for name, anchor in links]
    assert [path for path, _ in targets if not path.exists()] == []
    assert [(path, part) for path, part in targets if part and part not in anchors(path)] == []


SECTIONS = ("Loss", "Paper, code and this implementation", "Config", "Switches", "What is logged",
            "Measured", "Reference")  # fmt: skip


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "methods").glob("*.yaml")), ids=lambda config: config.stem
)
def test_a_method_has_a_page(config: Path) -> None:
    """Named like its config, with the same sections as the others, and the measured numbers."""
    name = yaml.safe_load(config.read_text())["model"]["class_path"]
    page, by_family = (ROOT / "docs" / "methods" / f"{stem}.md" for stem in (config.stem, "index"))
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    found = [heading for heading in headings if heading in SECTIONS]
    assert found == [part for part in SECTIONS if part in found or part != "Switches"]
    assert f"(../../configs/methods/{config.name})" in page.read_text()
    assert f"]({page.name})" in by_family.read_text()
    (row,) = [line for line in PAGES[0].read_text().splitlines() if f"| `{name}` |" in line]
    assert f"](docs/methods/{page.name})" in row
    table = (ROOT / "docs" / "results.md").read_text().split("## Digits, 20, 50 and 100 labels")[1]
    for line in re.findall(rf"^\| {name} \| .*$", table.split("\n## ")[0], re.MULTILINE):
        _, fifty, _, _, twenty, _, hundred, _ = line[2:-1].split(" |")
        assert f"|{twenty} |{fifty} |{hundred} |" in page.read_text()
        assert f"[{fifty.strip()}]" in row
