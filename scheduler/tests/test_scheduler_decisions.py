"""What can be looked at: the ring of decisions and the metrics."""

import dataclasses
import random

import prometheus_client

from whipstaff.scheduler import (
    decision,
    decisions,
    explanation,
    metrics,
    profile,
    snapshot,
    testing,
)


@dataclasses.dataclass
class Decided:
    node: str | None = "node-1"
    score: int = 155
    scores: dict[str, int] = dataclasses.field(default_factory=lambda: {"NodeAffinity": 155})
    feasible: int = 3
    evaluated: int = 4
    evidence: explanation.Evidence | None = None


def ring_of(*keys: str) -> decisions.Decisions:
    ring = decisions.Decisions(capacity=4, clock=lambda: 1.5)
    for key in keys:
        ring.record(key, f"uid of {key}", Decided())
    return ring


def test_a_decision_says_where_and_why() -> None:
    ring = ring_of("shop/web")
    ring.record(
        "shop/big",
        "uid-2",
        Decided(None, 0, {}, 0, 4),
        "0/4 nodes are available: ...",
        scheduler="mine",
        nominated="node-2",
        victims=["shop/small"],
    )
    assert ring.view() == [
        {
            "number": 1,
            "time": "1970-01-01T00:00:01.500000Z",
            "pod": "shop/web",
            "uid": "uid of shop/web",
            "scheduler": "",
            "node": "node-1",
            "score": 155,
            "scores": {"NodeAffinity": 155},
            "feasible": 3,
            "evaluated": 4,
            "message": "",
            "nominated": "",
            "victims": [],
            "explained": False,
        },
        {
            "number": 2,
            "time": "1970-01-01T00:00:01.500000Z",
            "pod": "shop/big",
            "uid": "uid-2",
            "scheduler": "mine",
            "node": None,
            "score": 0,
            "scores": {},
            "feasible": 0,
            "evaluated": 4,
            "message": "0/4 nodes are available: ...",
            "nominated": "node-2",
            "victims": ["shop/small"],
            "explained": False,
        },
    ]


def test_a_pod_that_never_got_there_is_told_of_too() -> None:
    ring = ring_of("shop/web")
    ring.record_failure("shop/web", "uid-1", "binding refused: node-1 is gone")
    [first, second] = ring.view(namespace="shop", name="web")
    assert (first["node"], second["node"]) == ("node-1", None)
    assert second["message"] == "binding refused: node-1 is gone"


def decided_by(decider: decision.Decider, cluster: snapshot.Snapshot, name: str) -> Decided:
    info = testing.pod_info(name, {"cpu": "100m"})
    made = decider.decide(info, PROFILE)
    assert made.node is not None
    cluster.assume(info, made.node)
    return Decided(made.node, made.score, made.scores, made.feasible, made.evaluated, made.evidence)


PROFILE = profile.default_profile("x")


def test_old_tables_make_room_for_new_ones_and_outcomes_stay() -> None:
    cluster = testing.cluster([testing.node(f"node-{number}") for number in range(50)])
    decider = decision.Decider(cluster, random.Random(0), evidence=True)
    ring = decisions.Decisions(capacity=1000, evidence_bytes=100_000)
    for number in range(1000):
        ring.record(f"a/{number}", "", decided_by(decider, cluster, f"pod-{number}"))
    assert 0 < ring.explained < 1000
    assert ring.evidence_bytes <= 100_000
    assert len(ring) == 1000
    assert [entry["explained"] for entry in ring.view()] == [
        index >= 1000 - ring.explained for index in range(1000)
    ]
    for number in range(1000):
        ring.record_failure(f"b/{number}", "", "no")
    assert (ring.explained, ring.evidence_bytes) == (0, 0)


def test_no_table_is_kept_where_none_is_wanted() -> None:
    cluster = testing.cluster([testing.node("node-1")])
    decider = decision.Decider(cluster, random.Random(0), evidence=True)
    ring = decisions.Decisions(evidence_bytes=0)
    ring.record("a/1", "", decided_by(decider, cluster, "pod"))
    assert (ring.explained, ring.view()[0]["explained"]) == (0, False)


def test_the_ring_keeps_the_newest() -> None:
    ring = ring_of("a/1", "a/2", "a/3", "a/4", "a/5", "a/6")
    assert [entry["pod"] for entry in ring.view()] == ["a/3", "a/4", "a/5", "a/6"]


def test_a_view_can_be_narrowed_and_limited() -> None:
    ring = ring_of("a/web", "b/web", "a/db", "a/web")
    assert [entry["pod"] for entry in ring.view(namespace="a")] == ["a/web", "a/db", "a/web"]
    assert [entry["pod"] for entry in ring.view(namespace="a", name="web")] == ["a/web", "a/web"]
    assert [entry["pod"] for entry in ring.view(name="web", limit=2)] == ["b/web", "a/web"]
    assert ring.view(limit=0) == []


def test_metrics_have_upstreams_names_labels_and_buckets() -> None:
    measured = metrics.Metrics()
    measured.observe_attempt(metrics.SCHEDULED, "whipstaff", 0.003)
    measured.observe_attempt(metrics.UNSCHEDULABLE, "whipstaff", 40.0)
    measured.observe_scheduled(17, 0.02, flushed=True)
    measured.queue_lengths = lambda: {"active": 3, "gated": 1}
    measured.incoming = {("active", "NodeAdd"): 5}
    measured.rejections = {("NodeAffinity", "whipstaff"): 2}
    measured.cache_sizes = lambda: {"nodes": 9}
    registry = prometheus_client.CollectorRegistry()
    registry.register(measured)
    lines = prometheus_client.generate_latest(registry).decode().splitlines()
    for line in (
        'scheduler_schedule_attempts_total{profile="whipstaff",result="scheduled"} 1.0',
        'scheduler_pending_pods{queue="active"} 3.0',
        'scheduler_queue_incoming_pods_total{event="NodeAdd",queue="active"} 5.0',
        'scheduler_unschedulable_pods{plugin="NodeAffinity",profile="whipstaff"} 2.0',
        'scheduler_cache_size{type="nodes"} 9.0',
        "scheduler_pod_scheduled_after_flush_total 1.0",
        'scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts="15+",le="0.01"} 0.0',
        'scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts="15+",le="0.02"} 1.0',
        'scheduler_pod_scheduling_attempts_bucket{le="16.0"} 0.0',
        'scheduler_pod_scheduling_attempts_bucket{le="+Inf"} 1.0',
        "scheduler_pod_scheduling_attempts_count 1.0",
    ):
        assert line in lines
    attempts = [line for line in lines if 'result="unschedulable"' in line and "_bucket" in line]
    assert len(attempts) == 16
    assert attempts[-1].endswith('le="+Inf",profile="whipstaff",result="unschedulable"} 1.0')


def test_a_histogram_counts_what_lies_on_a_bound_below_it() -> None:
    histogram = metrics.Histogram("x", "a test", ("kind",), (1, 2, 4))
    for value in (1, 2, 3, 5):
        histogram.observe(value, "a")
    [metric] = [histogram.collect()]
    counts = [sample.value for sample in metric.samples if sample.name == "x_bucket"]
    assert counts == [1, 2, 3, 4]
    assert histogram.count("a") == 4
    assert histogram.count("b") == 0
