"""Charts as SVG inside a page: they take its colours, light or dark, and scale with its width.

matplotlib's would be of one colour scheme, three times as large, and take 0.4 s a page, not 0.01 s.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_ssl.evaluation.report.markup import Html, join, tag, void

Curve = tuple[Sequence[float], Sequence[float]]

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 12, 40
_MOST_POINTS = 400  # of a curve; more could not be told apart


def color(number: int, of: int = 10) -> str:
    """A colour of the page.

    Args:
        number: Which.
        of: How many are to be told apart.

    Returns:
        One of ten of the style sheet; of more a hue.
    """
    if of <= 10:
        return f"var(--c{number % 10})"
    return f"hsl({360 * number / of:.0f} 62% 52%)"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in a range.

    Args:
        low: Its lower end.
        high: Its upper end, above it.
        most: How many at most, about.

    Example:
        >>> ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


class _Area(NamedTuple):
    """Where values lie in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = _WIDTH
    height: int = _HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        inner = (self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM)
        return round(_LEFT + across * inner[0], 1), round(_TOP + (1 - up) * inner[1], 1)

    def axes(self, label_x: str, label_y: str) -> Html:
        parts = []
        for value in ticks(*self.x):
            x, y = self.at(value, self.y[0])
            parts.append(tag("text", short(value), x=x, y=y + 15, class_="tick mid"))
        for value in ticks(*self.y, most=5):
            x, y = self.at(self.x[0], value)
            end = self.at(self.x[1], value)[0]
            parts.append(void("line", x1=x, y1=y, x2=end, y2=y, class_="grid"))
            parts.append(tag("text", short(value), x=x - 6, y=y + 4, class_="tick end"))
        (left, bottom), right = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[0])[0]
        parts.append(void("line", x1=left, y1=bottom, x2=right, y2=bottom, class_="axis"))
        middle = (left + right) / 2
        parts.append(tag("text", label_x, x=middle, y=self.height - 6, class_="label mid"))
        turn = f"rotate(-90 11 {self.height / 2 - 14:.0f})"
        parts.append(
            tag("text", label_y, x=11, y=self.height / 2 - 14, transform=turn, class_="label mid")
            if label_y
            else Html()
        )
        return join(*parts)

    def svg(self, title: str, *parts: Html) -> Html:
        box = f"0 0 {self.width} {self.height}"
        return tag("svg", tag("title", title), *parts, viewBox=box, role="img", class_="chart")


def short(value: float) -> str:
    """A number as short as an axis wants it.

    Args:
        value: The number.

    Example:
        >>> short(20000.0), short(0.25), short(1e-5)
        ('20k', '0.25', '1e-05')
    """
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def line_chart(title: str, curves: Mapping[str, Curve], unit: str = "") -> Html:
    """Draw curves over the optimizer updates, with a legend.

    Args:
        title: What they show.
        curves: Name to updates and values; those that are not finite leave a gap.
        unit: Label of the values.
    """
    points = {
        name: [(x, y) for x, y in zip(*curve, strict=True) if math.isfinite(y)]
        for name, curve in curves.items()
    }
    points = {name: found for name, found in points.items() if found}
    if not points:
        return Html()
    xs = [x for found in points.values() for x, _ in found]
    ys = [y for found in points.values() for _, y in found]
    area = _Area(_wider(min(0, min(xs)), max(xs), 0), _wider(min(ys), max(ys), 0.05))
    parts = [area.axes("optimizer updates", unit)]
    for number, found in enumerate(points.values()):
        stride = math.ceil(len(found) / _MOST_POINTS)
        thinned = [*found[:-1:stride], found[-1]]
        drawn = " ".join("{},{}".format(*area.at(x, y)) for x, y in thinned)
        stroke = f"stroke:{color(number, len(points))}"
        parts.append(void("polyline", points=drawn, class_="curve", style=stroke))
        x, y = area.at(*found[-1])
        fill = f"fill:{color(number, len(points))}"
        parts.append(void("circle", cx=x, cy=y, r=2.5, style=fill))
    last = {name: f"{name} {short(float(f'{found[-1][1]:.4g}'))}" for name, found in points.items()}
    return _figure(title, area.svg(title, *parts), legend([*last.values()]))


def _wider(low: float, high: float, share: float) -> tuple[float, float]:
    gap = (high - low) * share or (0 if high > low else abs(high) * 0.1 or 1)
    return low - gap, high + gap


def legend(names: Sequence[str], total: int | None = None) -> Html:
    """Name the colours.

    Args:
        names: The first name has the first colour.
        total: How many colours there are; None for one for each name.
    """
    count = len(names) if total is None else total
    entries = [
        tag("li", tag("i", style=f"background:{color(number, count)}"), name)
        for number, name in enumerate(names)
    ]
    return tag("ul", *entries, class_="legend")


def _figure(title: str, chart: Html, *below: Html) -> Html:
    return tag("figure", tag("figcaption", title), chart, *below)


def reliability_chart(title: str, bins: Sequence[Sequence[float | None]]) -> Html:
    """Draw accuracy against confidence, with the number of predictions behind each bar.

    Args:
        title: What it shows.
        bins: Of bins of equal width in [0, 1] the number of predictions, their mean confidence and
            their accuracy; None where there are none.
    """
    area = _Area((0, 1), (0, 1), width=460, height=320)
    parts = [area.axes("confidence", "accuracy")]
    total = sum(count or 0 for count, _, _ in bins)
    for number, (count, confidence, accuracy) in enumerate(bins):
        if not count or confidence is None or accuracy is None:
            continue
        left, right = number / len(bins), (number + 1) / len(bins)
        about = f"{int(count)} predictions, confidence {confidence:.1%}, accuracy {accuracy:.1%}"
        share = f"fill-opacity:{0.35 + 0.65 * count / total:.2f}"
        parts.append(_bar(area, (left, right), (0, accuracy), "bar", about, share))
        gap = sorted((confidence, accuracy))
        parts.append(_bar(area, (left, right), (gap[0], gap[1]), "gap", about))
    (x1, y1), (x2, y2) = area.at(0, 0), area.at(1, 1)
    parts.append(void("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="diagonal"))
    return _figure(title, area.svg(title, *parts))


def _bar(
    area: _Area,
    x: tuple[float, float],
    y: tuple[float, float],
    kind: str,
    about: str,
    style: str | None = None,
) -> Html:
    (left, top), (right, bottom) = area.at(x[0], y[1]), area.at(x[1], y[0])
    size = {"width": round(right - left - 1, 1), "height": round(bottom - top, 1)}
    return tag("rect", tag("title", about), x=left, y=top, **size, class_=kind, style=style)


class Point(NamedTuple):
    """An image on the plane.

    Attributes:
        x: Where.
        y: Where.
        group: Number of its class; -1 where unknown.
        marked: Whether it is drawn larger, with a rim.
    """

    x: float
    y: float
    group: int
    marked: bool = False


def scatter_chart(
    title: str, points: Sequence[Point], names: Sequence[str], labels: tuple[str, str]
) -> Html:
    """Draw points, coloured by group; the marked ones lie on top.

    Args:
        title: What they show.
        points: The points, at least one.
        names: Name of each group; up to 20 are listed.
        labels: Of the two axes.
    """
    xs, ys = [p.x for p in points], [p.y for p in points]
    area = _Area(
        _wider(min(xs), max(xs), 0.04), _wider(min(ys), max(ys), 0.04), width=640, height=440
    )
    parts = [area.axes(*labels)]
    for point in sorted(points, key=lambda point: point.marked):
        x, y = area.at(point.x, point.y)
        known = point.group >= 0
        name = names[point.group] if known else "unknown class"
        fill = f"fill:{color(point.group, len(names)) if known else 'var(--faint)'}"
        kind = "dot marked" if point.marked else "dot"
        about = tag("title", f"{name}, labelled" if point.marked else name)
        radius = 4 if point.marked else 3
        parts.append(tag("circle", about, cx=x, cy=y, r=radius, class_=kind, style=fill))
    shown = legend(names, len(names)) if len(names) <= 20 else Html()
    return tag("figure", area.svg(title, *parts), shown)
