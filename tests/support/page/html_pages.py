"""Reads an HTML page as a tree of elements, for tests that ask what is on it."""

from collections.abc import Iterator
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "input", "br", "hr"}


class Element:
    """An element with its attributes and what is inside, elements and texts in order."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.inside: list[Element | str] = []

    def all(self, tag: str) -> Iterator["Element"]:
        """The elements of this tag at any depth."""
        for each in self.inside:
            if isinstance(each, Element):
                if each.tag == tag:
                    yield each
                yield from each.all(tag)

    def everything(self) -> Iterator["Element"]:
        for each in self.inside:
            if isinstance(each, Element):
                yield each
                yield from each.everything()

    def by_id(self, name: str) -> "Element":
        return next(each for each in self.everything() if each.attributes.get("id") == name)

    def classed(self, name: str) -> Iterator["Element"]:
        return (each for each in self.everything() if name in (each.attributes.get("class") or "").split())

    @property
    def text(self) -> str:
        """The words, with one blank between them and around elements, but for `bdi`, which is part of a word."""
        words = "".join(
            each if isinstance(each, str) else each.text if each.tag == "bdi" else f" {each.text} "
            for each in self.inside
        )
        return " ".join(words.replace("\N{NO-BREAK SPACE}", " ").split())

    def rows(self) -> list[list[str]]:
        """The texts of the cells of a table's body, row by row."""
        body = next(self.all("tbody"))
        return [
            [cell.text for cell in row.inside if isinstance(cell, Element) and cell.tag in ("td", "th")]
            for row in body.all("tr")
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, dict(attrs))
        self.open[-1].inside.append(made)
        if tag not in _VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def read_page(text: str) -> Element:
    """The tree of a page. Fails where a tag is not ended."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not ended"
    return reader.open[0]
