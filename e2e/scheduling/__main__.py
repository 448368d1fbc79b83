"""Both schedulers on random clusters, from the command line.

::

    python -m e2e.scheduling --seed 1 --rounds 100
    python -m e2e.scheduling --seed 1 --round 17 --probe 3
"""

from __future__ import annotations

import asyncio
import collections
import pathlib
import tempfile
import time

import click

from e2e.scheduling import bed


async def _run(seed: int, rounds: range, probes: range, until: float) -> bed.Report:
    report = bed.Report()
    with tempfile.TemporaryDirectory(prefix="whipstaff-scheduling-") as folder:
        async with bed.running(pathlib.Path(folder)) as made:
            told = 0
            for number in rounds:
                if time.monotonic() > until:
                    break
                await made.play(seed, number, probes, report)
                for each in report.differences[told:]:
                    print(each, flush=True)
                told = len(report.differences)
                if number % 10 == 9:
                    print(f"round {number}: {report}", flush=True)
    return report


@click.command()
@click.option("--seed", default=1, show_default=True)
@click.option("--rounds", default=100, show_default=True, help="Random clusters.")
@click.option("--round", "only", type=int, help="Only this one.")
@click.option("--probe", type=int, help="Only this pod of each round.")
@click.option("--seconds", default=86400.0, help="Start no round after so many seconds.")
def main(seed: int, rounds: int, only: int | None, probe: int | None, seconds: float) -> None:
    """Compare the stock kube-scheduler with ours; 1 if there is a difference that isn't meant."""
    numbers = range(rounds) if only is None else range(only, only + 1)
    probes = range(bed.PROBES) if probe is None else range(probe, probe + 1)
    report = asyncio.run(_run(seed, numbers, probes, time.monotonic() + seconds))
    print(report)
    for reason, count in collections.Counter(
        each.reason for each in report.differences if each.reason
    ).items():
        print(f"  {count} meant: {reason}")
    for text in report.passing:
        print(f"  gone at the second try: {text}")
    raise SystemExit(1 if report.unexplained else 0)


if __name__ == "__main__":
    main()
