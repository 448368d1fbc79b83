"""Whether the built site can be read without a network: no page fetches anything from elsewhere."""

from __future__ import annotations

import html.parser
import pathlib
import re
from collections.abc import Iterator

_FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
_URL = re.compile(r"url\(\s*['\"]?(https?:)?//")


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(_FETCHING.get(tag, ""))
        if tag == "link" and given.get("rel") in {"stylesheet", "preload", "preconnect", "icon"}:
            address = given.get("href")
        if address and re.match(r"(https?:)?//", address):
            self.fetched.append(address)


def fetched(site: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Each file of the site with what it fetches from elsewhere."""
    for file in sorted(site.rglob("*.html")):
        page = _Page()
        page.feed(file.read_text(encoding="utf-8"))
        yield from ((file, address) for address in page.fetched)
    for file in sorted(site.rglob("*.css")):
        if _URL.search(file.read_text(encoding="utf-8")):
            yield file, "a style's url(...)"
