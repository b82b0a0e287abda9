"""The report of a run, and the page that compares several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote, split
from typing import Any

import yaml

from lightning_ssl.evaluation.report.charts import Curve, line_chart
from lightning_ssl.evaluation.report.evaluated import TITLES, evaluated, summary
from lightning_ssl.evaluation.report.markup import Html, join, tag
from lightning_ssl.evaluation.report.parts import (
    NONE,
    cards,
    duration,
    number,
    page,
    percent,
    picture,
    row,
    section,
    share,
    strip,
    table,
)
from lightning_ssl.evaluation.report.record import Record

Section = tuple[str, str, Html]

_PANELS = {
    "Losses": ("train/loss",),
    "Accuracy": ("val/acc", "val/balanced_acc", "test/acc", "test/balanced_acc"),
    "Calibration error": ("val/ece", "test/ece"),
    "Negative log likelihood": ("val/nll", "test/nll"),
    "Pseudo-labels": ("train/mask_rate", "train/pseudo_acc", "train/outlier_rate"),
    "Learning rate": ("train/lr",),
}
_PARTS = {
    "labeled": "labelled",
    "pseudo": "pseudo-labelled",
    "unlabeled": "unlabelled",
    "val": "validation",
    "test": "test",
}
_MOST_PANELS = 8


@dataclass(frozen=True)
class Run:
    """What a page is made of.

    Attributes:
        name: Of its folder.
        record: What is stored of it.
        curves: Logged name to updates and values.
        config: Its ``config.yaml``; None where there is none.
        remarks: What has to be said first.
    """

    name: str
    record: Record
    curves: Mapping[str, Curve]
    config: str | None
    remarks: Sequence[str] = ()


def report_page(run: Run) -> str:
    """The report of a run.

    Args:
        run: The run.

    Returns:
        A page in HTML that needs nothing else.
    """
    record = run.record
    classes = record.data.get("classes", [])
    found = record.evaluations
    sections = [
        _run(run),
        *([_data(record)] if record.data else []),
        *([_views(record)] if record.views else []),
        *([_curves(run.curves)] if run.curves else []),
        *(evaluated(stage, found[stage], classes) for stage in TITLES if stage in found),
    ]
    intro = [tag("p", remark, class_="note") for remark in run.remarks]
    return page(record.run.get("title", run.name), join(*_first(record), *intro), sections, _END)


_END = "Written by lightning_ssl."


def _first(record: Record) -> list[Html]:
    facts = record.run.get("facts", {})
    stage, found = next(
        ((s, f) for s, f in record.evaluations.items() if f.get("metrics")), ("", {})
    )
    line = " · ".join(facts[name] for name in ("Data", "Labels", "Finished") if name in facts)
    shown = summary(found) if found else {}
    out = [tag("p", line, class_="soft")]
    if "seconds" in record.run:
        shown["Wall time"] = (duration(record.run["seconds"]), record.run.get("span"))
    if record.data and not record.evaluations:
        why = "Nothing was evaluated: no images were held out, or none were to be looked at."
        out.append(tag("p", why, class_="note"))
    if found:
        which = TITLES[stage].lower()
        out.append(tag("p", f"On the {which}, {found['images']} images:"))
    return [*out, cards(shown)] if shown else out


def _run(run: Run) -> Section:
    record = run.record
    command = record.run.get("command")
    facts = [
        row(name, tag("td", text, class_="wrap"))
        for name, text in record.run.get("facts", {}).items()
    ]
    return section(
        "run",
        "Run",
        _command(command) if command else None,
        table((), facts, "texts") if facts else None,
        tag("details", tag("summary", "Every option"), tag("pre", run.config))
        if run.config
        else None,
    )


def _command(command: str) -> Html:
    """A command that is broken between its arguments alone."""
    words = [tag("span", quote(word)) for word in split(command)]
    return tag("pre", *(part for word in words for part in (word, " ")), class_="command")


def _data(record: Record) -> Section:
    data = record.data
    counts, unknown = data["counts"], data["unknown"]
    parts = [part for part in _PARTS if part in counts]
    rows = [
        row(name, *(str(counts[part][place]) for part in parts))
        for place, name in enumerate(data["classes"])
    ]
    if any(unknown.get(part) for part in parts):
        rows.append(row("unknown class", *(str(unknown.get(part, 0)) for part in parts)))
    totals = [sum(counts[part]) + unknown.get(part, 0) for part in parts]
    rows.append(row("all", *map(str, totals), class_="total"))
    return section(
        "data",
        "Data and split",
        table(("class", *(_PARTS[part] for part in parts)), rows),
        tag("p", _hidden(counts), class_="soft"),
        _examples(data),
    )


def _hidden(counts: dict[str, list[int]]) -> str:
    if not sum(counts.get("unlabeled", [])):
        return ""
    return (
        "Classes of unlabelled images are those that the data knows. Training does not see them; "
        "labelled images may be among the unlabelled ones."
    )


def _examples(data: dict[str, Any]) -> Html | None:
    groups: dict[int | None, list[Html]] = {}
    for example in data.get("examples", []):
        shown = picture(example["picture"], example["name"])
        groups.setdefault(example["class"], []).append(shown)
    unlabeled = groups.pop(None, [])
    blocks = [
        tag("figure", tag("figcaption", data["classes"][number]), strip(pictures))
        for number, pictures in groups.items()
    ]
    more = len(data["classes"]) - len(blocks)
    return join(
        tag("h3", "Labelled images") if blocks else None,
        tag("div", *blocks, class_="grid examples"),
        tag("p", f"And {more} further classes.", class_="soft") if blocks and more else None,
        tag("h3", "Unlabelled images") if unlabeled else None,
        strip(unlabeled),
    )


def _views(record: Record) -> Section:
    blocks = [
        tag(
            "div",
            tag("h3", f"{_PARTS[stream['stream']].capitalize()} images"),
            _table_of_views(stream["images"]),
        )
        for stream in record.views
    ]
    about = "What the method sees of some images; each step draws other views."
    if record.data.get("cached"):
        about = (
            "The run was trained on stored features of these images' views, drawn before; the "
            "views themselves were not kept, so the images are shown."
        )
    widest = max(sum(map(len, stream["images"][0]["views"].values())) for stream in record.views)
    layout = "wide" if widest < 5 else None
    return section(
        "views", "Views", tag("p", about, class_="soft"), tag("div", *blocks, class_=layout)
    )


def _table_of_views(images: Sequence[dict[str, Any]]) -> Html:
    head = ["image", *images[0]["views"]]
    rows = []
    for image in images:
        shown = {"image": [image["picture"]], **image["views"]}
        about = image["name"]
        cells = [strip(picture(uri, f"{name}: {about}") for uri in shown[name]) for name in head]
        rows.append(tag("tr", *(tag("td", cell) for cell in cells)))
    return tag("div", table(head, rows), class_="views")


def _curves(curves: Mapping[str, Curve]) -> Section:
    panels = {title: [n for n in names if n in curves] for title, names in _PANELS.items()}
    panels["Losses"] += sorted(n for n in curves if n.startswith("train/loss_"))[:_MOST_PANELS]
    charts = [
        line_chart(title, {name: curves[name] for name in names})
        for title, names in panels.items()
        if names
    ]
    return section("curves", "Training", tag("div", *charts, class_="grid"))


def comparison_page(runs: Mapping[str, Run], links: Mapping[str, str]) -> str:
    """Several runs side by side.

    Args:
        runs: What to call a run, to the run.
        links: The same to the address of its own report, where there is one.

    Returns:
        A page in HTML that needs nothing but these.
    """
    options = {
        name: {**run.record.run.get("facts", {}), **_options(run.config)}
        for name, run in runs.items()
    }
    known = dict.fromkeys(option for of_run in options.values() for option in of_run)
    rows = [
        row(option, *(tag("td", of.get(option, NONE), class_="wrap") for of in options.values()))
        for option in known
        if len({of.get(option) for of in options.values()}) > 1
    ]
    sections = [
        *(_compared(stage, runs, links) for stage in TITLES),
        section("curves", "Training", tag("div", *_overlaid(runs), class_="grid")),
        section("differences", "What differs", table(("", *runs), rows, "texts")) if rows else None,
    ]
    shown = [found for found in sections if found is not None]
    names = [tag("li", tag("a", n, href=links[n]) if n in links else n) for n in runs]
    return page(f"{len(runs)} runs", tag("ul", *names), shown, _END)


def _options(config: str | None) -> dict[str, str]:
    """Options by their names on the command line."""
    try:
        found = yaml.safe_load(config or "")
    except yaml.YAMLError:
        return {}
    return dict(_flat(found, "")) if isinstance(found, dict) else {}


def _flat(options: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        path = prefix if name == "init_args" else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, dict):
            yield from _flat(value, path)
        else:
            yield path, "null" if value is None else str(value)


def _compared(stage: str, runs: Mapping[str, Run], links: Mapping[str, str]) -> Section | None:
    head = (
        *("run", "images", "updates", "accuracy", "balanced", "macro F1", "likelihood"),
        *("calibration", "with temperature", "wall time"),
    )
    rows = []
    for name, run in runs.items():
        found = run.record.evaluations.get(stage)
        if not found or not found.get("metrics"):
            continue
        metrics = found["metrics"]
        cells = [
            *(str(found["images"]), str(found["updates"]), share(metrics["accuracy"])),
            *(percent(metrics["balanced_accuracy"]), number(metrics["macro_f1"])),
            *(number(metrics["nll"]), percent(metrics["ece"]), percent(metrics["ece_after"])),
            duration(run.record.run.get("seconds")),
        ]
        rows.append(row(name, *cells, link=links.get(name)))
    return section(stage, TITLES[stage], table(head, rows)) if rows else None


def _overlaid(runs: Mapping[str, Run]) -> list[Html]:
    charts = []
    for logged in (name for panel in _PANELS.values() for name in panel):
        curves = {name: run.curves[logged] for name, run in runs.items() if logged in run.curves}
        if curves:
            charts.append(line_chart(logged, curves))
    return charts
