"""Answers for people: what `rich` prints, grouped where there are many pods or nodes.

No loop runs here: a result goes in. `wide` shows a row a pod or node, however many there are.
"""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
import rich.markup
import rich.table

from whipstaff.scheduler.simulation import results

SHOWN = 20
"""Rows of a table that isn't wide, and nodes named for a workload: a quarter of that."""


def print_placement(
    found: results.Placement, console: rich.console.Console, *, wide: bool = False
) -> None:
    """Where pods go, who waits and why, who is evicted, and what that does to the nodes."""
    if not found.pods:
        console.print("No pods to place.")
    elif wide:
        console.print(_pods(found.pods))
    else:
        console.print(_workloads(found.pods))
    _print_pending(found.pending, console)
    _print_evictions(found.evictions, console, wide=wide)
    before, after = results.balance_of(found.before), results.balance_of(found.after)
    if after:
        console.print("\nUse of the nodes that aren't cordoned:")
        console.print(_balance([("BEFORE", before), ("AFTER", after)]))
    _print_notes(found.notes, console)


def print_drain(found: results.Drain, console: rich.console.Console, *, wide: bool = False) -> None:
    """What becomes of each node's pods, and what is in the way."""
    console.print(_drained(found))
    fatal = [each for each in found.refusals if each.fatal]
    if fatal:
        console.print("\nIn the way:")
        for reason, pods in _by_reason((each.reason, each.pod) for each in fatal):
            _line(console, f"  {_plain(reason)}: {_some(pods)}")
    if wide and (rows := found.rows()):
        console.print()
        console.print(_table(("POD", "NODE", "WAVE", "TO", ""), (_drain_row(row) for row in rows)))
    elif found.placement.placed:
        console.print("\nTheir successors:")
        console.print(_workloads(found.placement.pods))
    _print_pending(found.placement.pending, console)
    lost = [each.pod for each in found.evictions if not each.returns]
    if lost:
        _line(console, f"\nNobody creates anew: {_some(lost)}")
    _print_evictions(found.placement.evictions, console, wide=wide)
    console.print("\nUse of the nodes that aren't cordoned:")
    balances = [results.balance_of(use) for use in (found.placement.before, found.placement.after)]
    console.print(_balance([("BEFORE", balances[0]), ("AFTER", balances[1])]))
    _print_notes(found.placement.notes, console)


def print_fit(found: results.Fit, console: rich.console.Console, *, wide: bool = False) -> None:
    """How many more, where, and what ends it."""
    nodes = int((found.counts > 0).sum())
    enough = ", the limit" if found.limited else ""
    _line(
        console,
        f"[bold]{found.total:,}[/bold] more of {_plain(found.pod)} fit{enough}: "
        f"on {nodes:,} of {_counted(len(found.names), 'node')}",
    )
    if found.reasons:
        console.print("Then there is:")
        for reason, count in sorted(found.reasons.items(), key=lambda item: -item[1]):
            _line(console, f"  {_counted(count, 'node')}: {_plain(reason)}")
    elif found.message:
        _line(console, f"Then there is: {_plain(found.message)}")
    rows = [row for row in found.rows() if wide or row["more"]]
    if rows:
        shown = rows if wide else rows[:SHOWN]
        console.print()
        console.print(
            _table(
                ("NODE", "MORE", "THEN"),
                ((row["node"], f"{row['more']:,}", row["reason"]) for row in shown),
                numbers=(1,),
            )
        )
        _print_left(len(rows) - len(shown), console)
    _print_notes(found.notes, console)


def print_comparison(
    found: results.Comparison, console: rich.console.Console, *, wide: bool = False
) -> None:
    """The two side by side, and which pods they place differently."""
    table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in found.names:
        table.add_column(_plain(name), justify="right")
    for label, values in _summary(found):
        table.add_row(label, *values)
    console.print(table)
    rows = found.differences()
    pods = len(found.rows())
    console.print(f"\n{len(rows):,} of {_counted(pods, 'pod')} go to another node")
    if rows:
        shown = rows if wide else rows[:SHOWN]
        console.print(
            _table(
                ("POD", *found.names),
                ((row["pod"], row["node a"] or "-", row["node b"] or "-") for row in shown),
            )
        )
        _print_left(len(rows) - len(shown), console)
    for name, placement in zip(found.names, found.placements, strict=True):
        if placement.pending:
            console.print(f"\nBy {_plain(name)}:", end="")
            _print_pending(placement.pending, console)
    notes = dict.fromkeys(note for placement in found.placements for note in placement.notes)
    _print_notes(list(notes), console)


def _summary(found: results.Comparison) -> Iterable[tuple[str, list[str]]]:
    sides = found.placements
    yield "pods placed", [f"{len(side.placed):,}" for side in sides]
    yield "pods pending", [f"{len(side.pending):,}" for side in sides]
    yield "pods evicted", [f"{len(side.evictions):,}" for side in sides]
    yield "nodes in use", [f"{int((side.after.pods > 0).sum()):,}" for side in sides]
    for index, resource in enumerate((results.CPU, results.MEMORY)):
        balances = [side[index] if side else None for side in found.balances]
        for label in ("mean", "stddev", "lowest", "highest", "fragmentation"):
            yield (
                f"{resource} {label}",
                ["-" if each is None else f"{getattr(each, label):.1%}" for each in balances],
            )
        yield (
            f"{resource} most free on one node",
            ["-" if each is None else amount(resource, each.largest_free) for each in balances],
        )


def _workloads(pods: Sequence[results.Outcome]) -> rich.table.Table:
    by_workload: dict[str, list[results.Outcome]] = {}
    for found in pods:
        by_workload.setdefault(found.workload, []).append(found)
    rows: list[tuple[Any, ...]] = []
    for workload, group in by_workload.items():
        nodes = collections.Counter(found.node for found in group if found.node)
        placed = sum(nodes.values())
        rows.append(
            (workload, f"{len(group):,}", f"{placed:,}", f"{len(group) - placed:,}", _counts(nodes))
        )
    table = _table(
        ("WORKLOAD", "PODS", "PLACED", "PENDING", "NODES"), rows[:SHOWN], numbers=(1, 2, 3)
    )
    if len(rows) > SHOWN:
        table.add_row(f"... and {_counted(len(rows) - SHOWN, 'more workload')} (-o wide)")
    return table


def _pods(pods: Sequence[results.Outcome]) -> rich.table.Table:
    return _table(
        ("POD", "NODE", "SCORE", "FEASIBLE", "WAS ON", "EVICTS"),
        (
            (
                found.pod,
                found.node or "<pending>",
                f"{found.score:,}" if found.node else "-",
                f"{found.feasible:,}",
                found.was_on or "-",
                ", ".join(found.evicts) or "-",
            )
            for found in pods
        ),
        numbers=(2, 3),
    )


def _drained(found: results.Drain) -> rich.table.Table:
    rows = []
    for node in found.drained:
        evicted = [each for each in found.evictions if each.node == node]
        refused = [each for each in found.refusals if each.node == node]
        result = "in the way: see below" if any(each.fatal for each in refused) else "drained"
        waves = max((each.wave for each in evicted), default=0)
        rows.append((node, f"{len(evicted):,}", f"{waves:,}", f"{len(refused):,}", result))
    return _table(("NODE", "EVICTED", "WAVES", "STAY", "RESULT"), rows, numbers=(1, 2, 3))


def _drain_row(row: results.Row) -> tuple[str, ...]:
    if not row["evicted"]:
        return row["pod"], row["node"], "-", "stays", row["message"]
    to = row["to"] or ("<pending>" if row["returns"] else "nowhere")
    return row["pod"], row["node"], str(row["wave"]), to, ""


def _print_pending(pending: Sequence[results.Outcome], console: rich.console.Console) -> None:
    if not pending:
        return
    console.print("\nPending:")
    for message, pods in _by_reason((each.message, each.pod) for each in pending):
        _line(console, f"  {_counted(len(pods), 'pod')} ({_some(pods)}): {_plain(message)}")


def _print_evictions(
    evictions: Sequence[results.Eviction], console: rich.console.Console, *, wide: bool
) -> None:
    if not evictions:
        return
    console.print("\nEvicted to make room:")
    shown = evictions if wide else evictions[:SHOWN]
    console.print(
        _table(
            ("POD", "NODE", "PRIORITY", "FOR", "AGAINST BUDGET", "COMES BACK"),
            (
                (
                    each.pod,
                    each.node,
                    f"{each.priority:,}",
                    each.preemptor,
                    ", ".join(each.budgets) or "-",
                    "yes" if each.returns else "no",
                )
                for each in shown
            ),
            numbers=(2,),
        )
    )
    _print_left(len(evictions) - len(shown), console)


def _balance(columns: Sequence[tuple[str, Sequence[results.Balance]]]) -> rich.table.Table:
    headings = [
        "",
        *(f"{name} {part}" for name, _ in columns for part in ("MEAN", "STDDEV", "MAX")),
    ]
    rows = []
    for index, resource in enumerate((results.CPU, results.MEMORY)):
        cells = [resource]
        for _, balances in columns:
            if balances:
                each = balances[index]
                cells += [f"{value:.1%}" for value in (each.mean, each.stddev, each.highest)]
            else:
                cells += ["-"] * 3
        rows.append(cells)
    return _table(headings, rows, numbers=tuple(range(1, len(headings))))


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = ()
) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(
            _plain(heading), justify="right" if index in numbers else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(_plain(str(cell)) for cell in row))
    return table


def _print_left(count: int, console: rich.console.Console) -> None:
    if count > 0:
        console.print(f"[dim]... and {count:,} more (-o wide)[/dim]")


def _print_notes(notes: Sequence[str], console: rich.console.Console) -> None:
    if notes:
        console.print()
    for note in notes[:SHOWN]:
        _line(console, f"[dim]Note: {_plain(note)}[/dim]")
    _print_left(len(notes) - SHOWN, console)


def _by_reason(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for reason, pod in pairs:
        found.setdefault(reason, []).append(pod)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def _counts(nodes: "collections.Counter[str]") -> str:
    shown = nodes.most_common(SHOWN // 4)
    texts = [f"{node} ({count:,})" if count > 1 else node for node, count in shown]
    left = len(nodes) - len(shown)
    return ", ".join(texts) + (f" and {left:,} more" if left else "")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(_plain(name) for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def amount(resource: str, value: int) -> str:
    """An amount as people write it: CPUs, or GiB."""
    return f"{value / 1000:.1f}" if resource == results.CPU else f"{value / 2**30:.1f} GiB"


def _line(console: rich.console.Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _plain(text: str) -> str:
    return rich.markup.escape(text)
