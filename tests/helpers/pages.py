"""A page of HTML taken apart, and what holds for every page that we write."""

from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Elements of a page, its texts, and whether they are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def check_page(text: str) -> Page:
    """See that a page is whole, small, and asks for nothing."""
    page = Page(text)
    assert len(text.encode()) <= 5 * 2**20
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"} == set()
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert not (value or "").startswith(("http", "//", "javascript"))
            assert "url(" not in (value or "")
    assert "url(" not in text
    assert "@import" not in text
    return page
