"""What a run measured, and the table that is printed and stored."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

Arrival: TypeAlias = Literal["stream", "backlog", "idle"]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One scheduler on one workload.

    `seconds` runs from the first create (stream) or the last init pod's bind (backlog) to the last
    bind; `throughput` is scheduler_perf's average:
    the mean over one-second samples, the first and the last, which aren't whole, left out.
    `cpu_ms_per_pod` is the scheduler's while pods are bound, `settled_cpu_ms_per_pod` with what it
    does afterwards (it may write events later), `plane_ms_per_pod` that of etcd and the API server
    while pods are bound.
    Latencies run from the answer to the create to the watch event with a node, in seconds.
    """

    workload: str
    scheduler: str
    arrival: Arrival
    nodes: int
    pods: int
    seconds: float
    throughput: float
    cpu_ms_per_pod: float
    settled_cpu_ms_per_pod: float
    plane_ms_per_pod: float
    peak_rss_mb: float
    latency_p50: float
    latency_p99: float


def throughput(bound_at: Sequence[float], started: float) -> float:
    """The mean of one-second samples of pods bound, without the first and the last where more."""
    if not bound_at:
        return 0.0
    seconds = int(max(bound_at) - started) + 1
    samples = [0] * seconds
    for moment in bound_at:
        samples[max(0, int(moment - started))] += 1
    whole = samples[1:-1] if len(samples) > 2 else samples
    return statistics.fmean(whole)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(results: Sequence[Result]) -> str:
    """A Markdown table of what each scheduler did.

    Pods/s, also beside those of the stock scheduler and of a client that only binds in the same
    part of the run, CPU times, peak RSS, and the time from creation to binding.
    """
    columns = ("workload", "arrival", "nodes", "pods", "scheduler", "pods/s", "ratio", "of binding")
    costs = ("CPU ms/pod", "settled", "API server + etcd", "RSS MB", "p50", "p99")
    lines = [f"| {' | '.join(columns + costs)} |", "|---" * len(columns + costs) + "|"]
    for part in _parts(results):
        for r in part.values():
            ratio = _beside(r, part.get("kube-scheduler"), ".2f")
            share = _beside(r, part.get("binds only"), ".0%")
            waits = f"{_wait(r.latency_p50)} | {_wait(r.latency_p99)}"
            lines.append(
                f"| {r.workload} | {r.arrival} | {r.nodes} | {r.pods} | {r.scheduler} "
                f"| {_rate(r):.0f} | {ratio} | {share} "
                f"| {r.cpu_ms_per_pod:.2f} | {r.settled_cpu_ms_per_pod:.2f} "
                f"| {r.plane_ms_per_pod:.2f} | {r.peak_rss_mb:.0f} | {waits} |"
            )
    return "\n".join(lines)


def _parts(results: Sequence[Result]) -> list[dict[str, Result]]:
    """By scheduler, those that had the same to do one after the other."""
    parts: list[dict[str, Result]] = []
    before: object = None
    for r in results:
        work = (r.workload, r.arrival, r.nodes)
        if work != before or r.scheduler in parts[-1]:
            parts.append({})
        parts[-1][r.scheduler] = r
        before = work
    return parts


def _rate(r: Result) -> float:
    return r.pods / r.seconds


def _beside(r: Result, other: Result | None, form: str) -> str:
    """The ratio of the rates; nothing where pods come at a rate of their own."""
    return "-" if other is None or r.arrival == "idle" else format(_rate(r) / _rate(other), form)


def _wait(seconds: float) -> str:
    """How long pods waited; nothing where that wasn't measured."""
    if not seconds:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
