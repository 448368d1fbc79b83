"""`make bench-controllers`: each contender on a fresh control plane, in the same run.

    python -m bench.controllers [--trial NAME]... [--contender NAME]... [--size F] [--output FILE]

The stock kube-controller-manager runs only the two controllers that are compared, once with its
default client limits and once with them lifted. Pods are made ready by the load generator; no
scheduler, kubelet or garbage collector takes part. Prints a table.
"""

from __future__ import annotations

import pathlib

import click
import uvloop

from bench import machine
from bench.controllers import contenders, report, run, trials


@click.command()
@click.option(
    "--trial",
    "names",
    multiple=True,
    type=click.Choice(sorted(trials.TRIALS)),
    default=tuple(trials.TRIALS),
    show_default=True,
)
@click.option(
    "--contender",
    "chosen",
    multiple=True,
    type=click.Choice(contenders.ALL),
    default=contenders.ALL,
    show_default=True,
)
@click.option("--size", type=click.FloatRange(min=0.001), default=1.0, help="Of the full size.")
@click.option(
    "--output", type=click.Path(path_type=pathlib.Path), help="Store the results as JSON."
)
def main(
    names: tuple[str, ...], chosen: tuple[str, ...], size: float, output: pathlib.Path | None
) -> None:
    """Measure controllers side by side."""
    results = [
        uvloop.run(run.measure(trials.TRIALS[name](size), contender))
        for name in names
        for contender in chosen
        if name not in trials.ONLY_UNLIMITED or contender != contenders.STOCK
    ]
    record = machine.record("python -m bench.controllers", results, output)
    click.echo(f"\n{record['date']}, {record['machine']}\n\n{report.table(results)}")


if __name__ == "__main__":
    machine.end_on_sigterm()
    main()
