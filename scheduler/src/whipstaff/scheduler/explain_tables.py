"""An explanation for people: the document of `report` as lines and tables.

No loop runs here: a document goes in, and what `rich` can print comes out.
"""

import datetime
import time
from collections.abc import Iterator
from typing import Any

import rich.console
import rich.markup
import rich.table

from whipstaff.runtime import objects
from whipstaff.scheduler import report

UNLIMITED = 400
"""The width of a pipe, at which no table is cut."""


def print_document(
    document: report.Document, console: rich.console.Console, *, wide: bool = False
) -> None:
    """Prints all of it."""
    console.print(_headline(document), soft_wrap=True)
    for note in document["notes"]:
        console.print(f"[dim]Note: {_plain(note)}[/dim]", soft_wrap=True)
    if document["message"]:
        console.print(f"\n{_plain(document['message'])}", soft_wrap=True)
    nominated = document["nominated"]
    if nominated:
        victims = ", ".join(document["victims"]) or "nobody"
        console.print(f"Room is made on {nominated}; evicted for it: {victims}", soft_wrap=True)
    if document.get("nodes"):
        console.print()
        console.print(_nodes(document, wide=wide))
        if left := _unlisted(document):
            console.print(f"[dim]... and {_counted(left, 'more node')} that would do[/dim]")
    if document.get("groups"):
        console.print("\nNodes that don't fit:")
        console.print(_groups(document, wide=wide))
    if document["needs"]:
        console.print("\nFor the pod to fit:")
        for line in _needs(document):
            console.print(f"  {_plain(line)}", soft_wrap=True)


def _headline(document: report.Document) -> str:
    pod, node = f"[bold]Pod {_plain(document['pod'])}[/bold]", document["node"]
    feasible, evaluated = document["feasible"], document["evaluated"]
    others = sum(
        group["count"] for group in document.get("groups", ()) if group["verdict"] == "NotAsked"
    )
    among = f"{feasible:,} of {_counted(evaluated + others, 'node')} would do"
    if (best := document.get("best", 0)) > 1:
        among += ", all equally well" if best == feasible else f", {best:,} of them equally well"
    if document["source"] == report.COMPUTED:
        if document["bound"]:
            best = f"the best would be {node}, score {document['score']:,}" if node else "none"
            now = f"decided now, {best}; {among}"
            return f"{pod} is on [bold]{document['bound']}[/bold]; {now}"
        if node:
            return (
                f"{pod} has no node; decided now it would go to [bold green]{node}[/bold green], "
                f"score {document['score']:,}; {among}"
            )
        return f"{pod} has no node, and decided now it would get [bold red]none[/bold red]"
    when = _ago(document["time"])
    by = f"by {_plain(document['scheduler'])} {when}" if document["scheduler"] else when
    if node:
        return (
            f"{pod}: [bold green]{node}[/bold green] was chosen {by}, "
            f"score {document['score']:,}; {among}"
        )
    return f"{pod} got [bold red]no node[/bold red]: tried {by}"


def _nodes(document: report.Document, *, wide: bool) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("NODE", no_wrap=True)
    table.add_column("TOTAL", justify="right")
    plugins = document["plugins"]
    for plugin in plugins:
        name, weight = plugin["name"], plugin["weight"]
        table.add_column(f"{name} x{weight}" if weight != 1 else name, justify="right")
    rejects = any(not node["fits"] for node in document["nodes"])
    if rejects:
        table.add_column("VERDICT", no_wrap=not wide)
    for node in document["nodes"]:
        name = _plain(node["name"])
        if node["name"] == document["node"]:
            name = f"[bold green]{name} *[/bold green]"
        if node["fits"]:
            cells = [_cell(node["scores"][plugin["name"]], plugin, wide) for plugin in plugins]
            row = [name, f"{node['total']:,}", *cells]
            table.add_row(*row, *(["fits"] if rejects else []))
        else:
            verdict = f"{node['plugin']}: {', '.join(node['reasons'])}"
            table.add_row(name, "-", *["-"] * len(plugins), f"[red]{_plain(verdict)}[/red]")
    return table


def _cell(score: dict[str, int], plugin: dict[str, Any], wide: bool) -> str:
    """The weighted score, and in a wide table how it comes about."""
    if wide and plugin["weight"] != 1:
        return f"{score['score']}x{plugin['weight']}={score['weighted']:,}"
    return f"{score['weighted']:,}"


def _groups(document: report.Document, *, wide: bool) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, show_header=wide, header_style="bold")
    table.add_column("NODES", justify="right")
    table.add_column("REASON")
    table.add_column("PLUGIN")
    if wide:
        table.add_column("VERDICT")
    table.add_column("FOR EXAMPLE")
    for group in document["groups"]:
        examples = ", ".join(group["examples"][:3])
        if group["count"] > 3 and examples:
            examples += ", ..."
        row = [f"{group['count']:,}", ", ".join(group["reasons"]), group["plugin"]]
        row += [group["verdict"]] if wide else []
        cells = [_plain(cell) for cell in [*row, examples]]
        cells[0] = f"  {cells[0]}"
        table.add_row(*cells)
    return table


def _unlisted(document: report.Document) -> int:
    """How many nodes that fit aren't in the list, where that wasn't asked for."""
    listed = sum(node["fits"] for node in document["nodes"])
    named = any(not node["fits"] for node in document["nodes"]) and document["left_out"]
    return 0 if named else document["feasible"] - listed


def _needs(document: report.Document) -> Iterator[str]:
    for each in document["needs"]:
        if each["node"]:
            yield f"{each['node']} needs {'; '.join(each['changes'])}"
        else:
            yield f"on any node: {'; '.join(each['changes'])}"


def _ago(text: str) -> str:
    seconds = max(0.0, time.time() - objects.parse_time(text))
    if seconds < 100:
        return f"{seconds:.0f} s ago"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min ago"
    at = datetime.datetime.fromtimestamp(objects.parse_time(text), datetime.UTC)
    return f"at {at:%Y-%m-%d %H:%M} UTC"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    """A text in which nothing is markup."""
    return rich.markup.escape(text)
