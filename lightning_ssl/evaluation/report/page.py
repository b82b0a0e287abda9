"""The report of a run, and the page that compares several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
_MOST_CLASSES = 30  # whose images are shown
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
    if "seconds" in record.run:
        shown["Wall time"] = (duration(record.run["seconds"]), record.run.get("span"))
    out = [tag("p", line, class_="soft")]
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
        tag("pre", command, class_="command") if command else None,
        table(("", ""), facts) if facts else None,
        tag("details", tag("summary", "Every option"), tag("pre", run.config))
        if run.config
        else None,
    )


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
    groups: dict[str, list[Html]] = {}
    for example in data.get("examples", []):
        name = "unlabelled" if example["class"] is None else data["classes"][example["class"]]
        groups.setdefault(name, []).append(picture(example["picture"], example["name"]))
    if not any(any(pictures) for pictures in groups.values()):
        return None
    rows = [
        row(name, tag("td", tag("div", *pictures, class_="strip")))
        for name, pictures in groups.items()
    ]
    return join(tag("h3", "Labelled and unlabelled images"), table(("class", "images"), rows))


def _views(record: Record) -> Section:
    blocks: list[Html] = []
    for stream in record.views:
        blocks.append(tag("h3", f"{_PARTS[stream['stream']].capitalize()} images"))
        rows = [tag("div", *_row_of_views(image), class_="views") for image in stream["images"]]
        blocks.append(tag("div", *rows, class_="scroll", tabindex=0))
    about = "What the method sees of some images; each step draws other views."
    if record.data.get("cached"):
        about = (
            "The run was trained on stored features of these images' views, drawn before; the "
            "views themselves were not kept, so the images are shown."
        )
    return section("views", "Views", tag("p", about, class_="soft"), *blocks)


def _row_of_views(image: dict[str, Any]) -> list[Html]:
    columns = {"image": [image["picture"]], **image["views"]}
    return [
        tag(
            "figure",
            tag("figcaption", f"{name}, {len(shown)}" if len(shown) > 1 else name),
            tag(
                "div", *(picture(uri, f"{name}: {image['name']}") for uri in shown), class_="strip"
            ),
        )
        for name, shown in columns.items()
    ]


def _curves(curves: Mapping[str, Curve]) -> Section:
    panels = {title: [n for n in names if n in curves] for title, names in _PANELS.items()}
    panels["Losses"] += sorted(n for n in curves if n.startswith("train/loss_"))[:_MOST_PANELS]
    charts = [
        line_chart(title, {name: curves[name] for name in names})
        for title, names in panels.items()
        if names
    ]
    return section("curves", "Training", tag("div", *charts, class_="grid"))


def comparison_page(runs: Mapping[str, Run]) -> str:
    """Several runs side by side.

    Args:
        runs: Address of each run's own report, or a text of which nothing is there, to the run.

    Returns:
        A page in HTML that needs nothing else; it links to the reports.
    """
    facts = list(dict.fromkeys(n for run in runs.values() for n in run.record.run.get("facts", {})))
    differing = [
        name
        for name in facts
        if len({run.record.run.get("facts", {}).get(name) for run in runs.values()}) > 1
    ]
    sections = [
        *(found for stage in TITLES if (found := _compared(stage, runs))),
        section("curves", "Training", tag("div", *_overlaid(runs), class_="grid")),
        section("differences", "What differs", _differences(differing, runs)),
    ]
    names = ", ".join(run.name for run in runs.values())
    return page(f"{len(runs)} runs", tag("p", names, class_="soft"), sections, _END)


def _compared(stage: str, runs: Mapping[str, Run]) -> Section | None:
    head = (
        *("run", "images", "updates", "accuracy", "balanced", "macro F1", "NLL"),
        *("calibration error", "with temperature", "wall time"),
    )
    rows = []
    for link, run in runs.items():
        found = run.record.evaluations.get(stage)
        if not found or not found.get("metrics"):
            continue
        metrics = found["metrics"]
        name = tag("th", tag("a", run.name, href=link) if link else run.name, scope="row")
        cells = [
            *(str(found["images"]), str(found["updates"]), percent(metrics["accuracy"])),
            *(percent(metrics["balanced_accuracy"]), number(metrics["macro_f1"])),
            *(number(metrics["nll"]), percent(metrics["ece"]), percent(metrics["ece_after"])),
            duration(run.record.run.get("seconds")),
        ]
        rows.append(tag("tr", name, *(tag("td", cell) for cell in cells)))
    return section(stage, TITLES[stage], table(head, rows)) if rows else None


def _overlaid(runs: Mapping[str, Run]) -> list[Html]:
    names = list(dict.fromkeys(name for panel in _PANELS.values() for name in panel))
    charts = []
    for name in names:
        curves = {run.name: run.curves[name] for run in runs.values() if name in run.curves}
        if curves:
            charts.append(line_chart(name, curves))
    return charts


def _differences(names: Sequence[str], runs: Mapping[str, Run]) -> Html:
    rows = [
        row(
            name,
            *(
                tag("td", run.record.run.get("facts", {}).get(name, NONE), class_="wrap")
                for run in runs.values()
            ),
        )
        for name in names
    ]
    return table(("", *(run.name for run in runs.values())), rows)
