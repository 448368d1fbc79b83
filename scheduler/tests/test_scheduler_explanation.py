"""What is kept of decisions says later what held then, for pods of every kind."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from whipstaff.scheduler import (
    decision,
    evaluation,
    explanation,
    framework,
    nominator,
    pods,
    profile,
    snapshot,
    testing,
)

Object = dict[str, Any]

DEFAULT = profile.default_profile("default-scheduler")
WEB = {"labelSelector": {"matchLabels": {"app": "web"}}}
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
KINDS: dict[str, Object] = {
    "plain": {},
    "apart": {"affinity": {"podAntiAffinity": {REQUIRED: [{**WEB, "topologyKey": HOST}]}}},
    "together": {"affinity": {"podAffinity": {REQUIRED: [{**WEB, "topologyKey": ZONE}]}}},
    "spread": {
        "topologySpreadConstraints": [
            {**WEB, "maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"},
            {**WEB, "maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "ScheduleAnyway"},
        ]
    },
    "zoned": {"nodeSelector": {ZONE: "z1"}},
    "big": {},
}


def nodes() -> list[Object]:
    made = [
        testing.node(f"node-{number}", cpu="1", labels={ZONE: f"z{number % 3}", HOST: f"{number}"})
        for number in range(12)
    ]
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    return [*made, testing.node("tainted", taints=[taint]), testing.node("off", unschedulable=True)]


def pod_of(kind: str, number: int, **more: Any) -> pods.PodInfo:
    cpu = "3" if kind == "big" else "200m"
    labels = {"app": "web"} if kind in {"apart", "together", "spread"} else {}
    return testing.pod_info(f"{kind}-{number}", {"cpu": cpu}, labels=labels, **KINDS[kind], **more)


def in_full(pod: pods.PodInfo, cluster: snapshot.Snapshot) -> explanation.Sheet:
    """The whole computation, with nothing that was known before."""
    rows, state = np.arange(len(cluster)), framework.CycleState()
    pre = evaluation.pre_filter(
        (entry.plugin.name, entry.plugin.pre_filter(state, pod, cluster))
        for entry in DEFAULT.pre_filters
    )
    filtered = evaluation.filter_rows(DEFAULT, pod, cluster, state, pre.skipped, rows)
    feasible = rows[filtered.rejected_by == 0]
    scored = None
    if len(feasible):
        scored = evaluation.score_rows(DEFAULT, pod, cluster, state, feasible)
    return explanation.Evidence(
        names=tuple(cluster.names),
        filters=tuple(entry.name for entry in DEFAULT.filters),
        filtered=filtered,
        scorers=DEFAULT.scorers,
        weighted=None if scored is None else scored.weighted,
    ).sheet()


def told(sheet: explanation.Sheet) -> Iterator[Any]:
    for position, name in enumerate(sheet.names):
        scores = {
            plugin: int(sheet.weighted[row, position])
            for row, (plugin, _) in enumerate(sheet.scorers)
        }
        yield name, sheet.status(position), scores, int(sheet.total[position])


@pytest.mark.parametrize("seed", range(4))
def test_every_table_is_what_it_was_when_the_decision_was_made(seed: int) -> None:
    cluster, rng = testing.cluster(nodes()), random.Random(seed)
    decider = decision.Decider(cluster, random.Random(seed), evidence=True)
    kept: list[tuple[explanation.Evidence, explanation.Sheet]] = []
    placed: list[pods.PodInfo] = []
    for number in range(80):
        pod = pod_of(rng.choice(list(KINDS)), number)
        expected = in_full(pod, cluster)
        decided = decider.decide(pod, DEFAULT)
        assert decided.evidence is not None
        kept.append((decided.evidence, expected))
        if decided.node is not None:
            placed.append(cluster.assume(pod, decided.node))
        match rng.randrange(8):
            case 0 if placed:
                cluster.remove_pod(placed.pop(rng.randrange(len(placed))).uid)
            case 1:
                cluster.remove_node(f"node-{rng.randrange(12)}")
            case 2:
                cluster.upsert_node(testing.node(f"node-{rng.randrange(14)}", cpu="1"))
    for evidence, expected in kept:
        sheet = evidence.sheet()
        assert list(told(sheet)) == list(told(expected))
        assert sheet.filters == expected.filters


def test_a_node_kept_for_another_pod_is_told_of() -> None:
    cluster, promises = testing.cluster([testing.node("a", cpu="1")]), nominator.Nominator()
    promises.add(testing.pod_info("first", {"cpu": "800m"}, priority=5), "a")
    decider = decision.Decider(cluster, random.Random(0), promises=promises, evidence=True)
    assert decider.decide(pod_of("plain", 1, priority=9), DEFAULT).node == "a"
    decided = decider.decide(pod_of("big", 1), DEFAULT)
    small = decider.decide(testing.pod_info("small", {"cpu": "300m"}), DEFAULT)
    for each in (decided, small):
        assert each.evidence is not None
        assert each.evidence.sheet().status(0).reasons == ("Insufficient cpu",)


def test_a_pod_that_waits_for_a_node_is_told_of_that_node_alone() -> None:
    cluster = testing.cluster(nodes())
    waiting = pod_of("plain", 1, status={"nominatedNodeName": "node-3"})
    decided = decision.Decider(cluster, random.Random(0), evidence=True).decide(waiting, DEFAULT)
    assert decided.evidence is not None
    assert list(decided.evidence.sheet().names) == ["node-3"]


def test_nodes_that_nobody_asked_about_have_one_reason() -> None:
    cluster = testing.cluster(nodes())
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
    pinned = testing.pod_info(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}})
    decided = decision.Decider(cluster, random.Random(0), evidence=True).decide(pinned, DEFAULT)
    assert decided.evidence is not None
    sheet = decided.evidence.sheet()
    assert list(sheet.names) == ["node-1"]
    assert sheet.absent.reasons == ("node(s) didn't satisfy plugin(s) [NodeAffinity]",)


@pytest.mark.parametrize("weight", [1, 2, 3, 327, 328, 1_000_000])
def test_scores_that_are_asked_anew_are_told_exactly(weight: int) -> None:
    plugins = profile.build(
        "x", DEFAULT.points, {**DEFAULT.weights, "PodTopologySpread": weight}, {}
    )
    cluster = testing.cluster(nodes())
    decided = decision.Decider(cluster, random.Random(0), evidence=True).decide(
        pod_of("spread", 1), plugins
    )
    assert decided.evidence is not None
    assert decided.node is not None
    sheet = decided.evidence.sheet()
    position = sheet.names.index(decided.node)
    assert sheet.total[position] == decided.score
    row = [name for name, _ in sheet.scorers].index("PodTopologySpread")
    assert sheet.weighted[row, position] == decided.scores["PodTopologySpread"] == 100 * weight


def test_large_weights_are_told_exactly() -> None:
    plugins = profile.build(
        "x", DEFAULT.points, {**DEFAULT.weights, "NodeResourcesFit": 1_000_000}, {}
    )
    cluster = testing.cluster([testing.node("a"), testing.node("b", cpu="8")])
    decided = decision.Decider(cluster, random.Random(0), evidence=True).decide(
        pod_of("plain", 1), plugins
    )
    assert decided.evidence is not None
    assert int(decided.evidence.sheet().total.max()) == decided.score > 90_000_000


def test_a_steady_stream_of_like_pods_takes_little_memory() -> None:
    cluster = testing.cluster([testing.node(f"node-{number}") for number in range(1000)])
    decider = decision.Decider(cluster, random.Random(0), evidence=True)
    frames, own = {}, 0
    for number in range(500):
        pod = testing.pod_info(f"p{number}", {"cpu": "10m"})
        decided = decider.decide(pod, DEFAULT)
        assert decided.node is not None
        assert decided.evidence is not None
        cluster.assume(pod, decided.node)
        assert decided.evidence.frame is not None
        frames[decided.evidence.frame] = decided.evidence.frame.nbytes
        own += decided.evidence.nbytes
    assert own + sum(frames.values()) < 500 * 2_000


def test_pods_that_keep_apart_take_three_bytes_a_node_at_most() -> None:
    cluster = testing.cluster(
        [testing.node(f"node-{number}", labels={HOST: f"{number}"}) for number in range(1000)]
    )
    decider = decision.Decider(cluster, random.Random(0), evidence=True)
    sizes = []
    for number in range(900):
        pod = pod_of("apart", number)
        decided = decider.decide(pod, DEFAULT)
        assert decided.node is not None
        assert decided.evidence is not None
        cluster.assume(pod, decided.node)
        sizes.append(decided.evidence.nbytes)
    assert 1000 < max(sizes) < 3 * 1000 + 500


def test_nothing_is_kept_unless_it_is_wanted() -> None:
    cluster = testing.cluster(nodes())
    decided = decision.Decider(cluster, random.Random(0)).decide(pod_of("plain", 1), DEFAULT)
    assert decided.evidence is None
