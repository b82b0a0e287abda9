"""The page itself: what it holds, that it needs nothing else, and that no text becomes markup."""

import json
from pathlib import Path

import pytest
import torch

from lightning_ssl.evaluation.report.charts import line_chart, ticks
from lightning_ssl.evaluation.report.page import Run, comparison_page, report_page
from lightning_ssl.evaluation.report.pictures import as_uri
from lightning_ssl.evaluation.report.record import (
    Record,
    describe_evaluation,
    describe_projection,
    metrics_of,
    read_record,
    write_record,
)

from pages import Page, check_page

HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=y> & ü"


def record(classes: list[str], images: int = 400) -> Record:
    """A run with everything, on images of noise."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, len(classes), (images,), generator=generator)
    logits = torch.randn(images, len(classes), generator=generator)
    logits[torch.arange(images), target] += 3
    found = describe_evaluation(logits, target, classes, 1.3)
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    uri = as_uri(noise)
    for image in (*found["mistakes"], *found["uncertain"]):
        image.update(name=f"{HOSTILE}{image.pop('row')}.png", picture=uri)
    features = torch.randn(images, 16, generator=generator)
    found["projection"] = describe_projection(features, target, features[:20], target[:20])
    found.update(updates=100, checkpoint=None, watched=True)
    count = torch.bincount(target, minlength=len(classes)).tolist()
    return Record(
        run={"title": f"FixMatch on {HOSTILE}", "command": f"lightning-ssl fit '{HOSTILE!r}'"[:40],
             "facts": {"Method": "FixMatch", "Seed": "0"}, "seconds": 61.0},
        data={"classes": classes, "counts": {"labeled": count, "unlabeled": count},
              "unknown": {"labeled": 0, "unlabeled": 3}, "cached": False,
              "examples": [{"class": k % len(classes), "name": HOSTILE, "picture": uri}
                           for k in range(min(2 * len(classes), 40))]},
        views=[{"stream": "unlabeled", "images": [
            {"name": HOSTILE, "picture": uri, "views": {"weak": [uri], "strong": [uri, uri]}}]}],
        evaluations={"val": found},
    )  # fmt: skip


CURVES = {"train/loss": ([1, 2], [1.0, 0.5]), f"val/{HOSTILE}": ([1], [2.0])}


@pytest.mark.parametrize("count", [2, 10, 25, 100])
def test_a_page_is_whole_whatever_the_names(count: int) -> None:
    classes = [f"{HOSTILE}{number}" for number in range(count)]
    run = Run(HOSTILE, record(classes), CURVES, f"key: {HOSTILE}")
    page = check_page(report_page(run))
    assert page.ids() == ["run", "data", "views", "curves", "val"]
    assert f"FixMatch on {HOSTILE}" in page.texts
    assert any(text.startswith(f"{HOSTILE}0") for text in page.texts)
    linked = {a["href"] for tag, a in page.elements if tag == "a"}
    assert linked == {f"#{name}" for name in page.ids()}
    assert all((a["src"] or "").startswith("data:image/") for t, a in page.elements if t == "img")


def test_a_run_without_classes_or_pictures() -> None:
    found = {"images": 5, "updates": 1, "checkpoint": None, "watched": True, "projection": None}
    page = check_page(report_page(Run("r", Record(evaluations={"test": found}), {}, None)))
    assert page.ids() == ["run", "test"]
    assert "No class of these images is known." in page.texts
    assert check_page(report_page(Run("r", Record(), {}, None))).ids() == ["run"]


def test_a_picture_of_elsewhere_is_not_shown() -> None:
    stored = record(["a", "b"])
    stored.views[0]["images"][0]["picture"] = "http://example.org/x.png"
    assert "example.org" not in report_page(Run("r", stored, {}, None))


def test_a_comparison_shows_what_differs_and_links_to_the_reports() -> None:
    one, two = record(["a", "b"]), record(["a", "b"])
    two.run["facts"]["Seed"] = "1"
    configs = [f"model:\n  init_args: {{lr: {lr}}}\nseed: 3" for lr in (1, 2)]
    runs = {
        name: Run(name, of, CURVES, config)
        for name, of, config in zip((HOSTILE, "b"), (one, two), configs, strict=True)
    }
    page = check_page(comparison_page(runs, {"b": "b/report.html"}))
    assert page.ids() == ["val", "curves", "differences"]
    assert "model.lr" in page.texts
    assert "seed" not in page.texts
    linked = [a["href"] for tag, a in page.elements if tag == "a"]
    assert linked.count("b/report.html") == 2  # in the list of runs and in the table
    assert {href for href in linked if not str(href).startswith("#")} == {"b/report.html"}


def test_what_is_stored_comes_back_and_is_json_for_anyone() -> None:
    stored = record([f"{HOSTILE}{k}" for k in range(3)])
    stored.evaluations["val"]["metrics"]["nll"] = float("nan")
    write_record(stored, ".")
    for name in ("report.json", "metrics.json"):
        json.loads(Path(name).read_text(), parse_constant=lambda name: pytest.fail(name))
    found = read_record(".")
    assert found is not None
    assert found.evaluations["val"]["metrics"]["nll"] is None
    metrics = json.loads(Path("metrics.json").read_text())["val"]
    assert metrics["updates"] == 100
    assert metrics["accuracy"] == metrics_of(stored)["val"]["accuracy"]
    assert set(metrics["classes"]) == {f"{HOSTILE}{k}" for k in range(3)}
    assert metrics["classes"][f"{HOSTILE}0"].keys() == {"images", "accuracy", "precision", "f1"}
    Path("report.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match=r"report\.json' is no record of a report: it is of"):
        read_record(".")


def test_axes_and_curves() -> None:
    assert ticks(0.03, 0.97) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(-3, 1003) == [0, 200, 400, 600, 800, 1000]
    assert ticks(1e-4, 1.1e-4) == pytest.approx([1e-4, 1.02e-4, 1.04e-4, 1.06e-4, 1.08e-4, 1.1e-4])
    drawn = line_chart("title", {"a": ([0, 10], [0.0, 2.0]), "none": ([1], [float("nan")])})
    (points,) = [a["points"] for tag, a in Page(drawn).elements if tag == "polyline"]
    (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in str(points).split())
    assert x2 > x1
    assert y2 < y1  # up
    assert "none" not in drawn
    assert line_chart("title", {"a": ([], [])}) == ""


def test_a_plane_needs_two_images() -> None:
    one = torch.ones(1, 4)
    assert describe_projection(one, torch.zeros(1).long(), None, None) is None
    found = describe_projection(
        torch.eye(4), torch.tensor([0, 1, -1, 0]), torch.eye(4)[:1], torch.tensor([1])
    )
    assert found is not None
    assert [point[2:] for point in found["points"]] == [
        [0, False], [1, False], [-1, False], [0, False], [1, True],
    ]  # fmt: skip
    assert found["points"][0][:2] == found["points"][4][:2]
