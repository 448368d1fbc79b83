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
    """A Markdown table: pods/s and their ratio to stock, CPU times, peak RSS, create to bind."""
    stock = {(r.workload, r.arrival): r for r in results if r.scheduler == "kube-scheduler"}
    columns = ("workload", "arrival", "nodes", "pods", "scheduler", "pods/s", "ratio")
    costs = ("CPU ms/pod", "settled", "API server + etcd", "RSS MB", "p50", "p99")
    lines = [f"| {' | '.join(columns + costs)} |", "|---" * len(columns + costs) + "|"]
    for r in results:
        base = stock.get((r.workload, r.arrival))
        rate = r.pods / r.seconds
        ratio = f"{rate * base.seconds / base.pods:.2f}" if base and r.arrival != "idle" else "-"
        waits = f"{_wait(r.latency_p50)} | {_wait(r.latency_p99)}"
        lines.append(
            f"| {r.workload} | {r.arrival} | {r.nodes} | {r.pods} | {r.scheduler} | {rate:.0f} "
            f"| {ratio} | {r.cpu_ms_per_pod:.2f} | {r.settled_cpu_ms_per_pod:.2f} "
            f"| {r.plane_ms_per_pod:.2f} | {r.peak_rss_mb:.0f} | {waits} |"
        )
    return "\n".join(lines)


def _wait(seconds: float) -> str:
    """How long pods waited; nothing where that wasn't measured."""
    if not seconds:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
