"""Links of Markdown pages: to which file and heading each goes, and whether that is there.

Anchors are made as GitHub and the site's generator make them of headings. Links to other sites
aren't looked up.
"""

from __future__ import annotations

import functools
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page: its text in brackets, and where it goes, as written."""

    text: str
    target: str

    @property
    def external(self) -> bool:
        """Whether it goes to another site."""
        return bool(_ABSOLUTE.match(self.target)) or self.target.startswith("//")

    def goes_to(self, page: pathlib.Path) -> tuple[pathlib.Path, str]:
        """The file and the anchor in it, from a page's path."""
        path, _, anchor = self.target.partition("#")
        path = urllib.parse.unquote(path)
        return (page.parent / path).resolve() if path else page.resolve(), anchor


def links(markdown: str) -> Iterator[Link]:
    """All links of a page but those in blocks of code."""
    for found in _LINK.finditer(_FENCE.sub("", markdown)):
        yield Link(found[1], found[2])


def rewritten(markdown: str, change: Callable[[Link], str]) -> str:
    """A page with each link replaced by what ``change`` makes of it; blocks of code stay."""
    parts = []
    position = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_changed(markdown[position : fence.start()], change), fence[0]]
        position = fence.end()
    return "".join([*parts, _changed(markdown[position:], change)])


def _changed(text: str, change: Callable[[Link], str]) -> str:
    return _LINK.sub(lambda found: change(Link(found[1], found[2])), text)


def anchor_of(heading: str) -> str:
    """The anchor of a heading: in small letters, without punctuation, with dashes for spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip())


@functools.cache
def anchors(page: pathlib.Path) -> frozenset[str]:
    """Of a page's headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return frozenset(anchor_of(found[1]) for found in _HEADING.finditer(text))


def broken(page: pathlib.Path) -> Iterator[tuple[Link, str]]:
    """The page's links that go nowhere, each with the reason."""
    for link in links(page.read_text(encoding="utf-8")):
        if link.external:
            continue
        path, anchor = link.goes_to(page)
        if not path.exists():
            yield link, "no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            yield link, "no such heading"
