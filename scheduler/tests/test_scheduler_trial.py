"""What would fit if: pods moved in thought, and what plugins see of it."""

import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from whipstaff.scheduler import (
    decision,
    disruption,
    framework,
    nominator,
    pods,
    preemption,
    profile,
    snapshot,
    testing,
    trial,
)

Object = dict[str, Any]

RED = {"colour": "red"}


class Apart(framework.Plugin):
    """At most so many red pods in a zone: a filter that looks beyond its node."""

    name: ClassVar[str] = "Apart"
    most = 1

    def __init__(self) -> None:
        self.noted = 0

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        if pod.labels != RED:
            return framework.SKIP
        self.noted += 1
        counts: dict[str, int] = {}
        for other in cluster.all_pods():
            if other.labels == RED:
                zone = zone_of(cluster, other.node_name)
                counts[zone] = counts.get(zone, 0) + 1
        state[self.name] = counts
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        names = np.array(cluster.names)[rows].tolist()
        full = [state[self.name].get(zone_of(cluster, name), 0) >= self.most for name in names]
        return framework.reject(np.array(full), "too red", framework.Code.UNSCHEDULABLE)


class Following(Apart):
    """The same, keeping its counts true by itself."""

    def add_pod(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        other: pods.PodInfo,
        cluster: snapshot.Snapshot,
    ) -> None:
        self._count(state, other, cluster, 1)

    def remove_pod(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        other: pods.PodInfo,
        cluster: snapshot.Snapshot,
    ) -> None:
        self._count(state, other, cluster, -1)

    def _count(
        self,
        state: framework.CycleState,
        other: pods.PodInfo,
        cluster: snapshot.Snapshot,
        change: int,
    ) -> None:
        if other.labels == RED:
            counts = state[self.name]
            zone = zone_of(cluster, other.node_name)
            counts[zone] = counts.get(zone, 0) + change


def zone_of(cluster: snapshot.Snapshot, name: str) -> str:
    node = cluster.node(name)
    assert node is not None
    zone: str = node["metadata"]["labels"]["zone"]
    return zone


def with_plugin(plugin: framework.Plugin | None) -> profile.Profile:
    usual = profile.default_profile("default-scheduler")
    if plugin is None:
        return usual
    by_name = {name: each for name, each in usual.plugins.items() if name != "Unsupported"}
    points = {
        **usual.points,
        "preFilter": (*usual.points["preFilter"], plugin.name),
        "filter": (*usual.points["filter"], plugin.name),
    }
    return profile.Profile(
        "default-scheduler", points, usual.weights, {**by_name, plugin.name: plugin}
    )


def zones(**counts: int) -> list[Object]:
    """So many nodes in each zone."""
    return [
        testing.node(f"{zone}{number}", labels={"zone": zone})
        for zone, count in counts.items()
        for number in range(count)
    ]


def red(name: str, node: str, priority: int = 0) -> Object:
    return testing.pod(name, node_name=node, labels=RED, priority=priority)


def victims(
    plugin: framework.Plugin, cluster: snapshot.Snapshot, pod: pods.PodInfo
) -> dict[str, list[str]]:
    trying = trial.Trial(pod, with_plugin(plugin), cluster, nominator.Nominator())
    run = preemption.DryRun(trying, cluster, [], lambda _: 0.0, lambda _: True)
    found = run.find(range(len(cluster)), len(cluster))
    assert not found.errors
    return {each.node: [victim.name for victim in each.victims] for each in found.candidates}


@pytest.mark.parametrize("kind", [Apart, Following])
def test_a_filter_that_looks_beyond_its_node_sees_one_node_emptied_at_a_time(
    kind: type[Apart],
) -> None:
    plugin = kind()
    placed = [red("one", "a0"), red("two", "a1"), red("three", "b0"), red("old", "c0", priority=9)]
    cluster = testing.cluster(zones(a=2, b=1, c=1), placed)
    pod = testing.pod_info("p", labels=RED, priority=5)
    # With two red pods in zone a, it helps to empty neither of its nodes alone.
    assert victims(plugin, cluster, pod) == {"b0": ["three"]}
    assert cluster.pod_counts.tolist() == [1, 1, 1, 1]
    assert (plugin.noted == 1) == (kind is Following)


@pytest.mark.parametrize("kind", [Apart, Following])
def test_it_is_asked_about_many_nodes_at_once_only_if_it_has_nothing_to_say(
    kind: type[Apart],
) -> None:
    cluster = testing.cluster(zones(a=1))
    plugins, promises = with_plugin(kind()), nominator.Nominator()
    red_pod = testing.pod_info("p", labels=RED)
    assert not trial.Trial(red_pod, plugins, cluster, promises).is_local
    assert trial.Trial(testing.pod_info("p"), plugins, cluster, promises).is_local


class Breaking(Following):
    """Fails when a pod comes back."""

    def add_pod(self, *_: Any) -> None:
        raise RuntimeError("lost count")


def test_whatever_a_plugin_does_every_pod_is_back_in_the_end() -> None:
    cluster = testing.cluster(zones(a=1), [red("one", "a0"), red("two", "a0")])
    pod = testing.pod_info("p", labels=RED, priority=5)
    trying = trial.Trial(pod, with_plugin(Breaking()), cluster, nominator.Nominator())
    run = preemption.DryRun(trying, cluster, [], lambda _: 0.0, lambda _: True)
    [error] = run.find([0], 1).errors
    assert "AddPod" in str(error)
    assert "lost count" in str(error)
    assert cluster.pod_counts.tolist() == [2]


class Closed(framework.Plugin):
    """Refuses every node from pre_filter on while a certain pod is there."""

    name: ClassVar[str] = "Closed"

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        if any(other.name == "holder" for other in cluster.all_pods()):
            return framework.Status(framework.Code.UNSCHEDULABLE, ("held",))
        return None

    def filter(self, *_: Any) -> None:
        return None


def test_a_pod_that_holds_up_every_node_can_be_evicted() -> None:
    placed = [
        testing.pod("holder", node_name="a0", priority=0),
        testing.pod("other", node_name="a1", priority=0),
    ]
    cluster = testing.cluster(zones(a=2), placed)
    pod = testing.pod_info("p", priority=5)
    plugins = with_plugin(Closed())
    assert str(decision.Decider(cluster, random.Random(0)).decide(pod, plugins).failure) == (
        "0/2 nodes are available: held."
    )
    assert victims(Closed(), cluster, pod) == {"a0": ["holder"]}


class Doorkeeper(framework.Plugin):
    """Looks at pods once, before any node, and filters none."""

    name: ClassVar[str] = "Doorkeeper"

    def pre_filter(self, *_: Any) -> None:
        return None


def test_a_plugin_that_filters_no_node_is_no_reason_to_go_node_by_node() -> None:
    cluster = testing.cluster(zones(a=1))
    pod, plugins = testing.pod_info("p"), with_plugin(Doorkeeper())
    assert trial.Trial(pod, plugins, cluster, nominator.Nominator()).is_local


# Pods that wait for a node.


def decide(
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    pod: pods.PodInfo,
    plugin: framework.Plugin | None = None,
) -> decision.Decision:
    decider = decision.Decider(cluster, random.Random(0), promises=promises)
    return decider.decide(pod, with_plugin(plugin))


def test_a_promised_node_is_full_for_those_who_are_no_more_important() -> None:
    cluster = testing.cluster([testing.node("a", cpu="1"), testing.node("b", cpu="600m")])
    promises = nominator.Nominator()
    promises.add(testing.pod_info("first", {"cpu": "700m"}, priority=5), "a")
    asked = {"cpu": "500m"}
    for priority, nodes in ((4, {"b"}), (5, {"b"}), (6, {"a", "b"})):
        pod = testing.pod_info("next", asked, priority=priority)
        assert decide(cluster, promises, pod).feasible == len(nodes), priority
        assert decide(cluster, promises, pod).node in nodes
    assert cluster.pod_count == 0


def test_the_reasons_are_those_that_hold_beside_who_is_promised_the_node() -> None:
    cluster = testing.cluster(
        [testing.node("a", cpu="1", max_pods="2")],
        [testing.pod("there", {"cpu": "800m"}, node_name="a")],
    )
    promises = nominator.Nominator()
    promises.add(testing.pod_info("first", {"cpu": "100m"}, priority=5), "a")
    failure = decide(cluster, promises, testing.pod_info("next", {"cpu": "500m"})).failure
    assert str(failure) == "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods."


def test_a_pod_gets_the_node_that_it_waits_for_even_if_another_is_better() -> None:
    cluster = testing.cluster(
        [testing.node("a"), testing.node("b")], [testing.pod("x", {"cpu": "2"}, node_name="a")]
    )
    promises = nominator.Nominator()
    pod = testing.pod_info("p", {"cpu": "1"})
    assert decide(cluster, promises, pod).node == "b"
    promises.add(pod, "a")
    decided = decide(cluster, promises, pod)
    assert (decided.node, decided.feasible, decided.evaluated) == ("a", 1, 1)
    assert decided.score > 0


def test_a_pod_that_no_longer_fits_its_node_looks_at_the_others() -> None:
    cluster = testing.cluster(
        [testing.node("a", cpu="1"), testing.node("b")],
        [testing.pod("x", {"cpu": "1"}, node_name="a")],
    )
    promises = nominator.Nominator()
    pod = testing.pod_info("p", {"cpu": "1"}, status={"nominatedNodeName": "a"})
    assert decide(cluster, promises, pod).node == "b"


@pytest.mark.parametrize("kind", [Apart, Following])
def test_a_filter_that_looks_beyond_its_node_counts_who_is_promised_it(kind: type[Apart]) -> None:
    cluster = testing.cluster(zones(a=1, b=1))
    promises = nominator.Nominator()
    promises.add(testing.pod_info("first", labels=RED, priority=5), "a0")
    pod = testing.pod_info("p", labels=RED, priority=5)
    assert decide(cluster, promises, pod, kind()).node == "b0"


def test_a_pod_that_is_there_already_counts_once() -> None:
    cluster = testing.cluster([testing.node("a", cpu="1")])
    promises = nominator.Nominator()
    first = testing.pod_info("first", {"cpu": "500m"}, priority=5)
    promises.add(first, "a")
    cluster.assume(first, "a")
    assert decide(cluster, promises, testing.pod_info("p", {"cpu": "500m"})).node == "a"


def test_a_promise_changes_with_the_status_and_not_with_old_news() -> None:
    promises = nominator.Nominator()
    pod = testing.pod_info("p")
    promises.add(pod, "a")
    promises.update(pod.raw, pod)
    assert promises.node_of(pod) == "a"
    told = testing.pod_info("p", status={"nominatedNodeName": "b"})
    promises.update(pod.raw, told)
    assert (promises.node_of(told), len(promises)) == ("b", 1)
    promises.add(told, "")
    promises.update(told.raw, told)
    assert (promises.node_of(told), len(promises)) == ("", 0)
    promises.add(told, "c")
    promises.update(told.raw, pod)
    assert (promises.node_of(pod), len(promises)) == ("", 0)
    promises.add(told)
    promises.remove(told.uid)
    assert len(promises) == 0
    assert promises.node_of(told) == "b"


# Against one node after the other, each in a cluster of its own.


@dataclasses.dataclass
class Case:
    cluster: list[Object]
    placed: list[Object]
    waiting: list[tuple[pods.PodInfo, str]]
    pod: pods.PodInfo
    budgets: list[disruption.Budget]


AMOUNTS = st.sampled_from(["100m", "300m", "500m", "900m"])
PRIORITIES = st.integers(-1, 3)
LABELS = st.sampled_from([{}, RED, {"colour": "blue"}])


@st.composite
def beyond_the_node(draw: st.DrawFn) -> Object:
    """What makes a pod's place depend on pods elsewhere, as far as there are plugins for it."""
    selector = {"labelSelector": {"matchLabels": draw(st.sampled_from([RED, {"colour": "blue"}]))}}
    term = {"topologyKey": draw(st.sampled_from(["zone", "host"])), **selector}
    kinds = []
    if profile.is_built("InterPodAffinity"):
        required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        kinds += [{"affinity": {kind: required}} for kind in ("podAffinity", "podAntiAffinity")]
    if profile.is_built("PodTopologySpread"):
        constraint = {**term, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
        kinds.append({"topologySpreadConstraints": [constraint]})
    return draw(st.sampled_from([{}, *kinds]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    made = [
        testing.node(
            f"n{number}",
            cpu=draw(st.sampled_from(["1", "2"])),
            max_pods=draw(st.sampled_from(["3", "110"])),
            labels={"zone": draw(st.sampled_from("ab")), "host": f"n{number}"},
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    ports = st.sampled_from([(), (), (), (80,), (81,)])

    def a_pod(name: str, **more: Any) -> Object:
        container = testing.container({"cpu": draw(AMOUNTS)}, host_ports=draw(ports))
        priority = draw(PRIORITIES)
        labels = draw(LABELS)
        return testing.pod(
            name,
            containers=[container],
            labels=labels,
            priority=priority,
            **draw(st.just({}) | beyond_the_node()),
            **more,
        )

    node = st.sampled_from([raw["metadata"]["name"] for raw in made])
    placed = [
        a_pod(
            f"p{number}",
            node_name=draw(node),
            status={"startTime": f"2026-01-01T00:00:0{draw(st.integers(0, 3))}Z"},
        )
        for number in range(draw(st.integers(0, 8)))
    ]
    waiting = [
        (pods.PodInfo.from_object(a_pod(f"w{number}")), draw(node))
        for number in range(draw(st.integers(0, 2)))
    ]
    budgets = [
        {
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {"selector": {"matchLabels": RED}},
            "status": {"disruptionsAllowed": draw(st.integers(0, 1))},
        }
        for _ in range(draw(st.integers(0, 1)))
    ]
    pod = pods.PodInfo.from_object(a_pod("p"))
    return Case(made, placed, waiting, pod, disruption.read(budgets))


def start_of(pod: pods.PodInfo) -> float:
    return float(pod.raw["status"]["startTime"][-3:-1])


def fits(
    case: Case, plugin: framework.Plugin | None, node: str, gone: Sequence[pods.PodInfo]
) -> bool:
    """Whether the pod fits `node`, by a snapshot made from nothing: once beside those who wait.

    As upstream, a filter that has nothing to say with every pod in its place isn't asked later.
    """
    plugins = with_plugin(plugin)
    before = testing.cluster(case.cluster, case.placed)
    skipped = trial.Trial(case.pod, plugins, before, nominator.Nominator())._pre.skipped
    absent = {pod.uid for pod in gone}
    there = [raw for raw in case.placed if raw["metadata"]["uid"] not in absent]
    beside = [
        put_on(pod.raw, name)
        for pod, name in case.waiting
        if name == node and pod.priority >= case.pod.priority
    ]
    for placed in ([*there, *beside], there):
        cluster = testing.cluster(case.cluster, placed)
        trying = trial.Trial(case.pod, plugins, cluster, nominator.Nominator())
        trying._pre.skipped |= skipped
        if trying.run(np.array([cluster.row_of[node]])).rejected_by[0]:
            return False
    return True


def put_on(raw: Object, node: str) -> Object:
    return {**raw, "spec": {**raw["spec"], "nodeName": node}}


def expected_victims(
    case: Case, plugin: framework.Plugin | None, node: str
) -> tuple[list[str], int] | None:
    """Source: `SelectVictimsOnNode`, one node and one pod at a time."""
    lower = [
        pod
        for pod in map(pods.PodInfo.from_object, case.placed)
        if pod.node_name == node and pod.priority < case.pod.priority
    ]
    if not lower or not fits(case, plugin, node, lower):
        return None
    lower.sort(key=lambda pod: (-pod.priority, start_of(pod), pod.name))
    protected, others = disruption.split(lower, case.budgets)
    gone = list(lower)
    violations = 0
    for pod in (*protected, *others):
        without = [other for other in gone if other is not pod]
        if fits(case, plugin, node, without):
            gone = without
        else:
            violations += pod in protected
    return [pod.name for pod in gone], violations


@hypothesis.given(cases(), st.sampled_from([None, Apart, Following]))
@hypothesis.settings(max_examples=150, deadline=None)
def test_all_nodes_at_once_give_the_victims_of_one_after_the_other(
    case: Case, kind: type[Apart] | None
) -> None:
    plugin = kind() if kind else None
    cluster = testing.cluster(case.cluster, case.placed)
    promises = nominator.Nominator()
    for waiting, node in case.waiting:
        promises.add(waiting, node)
    trying = trial.Trial(case.pod, with_plugin(plugin), cluster, promises)
    run = preemption.DryRun(trying, cluster, case.budgets, start_of, lambda _: True)
    found = run.find(range(len(cluster)), len(cluster))
    got = {
        each.node: ([victim.name for victim in each.victims], each.violations)
        for each in found.candidates
    }
    expected = {
        name: wanted
        for name in cluster.names
        if (wanted := expected_victims(case, plugin, name)) is not None and wanted[0]
    }
    assert got == expected
    fresh = testing.cluster(case.cluster, case.placed)
    assert cluster.requested.tolist() == fresh.requested.tolist()
    assert cluster.pod_counts.tolist() == fresh.pod_counts.tolist()
    assert sorted(pod.uid for pod in cluster.all_pods()) == sorted(
        pod.uid for pod in fresh.all_pods()
    )


@hypothesis.given(cases(), st.sampled_from([None, Apart, Following]), st.booleans())
@hypothesis.settings(max_examples=150, deadline=None)
def test_every_decision_leaves_room_for_those_who_wait(
    case: Case, kind: type[Apart] | None, warm: bool
) -> None:
    plugin = kind() if kind else None
    cluster = testing.cluster(case.cluster, case.placed)
    promises = nominator.Nominator()
    decider = decision.Decider(cluster, random.Random(0), promises=promises)
    plugins = with_plugin(plugin)
    if warm:
        decider.decide(case.pod, plugins)
    for waiting, node in case.waiting:
        promises.add(waiting, node)
    decided = decider.decide(case.pod, plugins)
    feasible = [name for name in cluster.names if fits(case, plugin, name, ())]
    assert decided.feasible == len(feasible)
    assert decided.node is None or decided.node in feasible
    again = decider.decide(case.pod, plugins)
    assert (again.feasible, str(again.failure)) == (decided.feasible, str(decided.failure))


def test_costs_are_compared_one_rule_after_the_other() -> None:
    def candidate(*priorities: int, violations: int = 0) -> preemption.Candidate:
        there = tuple(testing.pod_info(f"p{each}", priority=each) for each in priorities)
        return preemption.Candidate("n", there, violations)

    worse_and_worse = [
        candidate(1),
        candidate(1, -5),
        candidate(1, 0),
        candidate(1, 1),
        candidate(2),
        candidate(0, violations=1),
    ]
    costs = [preemption.cost(each, lambda _: 0.0) for each in worse_and_worse]
    assert all(left < right for left, right in itertools.pairwise(costs))
