"""`make bench`: each scheduler on a fresh control plane, the stock one and ours in the same run.

    python -m bench [--workload NAME]... [--nodes N] [--init-pods N] [--pods N]
        [--scheduler NAME]... [--arrival backlog|stream|idle]... [--output FILE]

Client limits are lifted for both (QPS 5000). Prints a table; --output stores the results as JSON.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import click
import uvloop

from bench import machine, report, run, workloads


@click.command()
@click.option(
    "--workload",
    "names",
    multiple=True,
    type=click.Choice([*workloads.WORKLOADS, "all"]),
    default=("SchedulingBasic",),
    show_default=True,
)
@click.option("--nodes", type=int, help="Another number of nodes than the workload's.")
@click.option("--init-pods", type=int, help="Another number of pods bound before the clock starts.")
@click.option("--pods", type=int, help="Another number of measured pods.")
@click.option(
    "--scheduler",
    "schedulers",
    multiple=True,
    type=click.Choice(sorted(run.SCHEDULERS)),
    default=("kube-scheduler", "whipstaff"),
    show_default=True,
)
@click.option(
    "--arrival",
    "arrivals",
    multiple=True,
    type=click.Choice(["backlog", "stream", "idle"]),
    default=("backlog", "stream"),
    show_default=True,
)
@click.option(
    "--output", type=click.Path(path_type=pathlib.Path), help="Store the results as JSON."
)
def main(
    names: tuple[str, ...],
    nodes: int | None,
    init_pods: int | None,
    pods: int | None,
    schedulers: tuple[str, ...],
    arrivals: tuple[report.Arrival, ...],
    output: pathlib.Path | None,
) -> None:
    """Measure schedulers side by side."""
    sizes = {"nodes": nodes, "init_pods": init_pods, "pods": pods}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    chosen = workloads.WORKLOADS if "all" in names else dict.fromkeys(names)
    results: list[report.Result] = []
    for name in chosen:
        workload = dataclasses.replace(workloads.WORKLOADS[name], **given)
        for arrival in (each for each in arrivals if each in workload.arrivals):
            for scheduler in schedulers:
                results.append(uvloop.run(run.measure(workload, scheduler, arrival)))
                machine.record("python -m bench", results, output)
    record = machine.record("python -m bench", results, output)
    click.echo(f"\n{record['date']}, {record['machine']}\n\n{report.table(results)}")


if __name__ == "__main__":
    machine.end_on_sigterm()
    main()
