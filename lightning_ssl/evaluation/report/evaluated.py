"""The section of an evaluation: how right, where wrong, how honest."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from lightning_ssl.evaluation.report.charts import Point, reliability_chart, scatter_chart
from lightning_ssl.evaluation.report.markup import Html, join, tag, void
from lightning_ssl.evaluation.report.parts import (
    cards,
    number,
    percent,
    picture,
    row,
    section,
    share,
    table,
)
from lightning_ssl.evaluation.report.pictures import as_mask

TITLES = {"val": "Validation part", "test": "Test set"}

_COUNTED = 20  # up to so many classes a confusion matrix shows its numbers
_NAMED = 40  # and the names of the classes
_ACCENT, _BAD = (58, 116, 214), (205, 70, 55)


def evaluated(stage: str, found: dict[str, Any], classes: Sequence[str]) -> tuple[str, str, Html]:
    """Show an evaluation.

    Args:
        stage: ``val`` or ``test``.
        found: What is stored of it.
        classes: Class names.
    """
    known = bool(found.get("metrics"))
    return section(
        stage,
        TITLES[stage],
        tag("p", _which(stage, found)),
        _numbers(found) if known else tag("p", "No class of these images is known."),
        _by_class(found, classes) if known else None,
        _honesty(stage, found) if known else None,
        _projection(found, classes),
        *(_shown(found, classes) if known else ()),
    )


def _which(stage: str, found: dict[str, Any]) -> str:
    what = f"{found['images']} images, by the weights after {found['updates']} updates"
    if found.get("checkpoint"):
        what += f" ({found['checkpoint']})"
    if stage == "val":
        return f"{what}. They were set apart from training."
    if found.get("watched"):
        what += (
            ". The data has no validation part, so the test set was looked at while training; "
            "nothing was selected on it"
        )
    return f"{what}."


def summary(found: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The first numbers of an evaluation.

    Args:
        found: What is stored of it, with metrics.

    Returns:
        Name to number and remark.
    """
    metrics = found["metrics"]
    after = metrics["temperature"] is not None

    def scaled(value: float | None, text: Any) -> str | None:
        return f"{text(value)} with temperature" if after else None

    return {
        "Accuracy": (percent(metrics["accuracy"]), None),
        "Balanced accuracy": (percent(metrics["balanced_accuracy"]), "mean over classes"),
        "Macro F1": (number(metrics["macro_f1"]), None),
        "Calibration error": (percent(metrics["ece"]), scaled(metrics["ece_after"], percent)),
        "Neg. log likelihood": (number(metrics["nll"]), scaled(metrics["nll_after"], number)),
    }


def _numbers(found: dict[str, Any]) -> Html:
    return cards(summary(found))


def _by_class(found: dict[str, Any], classes: Sequence[str]) -> Html:
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for true, predicted, count in found["confusion"]:
        matrix[true, predicted] = count
    head = ("class", "images", "accuracy", "precision", "F1")
    scores, title = found["classes"], "Accuracy of each class"
    if len(scores) > _COUNTED:
        scores = sorted(scores, key=lambda of: (of["accuracy"] is None, of["accuracy"]))
        title += ", worst first"
    rows = [
        row(
            of["name"],
            str(of["images"]),
            share(of["accuracy"]),
            percent(of["precision"]),
            number(of["f1"]),
        )
        for of in scores
    ]
    about = "A row for each class that images have, a column for each that they get."
    return tag(
        "div",
        tag("div", tag("h3", title), table(head, rows), _pairs(matrix, classes)),
        tag(
            "div",
            tag("h3", "Confusion matrix"),
            tag("p", about, class_="soft"),
            tag("figure", _matrix(matrix, classes)),
        ),
        class_="wide",
    )


def _matrix(matrix: torch.Tensor, classes: Sequence[str]) -> Html:
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    count = len(classes)
    named = count <= _NAMED
    cell = max(9, min(44, 480 // count)) if named else 420 / count
    left = 12 + 6.2 * min(16, max(map(len, classes))) if named else 4
    side, top = cell * count, left if named else 4
    parts: list[Html] = []
    if named:
        parts += _names(classes, cell, left, top)
    if count > _COUNTED:  # one picture instead of thousands of elements
        right = torch.eye(count, dtype=torch.bool)
        place = {"x": left, "y": top, "width": side, "height": side, "class_": "tiny"}
        for color, kept in ((_ACCENT, right), (_BAD, ~right)):
            shades = torch.where(kept, shares, 0).sqrt()
            parts.append(void("image", href=as_mask(shades, color), **place))
    else:
        parts += _cells(matrix, shares, classes, cell, left, top)
    parts.append(void("rect", x=left, y=top, width=side, height=side, class_="frame"))
    width, height = math.ceil(left + side + 4), math.ceil(top + side + 4)
    style = f"max-width:{width}px"
    title = tag("title", "Confusion matrix")
    box = f"0 0 {width} {height}"
    return tag("svg", title, *parts, viewBox=box, role="img", class_="chart", style=style)


def _names(classes: Sequence[str], cell: float, left: float, top: float) -> list[Html]:
    size, longest = f"font-size:{min(11, cell):.0f}px", max(map(len, classes))
    parts = []
    for place, name in enumerate(classes):
        short = name if len(name) <= 16 else f"{name[:15]}…"
        middle = (place + 0.5) * cell
        label, about = {"class_": "end", "style": size}, tag("title", name)
        parts.append(tag("text", about, short, x=left - 6, y=round(top + middle + 4, 1), **label))
        x, y = round(left + middle, 1), top - 6
        if longest > 2:
            turn = f"rotate(-90 {x + 4} {y})"
            parts.append(tag("text", about, short, x=x + 4, y=y, transform=turn, style=size))
        else:
            parts.append(tag("text", about, short, x=x, y=y, class_="mid", style=size))
    return parts


def _cells(
    matrix: torch.Tensor,
    shares: torch.Tensor,
    classes: Sequence[str],
    cell: float,
    left: float,
    top: float,
) -> list[Html]:
    parts = []
    for i, j in torch.nonzero(matrix).tolist():
        count, part = int(matrix[i, j]), float(shares[i, j])
        x, y = round(left + j * cell, 1), round(top + i * cell, 1)
        about = tag("title", f"{classes[i]} taken for {classes[j]}: {count} ({part:.1%})")
        shade = f"fill-opacity:{0.08 + 0.92 * part**0.5:.2f}"
        kind = "cell" if i == j else "cell wrong"
        parts.append(
            tag("rect", about, x=x, y=y, width=cell, height=cell, class_=kind, style=shade)
        )
        if cell >= 18:
            middle = {"x": round(x + cell / 2, 1), "y": round(y + cell / 2 + 4, 1)}
            parts.append(tag("text", str(count), **middle, class_=_contrast(part)))
    return parts


def _contrast(part: float) -> str:
    return "count light" if part > 0.4 else "count"


def _pairs(matrix: torch.Tensor, classes: Sequence[str]) -> Html:
    wrong = matrix - matrix.diagonal().diag()
    order = wrong.flatten().argsort(descending=True, stable=True)[:8].tolist()
    rows = []
    for place in order:
        true, predicted = divmod(place, len(classes))
        if wrong[true, predicted]:
            taken = tag("td", classes[predicted], class_="name")
            rows.append(row(classes[true], taken, str(int(wrong[true, predicted]))))
    if not rows:
        return tag("p", "No image is taken for one of another class.")
    return join(
        tag("h3", "Most frequent confusions"),
        table(("class", "taken for", "images"), rows, "pairs"),
    )


def _honesty(stage: str, found: dict[str, Any]) -> Html:
    metrics, bins = found["metrics"], found["bins"]
    charts = [reliability_chart(f"As predicted: error {percent(metrics['ece'])}", bins["before"])]
    about = (
        "Bars show how many of the predictions of a confidence are right, the red part by how much "
        "that differs from the confidence; the fainter a bar, the fewer predictions it stands for."
    )
    temperature = metrics["temperature"]
    if temperature is None:
        about += " No temperature is known, as there was no validation part to fit it to."
    else:
        of = "these images themselves" if stage == "val" else "the validation part"
        about += f" The temperature {temperature:.3g} was fitted to {of}."
        title = f"Logits divided by {temperature:.3g}: error {percent(metrics['ece_after'])}"
        charts.append(reliability_chart(title, bins["after"]))
    return join(
        tag("h3", "Is the confidence honest?"),
        tag("p", about, class_="soft"),
        tag("div", *charts, class_="wide"),
    )


def _projection(found: dict[str, Any], classes: Sequence[str]) -> Html | None:
    projection = found.get("projection")
    if not projection:
        return None
    points = [Point(*values) for values in projection["points"]]
    labeled = sum(point.marked for point in points)
    about = f"Principal components of the features of {len(points) - labeled} of these images"
    if labeled:
        about += f", and, larger and with a rim, of {labeled} labelled images of training"
    first, second = (f"{part:.0%} of the variance" for part in projection["explained"])
    title = "Features on a plane"
    chart = scatter_chart(title, points, classes, (f"first, {first}", f"second, {second}"))
    return join(tag("h3", title), tag("p", f"{about}.", class_="soft"), chart)


def _shown(found: dict[str, Any], classes: Sequence[str]) -> list[Html]:
    out = []
    for name, title in (
        ("mistakes", "Most confident mistakes"),
        ("uncertain", "Least certain images"),
    ):
        items = [_image(image, classes) for image in found[name]]
        content = tag("ul", *items, class_="shown") if items else tag("p", "There are none.")
        out += [tag("h3", title), content]
    return out


def _image(image: dict[str, Any], classes: Sequence[str]) -> Html:
    first, second = image["predicted"]
    p, q = (f"{100 * value:.1f} %" for value in image["confidence"])
    true = classes[image["target"]]
    said = join(tag("strong", classes[first]), f" {p}")
    other = join(f"then {classes[second]} {q}")
    texts = [tag("div", said), tag("div", other, class_="soft"), tag("div", f"is {true}")]
    name = image["name"]
    path = tag("div", f"image {name}" if name.isdecimal() else name, class_="path")
    return tag("li", picture(image.get("picture"), true), tag("div", *texts, path))
