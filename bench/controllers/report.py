"""What a run measured, and the table that is printed and stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.controllers import contenders


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One contender in one trial.

    Attributes:
        trial: what was to be done.
        contender: who did it.
        pods: how many were created.
        seconds: from the first request of the load generator until all is as asked for: the pods
            are there, or every rollout is complete.
        cpu_seconds: of the contender's process, in that time.
        peak_rss: its resident memory, in bytes.
        idle_cpu: the share of one core that it takes at rest afterwards; None wasn't measured.
    """

    trial: str
    contender: str
    pods: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    idle_cpu: float | None


def table(results: Sequence[Result]) -> str:
    """A Markdown table; the ratios are of rates, to the stock controllers in the same run."""
    rates = {(r.trial, r.contender): r.pods / r.seconds for r in results}
    columns = (
        *("trial", "contender", "seconds", "pods/s", "to stock", "to stock, lifted"),
        *("CPU s", "peak RSS MiB", "idle CPU"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in results:
        rate = rates[r.trial, r.contender]
        ratios = [
            f"{rate / base:.2f}" if (base := rates.get((r.trial, name))) else "-"
            for name in (contenders.STOCK, contenders.LIFTED)
        ]
        idle = "-" if r.idle_cpu is None else f"{100 * r.idle_cpu:.2f} %"
        lines.append(
            f"| {r.trial} | {r.contender} | {r.seconds:.1f} | {rate:.0f} | {ratios[0]} "
            f"| {ratios[1]} | {r.cpu_seconds:.1f} | {r.peak_rss / 2**20:.0f} | {idle} |"
        )
    return "\n".join(lines)
