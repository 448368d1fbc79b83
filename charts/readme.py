"""Makes charts/whipstaff/README.md from README.md.in and the comments of values.yaml.

    python -m charts.readme           write it
    python -m charts.readme --check   exit with 1 if it would change, or if a value has no comment

A value's comment is the lines right above it; where a mapping has keys in values.yaml, its comment
heads those of its keys.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

CHART = pathlib.Path(__file__).parent / "whipstaff"
MARK = "@VALUES@"


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml: its path, comment and default; `inner` has keys of its own."""

    path: str
    comment: str
    default: Any
    inner: bool


def values(text: str) -> Iterator[Value]:
    """The keys in their order, those with keys of their own before them.

    Raises:
        ValueError: one has no comment.
    """
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, above: tuple[str, ...]) -> Iterator[Value]:
        for key, value in node.value:
            path = ".".join((*above, key.value.replace(".", "\\.")))
            comment = _comment(lines, key.start_mark.line, key.start_mark.column)
            if not comment:
                raise ValueError(f"values.yaml:{key.start_mark.line + 1}: {path} has no comment")
            inner = _has_comments(lines, value)
            yield Value(path, comment, yaml.safe_load(yaml.serialize(value)), inner)
            if inner:
                yield from walk(value, (*above, key.value))

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, ())


def _comment(lines: list[str], line: int, column: int) -> str:
    found: list[str] = []
    head = " " * column + "# "
    while line > 0 and lines[line - 1].startswith(head):
        line -= 1
        found.insert(0, lines[line].removeprefix(head).strip())
    return " ".join(found)


def _has_comments(lines: list[str], node: yaml.Node) -> bool:
    """Whether it is a mapping of values, and not a value that is a mapping."""
    if not isinstance(node, yaml.MappingNode) or not node.value or node.flow_style:
        return False
    mark = node.value[0][0].start_mark
    return bool(_comment(lines, mark.line, mark.column))


def tables(text: str) -> str:
    """One table a component, as Markdown."""
    out: list[str] = []
    open_table = False
    loose: list[str] = []
    for value in values(text):
        if value.inner and "." not in value.path:
            out += ["", f"### `{value.path}`", "", value.comment, "", *_HEAD]
            open_table = True
        elif value.inner:
            out.append(f"| **`{value.path}`** | | **{_cell(value.comment)}** |")
        else:
            default = json.dumps(value.default, ensure_ascii=False)
            row = f"| `{value.path}` | `{_cell(default)}` | {_cell(value.comment)} |"
            (out if open_table and "." in value.path else loose).append(row)
    return "\n".join([*_HEAD, *loose, *out])


_HEAD = ("| value | default | |", "|---|---|---|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def render() -> str:
    """The README."""
    template = (CHART / "README.md.in").read_text()
    return template.replace(MARK, tables((CHART / "values.yaml").read_text()))


def main() -> None:
    """Write it, or see whether it is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    file = CHART / "README.md"
    try:
        made = render()
    except ValueError as error:
        sys.exit(str(error))
    if arguments.check and (not file.exists() or file.read_text() != made):
        sys.exit(f"{file} isn't what values.yaml says: run python -m charts.readme")
    if not arguments.check:
        file.write_text(made)


if __name__ == "__main__":
    main()
