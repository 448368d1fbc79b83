"""`make bench`: each scheduler on a fresh control plane, the stock one and ours in the same run.

    python -m bench [--workload NAME]... [--nodes N] [--init-pods N] [--pods N]
        [--scheduler NAME]... [--arrival backlog|stream|idle]... [--output FILE]

Without a workload: all that `docs/performance.md` shows, see `suite`. Client limits are lifted (QPS
5000). Prints a table; the results are stored as JSON.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import click
import uvloop

from bench import machine, report, run, suite, workloads


@click.command()
@click.option(
    "--workload",
    "names",
    multiple=True,
    type=click.Choice([*workloads.WORKLOADS, "all"]),
    help="Instead of the tables of docs/performance.md, which take half an hour.",
)
@click.option("--nodes", type=int, help="Another number of nodes than the workload's.")
@click.option("--init-pods", type=int, help="Another number of pods bound before the clock starts.")
@click.option("--pods", type=int, help="Another number of measured pods.")
@click.option(
    "--scheduler",
    "schedulers",
    multiple=True,
    type=click.Choice(sorted(run.SCHEDULERS)),
    default=tuple(run.SCHEDULERS),
    show_default=True,
)
@click.option(
    "--arrival",
    "arrivals",
    multiple=True,
    type=click.Choice(["backlog", "stream", "idle"]),
    help="How pods come.  [default: backlog, stream]",
)
@click.option(
    "--output",
    type=click.Path(path_type=pathlib.Path),
    default="bench-results/scheduling.json",
    show_default=True,
    help="Where the results are stored.",
)
def main(
    names: tuple[str, ...],
    nodes: int | None,
    init_pods: int | None,
    pods: int | None,
    schedulers: tuple[str, ...],
    arrivals: tuple[report.Arrival, ...],
    output: pathlib.Path,
) -> None:
    """Measure schedulers side by side."""
    sizes = {"nodes": nodes, "init_pods": init_pods, "pods": pods}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    if not names and (given or arrivals):
        raise click.UsageError("sizes and arrivals are those of a --workload: name one, or 'all'")
    parts = _chosen(names, arrivals or ("backlog", "stream"), given) if names else suite.PARTS
    results: list[report.Result] = []
    for number, part in enumerate(parts, 1):
        for scheduler in schedulers:
            click.echo(f"part {number} of {len(parts)}", err=True)
            results.append(uvloop.run(run.measure(part.workload, scheduler, part.arrival)))
            machine.record("python -m bench", results, output)
    record = machine.record("python -m bench", results, output)
    click.echo(f"\n{record['date']}, {record['machine']}\n\n{report.table(results)}")


def _chosen(
    names: Sequence[str], arrivals: Sequence[report.Arrival], sizes: dict[str, Any]
) -> list[suite.Part]:
    """The named workloads, in their own sizes or others, with pods that come in each way."""
    chosen = workloads.WORKLOADS if "all" in names else dict.fromkeys(names)
    return [
        suite.Part(dataclasses.replace(workloads.WORKLOADS[name], **sizes), arrival)
        for name in chosen
        for arrival in arrivals
        if arrival in workloads.WORKLOADS[name].arrivals
    ]


if __name__ == "__main__":
    machine.end_on_sigterm()
    main()
