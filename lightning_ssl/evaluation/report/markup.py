"""HTML in which no text can be taken for markup: whatever is not :class:`Html` is escaped."""

from html import escape


class Html(str):
    """Markup, as :func:`tag` makes it."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """Make an element.

    Args:
        name: Its name.
        *children: Markup, or texts, which are escaped; None is left out.
        **attributes: A trailing underscore is dropped, others become dashes. None and False are
            left out, True stands for the name alone.

    Example:
        >>> tag("td", "<b> & co", class_="name")
        '<td class="name">&lt;b&gt; &amp; co</td>'
    """
    inner = join(*children)
    return Html(f"<{name}{_attributes(attributes)}>{inner}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """Make an element that has no content, such as ``img``; in SVG any may be such a one.

    Args:
        name: Its name.
        **attributes: See :func:`tag`.
    """
    return Html(f"<{name}{_attributes(attributes)} />")


def join(*children: str | None) -> Html:
    """Put markup and texts, which are escaped, one after the other.

    Args:
        *children: See :func:`tag`.
    """
    known = [child for child in children if child is not None]
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in known))


def _attributes(attributes: dict[str, object]) -> str:
    out = ""
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        out += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    return out
