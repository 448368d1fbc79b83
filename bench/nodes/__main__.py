"""`make bench-nodes`: the stock kubelet and our node agent, each on a fresh cluster, in one run.

    python -m bench.nodes [--agent NAME]... [--pods N] [--one-by-one N] [--rest SECONDS]
        [--output FILE]

Takes root and containerd. Prints a table; --output stores the results as JSON.
"""

from __future__ import annotations

import asyncio
import pathlib

import click

from bench import machine
from bench.nodes import clusters, report, run
from whipstaff.cluster import binaries, containerd

LIMITS = (
    "the kubelet's client limits are its defaults (50 requests a second, bursts of 100; events the "
    "same), ours as well: no limit on requests but 64 status writers, events as the kubelet's"
)


@click.command()
@click.option(
    "--agent",
    "agents",
    multiple=True,
    type=click.Choice([report.STOCK, report.OURS]),
    default=(report.STOCK, report.OURS),
    show_default=True,
)
@click.option("--one-by-one", type=int, default=50, show_default=True, help="Pods one by one.")
@click.option("--at-once", type=int, default=100, show_default=True, help="Pods at once.")
@click.option("--pods", type=int, help="As many pods for both, for a quick look.")
@click.option("--rest", type=float, default=30, show_default=True, help="Seconds of idling.")
@click.option("--settle", type=float, default=15, show_default=True, help="Seconds before that.")
@click.option(
    "--output", type=click.Path(path_type=pathlib.Path), help="Store the results as JSON."
)
def main(
    agents: tuple[str, ...],
    one_by_one: int,
    at_once: int,
    pods: int | None,
    rest: float,
    settle: float,
    output: pathlib.Path | None,
) -> None:
    """Measure node agents side by side."""
    sizes = run.Sizes(
        one_by_one if pods is None else pods, at_once if pods is None else pods, rest, settle
    )
    results = []
    for agent in agents:
        load = clusters.load()
        click.echo(f"\n{agent} (load average {load:.1f})", err=True)
        with clusters.started(agent) as node:
            results.append(asyncio.run(run.measure(agent, node, sizes, load)))
        click.echo(f"\n{report.table(results[-1:])}", err=True)
    record = machine.record(
        "python -m bench.nodes",
        results,
        output,
        versions=f"Kubernetes {binaries.KUBERNETES_VERSION}, {containerd.version()}",
        limits=LIMITS,
    )
    loads = ", ".join(f"{result.agent} {result.load:.1f}" for result in results)
    click.echo(f"\n{record['date']}, {record['machine']}, {record['versions']}")
    click.echo(f"Load average before: {loads}\n\n{report.table(results)}")


if __name__ == "__main__":
    machine.end_on_sigterm()
    main()
