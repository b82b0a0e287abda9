"""Parts of a page that several sections have: numbers, tables, pictures, the page itself."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_ssl.evaluation.report.markup import Html, join, tag, void
from lightning_ssl.evaluation.report.pictures import is_tiny
from lightning_ssl.evaluation.report.style import STYLE

NONE = "\N{EN DASH}"
"""Where there is no number."""


def percent(value: float | None) -> str:
    """A share in percent; a dash where there is none.

    Args:
        value: In [0, 1].
    """
    return NONE if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A number with three decimals; a dash where there is none.

    Args:
        value: The number.
    """
    return NONE if value is None else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """A time as one says it.

    Args:
        seconds: Its length.

    Example:
        >>> duration(7384.0), duration(42.34)
        ('2 h 3 min', '42.3 s')
    """
    if seconds is None:
        return NONE
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def cards(values: Mapping[str, tuple[str, str | None]]) -> Html:
    """Numbers that are read first.

    Args:
        values: Name to the number and a remark.
    """
    items = [
        tag("div", tag("dt", name), tag("dd", value, None if note is None else tag("small", note)))
        for name, (value, note) in values.items()
    ]
    return tag("dl", *items, class_="cards")


def table(head: Sequence[str], rows: Sequence[Html], class_: str | None = None) -> Html:
    """A table that scrolls inside its box.

    Args:
        head: Names of the columns; none where the rows say it.
        rows: Its rows, see :func:`row`.
        class_: ``texts`` where the cells are no numbers, ``pairs`` where the second ones are none.
    """
    names = [tag("th", name, scope="col") for name in head]
    top = tag("thead", tag("tr", *names)) if names else None
    inner = tag("table", top, tag("tbody", *rows), class_=class_)
    # In the order of the keys, so that it can be scrolled without a mouse.
    return tag("div", inner, class_="scroll", tabindex=0)


def row(name: str, *cells: str, class_: str | None = None, link: str | None = None) -> Html:
    """A row of a table.

    Args:
        name: What it is about.
        *cells: Texts, or whole cells.
        class_: Of the row.
        link: Where the name leads.
    """
    shown = [
        cell if isinstance(cell, Html) and cell.startswith("<td") else tag("td", cell)
        for cell in cells
    ]
    head = name if link is None else tag("a", name, href=link)
    return tag("tr", tag("th", head, scope="row", title=name), *shown, class_=class_)


def strip(pictures: Iterable[Html]) -> Html:
    """Pictures side by side.

    Args:
        pictures: What :func:`picture` makes.
    """
    return tag("div", *pictures, class_="strip")


def share(value: float | None) -> Html:
    """A cell with a share in percent, and a bar of its length.

    Args:
        value: In [0, 1].
    """
    width = f"width:{100 * (value or 0):.1f}%"
    return tag("td", tag("i", style=width), tag("b", percent(value)), class_="share")


def picture(uri: Any, about: str) -> Html:
    """An image that lies in the page; nothing where there is none.

    Args:
        uri: What :func:`~lightning_ssl.evaluation.report.pictures.as_uri` returned, or None.
        about: What it shows, for those who do not see it.
    """
    if not isinstance(uri, str) or not uri.startswith("data:image/"):
        return Html()
    kind = "tiny" if is_tiny(uri) else None
    return void("img", src=uri, alt=about, title=about, class_=kind)


def section(name: str, title: str, *content: Html | None) -> tuple[str, str, Html]:
    """A section of the page.

    Args:
        name: Its anchor.
        title: Its heading.
        *content: What it holds.

    Returns:
        Anchor, heading and markup.
    """
    body = join(*content)
    return name, title, tag("section", tag("h2", title), body, id=name)


def page(title: str, intro: Html, sections: Sequence[tuple[str, str, Html]], end: str) -> str:
    """A whole page.

    Args:
        title: Its heading.
        intro: What follows the heading.
        sections: See :func:`section`.
        end: Its last line.
    """
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    head = join(
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = join(
        tag("header", tag("h1", title), intro, tag("nav", tag("ul", *links))),
        tag("main", *(markup for _, _, markup in sections)),
        tag("main", tag("footer", end)),
    )
    document = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!doctype html>\n{document}\n"
