"""The folder that the site's generator reads, made of `docs/`.

The generator knows only what is in its folder, so links that leave `docs/` become addresses in the
repository. Pages that come from elsewhere are put in: the chart's values from the chart's README.
The navigation names only pages that are there.
"""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import tomllib

from website import links

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIGURATION = ROOT / "website" / "zensical.toml"
AWAITED = {"twin-nodes.md"}
"""Pages that other parts of the project bring; until then, links to them are only text."""

BROUGHT = {"reference/values.md": ROOT / "charts" / "whipstaff" / "README.md"}


def stage(folder: pathlib.Path) -> None:
    """Fill ``folder`` with the pages, and put the configuration beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    repository = tomllib.loads(CONFIGURATION.read_text(encoding="utf-8"))["project"]["repo_url"]
    sources = {page.relative_to(DOCS).as_posix(): page for page in DOCS.rglob("*.md")}
    sources |= {page: origin for page, origin in BROUGHT.items() if origin.exists()}
    for page, source in sources.items():
        change = functools.partial(_placed, source=source, page=page, repository=repository)
        text = links.rewritten(source.read_text(encoding="utf-8"), change)
        (folder / page).write_text(text, encoding="utf-8")
    configuration = CONFIGURATION.read_text(encoding="utf-8")
    listed = [line for line in configuration.splitlines() if _there(line, folder)]
    (folder.parent / "zensical.toml").write_text("\n".join(listed) + "\n", encoding="utf-8")


def _placed(link: links.Link, *, source: pathlib.Path, page: str, repository: str) -> str:
    """A link as it is written on a staged page; ``source`` is what the page is made of."""
    if link.external or link.target.startswith("#"):
        return f"{link.text}({link.target})"
    if awaited(link, source):
        return link.text[1:-1]
    path, anchor = link.goes_to(source)
    brought = {origin.resolve(): name for name, origin in BROUGHT.items() if origin.exists()}
    if path in brought or path.is_relative_to(DOCS):
        name = brought.get(path) or path.relative_to(DOCS).as_posix()
        target = os.path.relpath(name, pathlib.PurePosixPath(page).parent)
    else:
        kind = "tree" if path.is_dir() else "blob"
        target = f"{repository}/{kind}/main/{path.relative_to(ROOT).as_posix()}"
    return f"{link.text}({target}{'#' + anchor if anchor else ''})"


def awaited(link: links.Link, source: pathlib.Path) -> bool:
    """Whether a link goes to one of `AWAITED` that isn't there."""
    path, _ = link.goes_to(source)
    return path.parent == DOCS and path.name in AWAITED and not path.exists()


def _there(line: str, folder: pathlib.Path) -> bool:
    """Whether a line of the configuration names no page, or one that is there."""
    found = [word for word in line.replace("'", '"').split('"') if word.endswith(".md")]
    return all((folder / name).exists() for name in found)
