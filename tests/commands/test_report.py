"""Reports as runs write them: what they say, what is made of them, and that no run fails of one."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule

from pages import check_page
from runs import fit, load

REPORT = ("--report", "true", "--trainer.log_every_n_steps", "1")
HELD_OUT = ("--data.num_labels", "300", "--data.val_per_class", "3")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
FILES = ("report.html", "report.json", "metrics.json")


def metrics(run_dir: str) -> Any:
    return json.loads(Path(run_dir, "metrics.json").read_text())


def stored(run_dir: str) -> Any:
    return json.loads(Path(run_dir, "report.json").read_text())


def test_a_run_its_test_and_what_is_made_of_them_later(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = fit("FixMatch", "a", 6, *HELD_OUT, *REPORT)
    page = check_page(Path("a/report.html").read_text())
    assert page.ids() == ["run", "data", "views", "curves", "val"]
    logged, found = cli.trainer.callback_metrics, metrics("a")["val"]
    names = {"acc": "accuracy", "f1": "macro_f1", "nll": "nll", "ece": "ece"}
    for name, own in {**names, "balanced_acc": "balanced_accuracy"}.items():
        assert found[own] == pytest.approx(float(logged[f"val/{name}"]), abs=1e-5)
    assert (found["updates"], found["images"]) == (6, 30)
    assert found["temperature"] == pytest.approx(load("a")["temperature"])
    told = " ".join(page.texts)
    assert "--data.val_per_class 3" in re.sub(r"\s+", " ", told)
    assert all(f"torch {torch.__version__}".partition("+")[0] in told for _ in "a")
    assert "val_per_class: 3" in told  # the whole config
    images = [a for tag, a in page.elements if tag == "img"]
    assert len(images) > 10 * 4 + 12

    # A test adds to it, with the temperature of the validation part.
    checkpoint = "a/checkpoints/last.ckpt"
    tested = run(["test", "--ckpt_path", checkpoint, *QUIET])
    assert tested is not None
    ids = check_page(Path("a/report.html").read_text()).ids()
    assert ids == ["run", "data", "views", "curves", "val", "test"]
    after = metrics("a")
    assert after["val"] == found
    assert after["test"]["temperature"] == found["temperature"]
    assert after["test"]["updates"] == 6
    assert after["test"]["accuracy"] == pytest.approx(
        float(tested.trainer.callback_metrics["test/acc"]), abs=1e-6
    )
    source = SSLDataModule("digits", **{"num_labels": 300, "val_per_class": 3}).source
    pixels = (source.test.pixels.float() / 255 - 0.3054) / 0.3753
    with torch.no_grad():
        logits = tested.model.eval()(pixels) / found["temperature"]
    assert after["test"]["nll_after"] == pytest.approx(
        float(cross_entropy(logits, source.test.targets)), abs=1e-3
    )
    mistakes = stored("a")["evaluations"]["test"]["mistakes"]
    rows = [int(image["name"]) for image in mistakes]
    wrong = logits.argmax(dim=1) != source.test.targets
    order = logits.softmax(dim=1).amax(dim=1).masked_fill(~wrong, -1).argsort(descending=True)
    assert rows[:3] == order[:3].tolist()

    # Made again, elsewhere too, it is the same.
    whole = Path("a/report.html").read_text()
    shutil.move("a", "moved")
    main(["report", "moved", "--output", "again.html"])
    assert Path("again.html").read_text() == whole
    for name in ("report.json", "report.html"):
        Path("moved", name).unlink()
    main(["report", "moved"])
    poor = check_page(Path("moved/report.html").read_text())
    assert poor.ids() == ["run", "curves"]
    assert any("ended, or was stopped, without a report" in text for text in poor.texts)

    shutil.copytree("moved", "#other")
    main(["report", "moved", "#other"])
    both = check_page(Path("comparison.html").read_text())
    assert {"moved", "#other"} <= set(both.texts)
    assert "%23other/report.html" in [a.get("href") for _, a in both.elements]

    capsys.readouterr()
    Path("moved/report.json").write_text("{}")
    shutil.copytree("moved", "odd")
    Path("odd/report.json").write_text('{"format": 1, "evaluations": {"val": {"metrics": 3}}}')
    for args, parts in (
        (("nowhere",), ("`runs`", "'nowhere'")),
        ((), ("runs",)),
        (("moved",), ("report.json", "no record")),
        (("odd",), ("report.json", "damaged")),
        (("odd", "#other"), ("report.json",)),
        (("#other", "--output", "moved"), ("`output`", "'moved'")),
        (("#other", "--outputs", "x"), ("--output",)),
    ):
        with pytest.raises(SystemExit):
            main(["report", *args])
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert [part for part in parts if part not in said] == [], said


def test_a_folder_without_held_out_images_and_one_with_odd_names() -> None:
    for name in ("labeled/<b>ü", "labeled/&amp;", "unlabeled", "test/<b>ü", "test/&amp;"):
        Path("photos", name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (12, 12), (i * 90, 40, 200)).save(f"photos/{name}/<i>{i}.png")
    data = ("--data.dataset", "folder", "--data.root", "photos", "--data.num_labels", "4")
    fit("SimCLR", "a", 1, *data, *REPORT)
    page = check_page(Path("a/report.html").read_text())
    assert page.ids()[-1] == "test"
    assert {"<b>ü", "&amp;", "SimCLR on photos"} <= set(page.texts)
    found = stored("a")
    assert found["evaluations"]["test"]["uncertain"][0]["name"].startswith("test/")
    assert found["evaluations"]["test"]["metrics"]["temperature"] is None
    marked = [point[3] for point in found["evaluations"]["test"]["projection"]["points"]]
    assert (marked.count(True), marked.count(False)) == (4, 4)
    shutil.rmtree("photos/test")
    fit("Supervised", "b", 1, *data, *REPORT)
    page = check_page(Path("b/report.html").read_text())
    assert any("Nothing was evaluated" in text for text in page.texts)
    assert metrics("b") == {}


def test_a_run_without_one_and_one_that_cannot_write_it(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    fit("Supervised", "a", 1)
    run(["test", "--ckpt_path", "a/checkpoints/last.ckpt", "--report", "false", *QUIET])
    shutil.copy("a/checkpoints/last.ckpt", "alone.ckpt")
    run(["test", "--ckpt_path", "alone.ckpt", *QUIET])
    assert not any(Path(folder, name).exists() for folder in ("a", ".", "runs") for name in FILES)

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_ssl.callbacks.report.write_record", full)
    fit("Supervised", "b", 1, *REPORT)
    assert load("b")["global_step"] == 1
    said = [str(w.message) for w in recwarn if "No report was written" in str(w.message)]
    assert said == ["No report was written: OSError: No space left on device"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_a_browser_shows_it_without_a_complaint_and_without_scrolling_sideways() -> None:
    fit("PAWS", "a", 2, *HELD_OUT, *REPORT, "--data.batch_size", "10")
    said = "parent.postMessage([innerWidth, document.documentElement.scrollWidth].join(), '*')"
    page = Path("a/report.html").read_text()
    Path("page.html").write_text(f"{page}<script>{said}</script>")
    frames = "".join(f'<iframe src="page.html" width="{w}"></iframe>' for w in (320, 400, 1280))
    told = "onmessage = e => document.body.append(' [' + e.data + ']')"
    Path("frames.html").write_text(f"<body>{frames}<script>{told}</script></body>")
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *("--no-first-run", "--disable-background-networking", "--user-data-dir=browser"),
    ]
    for name in ("a/report.html", "frames.html"):
        command = [
            *browser,
            "--virtual-time-budget=5000",
            "--dump-dom",
            Path(name).resolve().as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "CONSOLE" not in done.stderr
    widths = re.findall(r"\[(\d+),(\d+)\]", done.stdout)
    assert len(widths) == 3
    assert [pair for pair in widths if int(pair[1]) > int(pair[0])] == []


@pytest.mark.ddp
def test_two_ranks_report_what_one_does(two_ranks: Any) -> None:
    exact = (*HELD_OUT, *REPORT, "--model.backbone_args", "{norm: none}", "--trainer.precision",
             "64-true")  # fmt: skip
    fit("Supervised", "one", 2, *exact)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_fit, "Supervised", "two", 2, *exact, *ddp)
    one, two = (metrics(name)["val"] for name in ("one", "two"))
    assert one.pop("classes") == two.pop("classes")
    assert one == pytest.approx(two, abs=1e-5)
    one, two = (stored(name) for name in ("one", "two"))
    names = [
        [image["name"] for image in run["evaluations"]["val"]["uncertain"]] for run in (one, two)
    ]
    assert names[0] == names[1]
    points = [run["evaluations"]["val"]["projection"]["points"] for run in (one, two)]
    torch.testing.assert_close(torch.tensor(points[0]), torch.tensor(points[1]), atol=2e-3, rtol=0)
    assert one["data"] == two["data"]
    assert one["views"] == two["views"]


def _fit(*args: Any) -> None:
    fit(*args)
