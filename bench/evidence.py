"""What it costs to keep what decisions rested on: CPU time and memory a pod, without an API server.

    python -m bench.evidence

Decides on pods of a few kinds over 5,000 nodes, without the evidence and with it in turns, and
prints the table of `docs/explain.md`: medians of the runs.
"""

from __future__ import annotations

import random
import statistics
import time
import uuid
from typing import NamedTuple

import click

from bench import templates
from whipstaff.runtime import resources
from whipstaff.scheduler import decision, decisions, pods, profile, snapshot

NODES, PODS, RUNS = 5000, 1000, 6
KINDS = {
    "alike, plain": templates.basic_pod,
    "of a Service, spread by default": templates.of_service,
    "with required anti-affinity by hostname": templates.required(
        "podAntiAffinity", "green", templates.HOST
    ),
    "that fit nowhere": templates.too_large_pod,
}


class Cost(NamedTuple):
    """Of one pod."""

    milliseconds: float
    bytes: float


def measure(make: templates.PodMaker, *, keep: bool) -> Cost:
    """Read, decide on, place and note pods of one kind, on a cluster of their own."""
    cluster = snapshot.Snapshot()
    for index in range(NODES):
        cluster.upsert_node(templates.node(index))
    cluster.workloads.put(resources.SERVICES, templates.SERVICE)
    plugins = profile.default_profile("default-scheduler")
    decider = decision.Decider(cluster, random.Random(0), evidence=keep)
    ring = decisions.Decisions(evidence_bytes=1 << 40)
    made = [make("default", f"pod-{index:05d}") for index in range(PODS)]
    for pod in made:
        pod["metadata"]["uid"] = str(uuid.uuid4())
    started = time.process_time()
    for pod in made:
        info = pods.PodInfo.from_object(pod)
        decided = decider.decide(info, plugins)
        if decided.node is not None:
            cluster.assume(info, decided.node)
        ring.record(info.key, info.uid, decided)
    spent = time.process_time() - started
    return Cost(1000 * spent / PODS, ring.evidence_bytes / PODS)


def main() -> None:
    """Print the table."""
    click.echo("| pods | without | with | memory a decision |")
    click.echo("|---|---|---|---|")
    for kind, make in KINDS.items():
        runs = [(measure(make, keep=False), measure(make, keep=True)) for _ in range(RUNS)]
        without, kept = (
            statistics.median(run[which].milliseconds for run in runs) for which in (0, 1)
        )
        kilobytes = runs[0][1].bytes / 1000
        click.echo(f"| {kind} | {without:.3f} ms | {kept:.3f} ms | {kilobytes:.1f} kB |")


if __name__ == "__main__":
    main()
