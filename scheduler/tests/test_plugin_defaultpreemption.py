"""DefaultPreemption by upstream's own tables: who goes, from which node, what is said if nobody.

The cases are those of `TestPostFilter`, `TestDryRunPreemption`, `TestSelectBestCandidate`,
`TestPodEligibleToPreemptOthers`, `TestCustomSelection` and `TestPreempt` that need no extenders.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from whipstaff.scheduler import (
    decision,
    framework,
    nominator,
    pods,
    post_filters,
    preemption,
    profile,
    snapshot,
    testing,
    trial,
)
from whipstaff.scheduler.plugins import defaultpreemption

Object = dict[str, Any]

SMALL, MEDIUM, LARGE, VERY_LARGE = (
    {"cpu": f"{cpu}m", "memory": str(cpu)} for cpu in (100, 200, 300, 500)
)
NEGATIVE, LOW, MID, HIGH, VERY_HIGH = -100, 0, 100, 1000, 10000


class Around:
    """What is around the decision."""

    def __init__(self, budgets: Iterable[Object] = (), offset: int = 0) -> None:
        self.random = Offset(offset)
        self._budgets = list(budgets)
        self.promises = nominator.Nominator()
        self.preempting: set[str] = set()
        self.seen: dict[str, Object] = {}

    def latest(self, key: str) -> Mapping[str, Any] | None:
        return self.seen.get(key)

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        return self._budgets

    def nominated_node(self, pod: pods.PodInfo) -> str:
        return self.promises.node_of(pod)

    def is_preempting(self, uid: str) -> bool:
        return uid in self.preempting

    def time(self) -> float:
        return 2_000_000_000.0


class Offset(random.Random):
    """A die that always shows the same."""

    def __init__(self, offset: int) -> None:
        super().__init__(0)
        self._offset = offset

    def randrange(self, *_: Any) -> int:
        return self._offset


def waiting(requests: Object | None = None, priority: int = HIGH, **spec: Any) -> pods.PodInfo:
    """The pod that room is looked for."""
    return testing.pod_info("p", requests, priority=priority, **spec)


def placed(
    name: str,
    node: str,
    priority: int,
    requests: Object | None = None,
    *,
    day: int = 0,
    **more: Any,
) -> Object:
    """A pod on a node, since the `day`th day of 2006, or without a known start."""
    status = {"startTime": f"2006-01-{day:02}T00:00:00Z"} if day else {}
    return testing.pod(name, requests, node_name=node, priority=priority, status=status, **more)


def nodes(count: int, requests: Mapping[str, str] = VERY_LARGE, **more: Any) -> list[Object]:
    return [testing.node(f"node{number + 1}", **requests, **more) for number in range(count)]


def budget(
    allowed: int, labels: Mapping[str, str], disrupted: Sequence[str] = (), **selector: Any
) -> Object:
    return {
        "metadata": {"name": "pdb", "namespace": "default"},
        "spec": {"selector": selector or {"matchLabels": labels}},
        "status": {
            "disruptionsAllowed": allowed,
            "disruptedPods": dict.fromkeys(disrupted, "2026-01-01T00:00:00Z"),
        },
    }


def built(around: Around, plugin: framework.Plugin | None = None) -> profile.Profile:
    made = profile.default_profile("default-scheduler")
    for each in made.plugins.values():
        if isinstance(each, framework.SurroundedPlugin):
            each.settle(around)
    if plugin is None:
        return made
    by_name = {name: each for name, each in made.plugins.items() if name != "Unsupported"}
    points = dict(made.points)
    for point in ("preFilter", "filter"):
        if hasattr(plugin, {"preFilter": "pre_filter"}.get(point, point)):
            points[point] = (*points[point], plugin.name)
    return profile.Profile(
        "default-scheduler", points, made.weights, {**by_name, plugin.name: plugin}
    )


def make_room(
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    around: Around | None = None,
    plugins: profile.Profile | None = None,
) -> post_filters.Answer:
    """What PostFilter answers for a pod that fits nowhere; the cluster is then as it was."""
    around = around or Around()
    plugins = plugins or built(around)
    decider = decision.Decider(cluster, random.Random(0), promises=around.promises)
    decided = decider.decide(pod, plugins)
    assert decided.failure is not None, f"fits {decided.node}"
    before = picture(cluster)
    answer = decider.post_filter(pod, plugins, decided.failure)
    assert picture(cluster) == before
    assert answer is not None
    return answer


def picture(cluster: snapshot.Snapshot) -> Any:
    return (
        cluster.requested.tolist(),
        cluster.nonzero_requested.tolist(),
        cluster.pod_counts.tolist(),
        {str(port): counts.tolist() for port, counts in cluster.ports()},
        {name: {pod.uid for pod in cluster.pods_on(name)} for name in cluster.names},
        {pod.uid for pod in cluster.all_pods() if cluster.is_assumed(pod.uid)},
    )


def chosen(answer: post_filters.Answer) -> tuple[str | None, list[str]]:
    return answer.outcome.nominated, [pod.name for pod in answer.outcome.victims]


def dry_run(
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    around: Around | None = None,
    plugin: defaultpreemption.DefaultPreemption | None = None,
    plugins: profile.Profile | None = None,
) -> dict[str, tuple[list[str], int]]:
    """Victims and violations by node, whatever the nodes were refused for."""
    around = around or Around()
    plugin = plugin or defaultpreemption.DefaultPreemption()
    plugin.settle(around)
    trying = trial.Trial(pod, plugins or built(around), cluster, around.promises)
    found = plugin._dry_run(pod, cluster, list(range(len(cluster))), trying, plugin._clock())
    return {
        each.node: ([victim.name for victim in each.victims], each.violations)
        for each in found.candidates
    }


# What is said.

PREFIX = "no new claims to deallocate, preemption: "


@pytest.mark.parametrize(
    ("pod", "cluster", "expected", "message"),
    [
        pytest.param(
            waiting(),
            testing.cluster(nodes(1, max_pods="1"), [placed("p1", "node1", LOW)]),
            ("node1", ["p1"]),
            "",
            id="a higher priority makes room",
        ),
        pytest.param(
            waiting(priority=LOW),
            testing.cluster(nodes(1, max_pods="1"), [placed("p1", "node1", LOW)]),
            ("", []),
            "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
            id="the same priority doesn't",
        ),
        pytest.param(
            waiting(nodeSelector={"disk": "ssd"}),
            testing.cluster(nodes(1, max_pods="1"), [placed("p1", "node1", LOW)]),
            ("", []),
            "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            id="nobody is evicted from a node that is wrong anyway",
        ),
        pytest.param(
            waiting(priority=MID),
            testing.cluster(
                nodes(2, max_pods="1"), [placed("p1", "node1", HIGH), placed("p2", "node2", LOW)]
            ),
            ("node2", ["p2"]),
            "",
            id="room on one of the nodes",
        ),
        pytest.param(
            waiting(LARGE),
            testing.cluster(
                nodes(2, MEDIUM), [placed("p1", "node1", LOW), placed("p2", "node2", LOW)]
            ),
            ("", []),
            "0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            id="a node that is too small for the pod alone",
        ),
        pytest.param(
            waiting(MEDIUM),
            testing.cluster(
                nodes(3, LARGE),
                [
                    placed("p1", "node1", HIGH, LARGE),
                    placed("p2.1", "node2", HIGH, MEDIUM),
                    placed("p2.2", "node2", LOW, SMALL),
                    placed("p3", "node3", HIGH, LARGE),
                ],
            ),
            ("", []),
            "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, "
            "2 No preemption victims found for incoming pod.",
            id="several reasons",
        ),
        pytest.param(
            waiting(LARGE, preemptionPolicy="Never"),
            testing.cluster(nodes(1), [placed("p1", "node1", LOW, LARGE)]),
            (None, []),
            "not eligible due to preemptionPolicy=Never.",
            id="a pod that doesn't preempt",
        ),
    ],
)
def test_who_goes_and_what_is_said(
    pod: pods.PodInfo, cluster: snapshot.Snapshot, expected: Any, message: str
) -> None:
    answer = make_room(pod, cluster)
    assert chosen(answer) == expected
    assert answer.message == (PREFIX + message if message else "")
    assert answer.outcome.status.is_success == (not message)


def test_a_pod_that_no_prefilter_lets_pass_is_told_what_upstream_says() -> None:
    pod = waiting(
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": [name]}
                                for name in ("node1", "node2")
                            ]
                        }
                    ]
                }
            }
        }
    )
    answer = make_room(pod, testing.cluster(nodes(2), [placed("p1", "node1", LOW, VERY_LARGE)]))
    assert answer.message == "not found"
    assert chosen(answer) == (None, [])


def test_a_profile_without_it_evicts_nobody_and_says_nothing() -> None:
    around = Around()
    plugins = built(around)
    points = {**plugins.points, "postFilter": ()}
    by_name = {name: each for name, each in plugins.plugins.items() if name != "Unsupported"}
    bare = profile.Profile("default-scheduler", points, plugins.weights, by_name)
    cluster = testing.cluster(nodes(1), [placed("p1", "node1", LOW, LARGE)])
    decider = decision.Decider(cluster, random.Random(0))
    failure = decider.decide(waiting(LARGE), bare).failure
    assert failure is not None
    assert decider.post_filter(waiting(LARGE), bare, failure) is None
    assert str(failure) == ("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.")


# Who may preempt.


def leaving(name: str, priority: int, **condition: str) -> Object:
    raw = placed(name, "node1", priority, VERY_LARGE)
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    raw["status"]["conditions"] = [condition] if condition else []
    return raw


BY_SCHEDULER = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}


@pytest.mark.parametrize(
    ("there", "nominated", "may"),
    [
        pytest.param(leaving("v", LOW, **BY_SCHEDULER), "node1", False, id="its victim is going"),
        pytest.param(leaving("v", LOW, **BY_SCHEDULER), "", True, id="it waits for no node"),
        pytest.param(leaving("v", LOW, **BY_SCHEDULER), "gone", True, id="its node is gone"),
        pytest.param(leaving("v", LOW), "node1", True, id="who goes wasn't evicted"),
        pytest.param(
            leaving("v", LOW, **{**BY_SCHEDULER, "reason": "EvictionByEvictionAPI"}),
            "node1",
            True,
            id="who goes was evicted by others",
        ),
    ],
)
def test_nobody_else_goes_while_its_victims_are_on_their_way(
    there: Object, nominated: str, may: bool
) -> None:
    cluster = testing.cluster(nodes(1), [there])
    pod = waiting(VERY_LARGE, status={"nominatedNodeName": nominated})
    answer = make_room(pod, cluster)
    assert answer.outcome.status.is_success == may
    if not may:
        assert answer.message == (
            PREFIX + "not eligible due to a terminating pod on the nominated node."
        )
        assert answer.outcome.nominated is None  # it goes on waiting for that node


def test_a_nominated_node_that_became_wrong_is_given_up() -> None:
    cluster = testing.cluster(
        [testing.node("node1", unschedulable=True, **VERY_LARGE), *nodes(2)[1:]],
        [leaving("v", LOW, **BY_SCHEDULER), placed("v2", "node2", LOW, VERY_LARGE)],
    )
    pod = waiting(VERY_LARGE, status={"nominatedNodeName": "node1"})
    assert chosen(make_room(pod, cluster)) == ("node2", ["v2"])


def test_a_nominated_node_that_is_gone_is_given_up_whoever_is_left_on_it() -> None:
    cluster = testing.cluster(
        nodes(2)[1:],
        [leaving("v", LOW, **BY_SCHEDULER), placed("v2", "node2", LOW, VERY_LARGE)],
    )
    pod = waiting(VERY_LARGE, status={"nominatedNodeName": "node1"})
    assert chosen(make_room(pod, cluster)) == ("node2", ["v2"])


def test_what_was_seen_last_of_a_victim_counts() -> None:
    """The snapshot keeps a pod as it was when it last mattered to placement."""
    around = Around()
    cluster = testing.cluster(nodes(1), [placed("v", "node1", LOW, VERY_LARGE)])
    around.seen["default/v"] = leaving("v", LOW, **BY_SCHEDULER)
    pod = waiting(VERY_LARGE, status={"nominatedNodeName": "node1"})
    assert not make_room(pod, cluster, around).outcome.status.is_success


def test_a_promise_counts_before_the_status_shows_it() -> None:
    around = Around()
    cluster = testing.cluster(nodes(1), [leaving("v", LOW, **BY_SCHEDULER)])
    pod = waiting(VERY_LARGE)
    around.promises.add(pod, "node1")
    assert not make_room(pod, cluster, around).outcome.status.is_success


def test_a_pod_waits_outside_while_others_are_evicted_for_it() -> None:
    around = Around()
    plugin = defaultpreemption.DefaultPreemption()
    plugin.settle(around)
    assert plugin.pre_enqueue(waiting()).is_success
    around.preempting.add(waiting().uid)
    assert plugin.pre_enqueue(waiting()) == framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        ("waiting for the preemption for this pod to be finished",),
    )


# The victims of each node.


@pytest.mark.parametrize(
    ("pod", "there", "expected"),
    [
        pytest.param(
            waiting(LARGE),
            [placed("p1", "node1", MID, LARGE), placed("p2", "node2", MID, LARGE)],
            {"node1": (["p1"], 0), "node2": (["p2"], 0)},
            id="both nodes would do",
        ),
        pytest.param(
            waiting(LARGE, priority=LOW),
            [placed("p1", "node1", MID, LARGE), placed("p2", "node2", MID, LARGE)],
            {},
            id="everybody there is more important",
        ),
        pytest.param(
            waiting(LARGE),
            [
                placed("p1.1", "node1", LOW, SMALL),
                placed("p1.2", "node1", MID, LARGE),
                placed("p2", "node2", MID, LARGE),
            ],
            {"node1": (["p1.2"], 0), "node2": (["p2"], 0)},
            id="a less important pod stays because it is small",
        ),
        pytest.param(
            waiting(LARGE),
            [
                placed("p1.1", "node1", MID, SMALL),
                placed("p1.2", "node1", LOW, SMALL),
                placed("p1.3", "node1", MID, MEDIUM),
                placed("p1.4", "node1", HIGH, SMALL),
                placed("p2", "node2", HIGH, LARGE),
            ],
            {"node1": (["p1.3", "p1.2"], 0)},
            id="several priorities",
        ),
        pytest.param(
            waiting(LARGE),
            [
                placed("p1.1", "node1", LOW, SMALL, day=5),
                placed("p1.2", "node1", LOW, SMALL, day=4),
                placed("p1.3", "node1", MID, MEDIUM, day=3),
                placed("p1.4", "node1", HIGH, SMALL, day=2),
                placed("p2", "node2", HIGH, LARGE, day=1),
            ],
            {"node1": (["p1.3", "p1.1"], 0)},
            id="of equals, the older stays",
        ),
        pytest.param(
            waiting(SMALL, labels={"foo": ""}),
            [
                placed(
                    "p1.1",
                    "node1",
                    LOW,
                    SMALL,
                    affinity={
                        "podAntiAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "topologyKey": "hostname",
                                    "labelSelector": {
                                        "matchExpressions": [{"key": "foo", "operator": "Exists"}]
                                    },
                                }
                            ]
                        }
                    },
                ),
                placed("p1.2", "node1", MID, SMALL),
                placed("p1.3", "node1", HIGH, SMALL),
                placed("p2", "node2", HIGH, SMALL),
            ],
            {"node1": (["p1.1"], 0)},
            id="who keeps the pod away goes",
        ),
    ],
)
def test_the_victims_of_each_node(
    pod: pods.PodInfo, there: list[Object], expected: dict[str, tuple[list[str], int]]
) -> None:
    made = [
        testing.node(name, labels={"hostname": name}, **VERY_LARGE) for name in ("node1", "node2")
    ]
    assert dry_run(pod, testing.cluster(made, there)) == expected


@pytest.mark.skipif(
    not profile.is_built("PodTopologySpread"), reason="constraints are not decided about"
)
@pytest.mark.parametrize(
    ("priorities", "expected", "best"),
    [
        (
            {"a1": MID, "a2": LOW, "b1": LOW, "x1": HIGH, "x2": HIGH},
            {"node-a": (["a2"], 0), "node-b": (["b1"], 0)},
            {("node-a", "a2"), ("node-b", "b1")},
        ),
        (
            {"a1": HIGH, "a2": HIGH, "b1": LOW, "x1": HIGH, "x2": HIGH},
            {"node-b": (["b1"], 0)},
            {("node-b", "b1")},
        ),
    ],
)
def test_pods_that_are_spread_make_room_in_their_domain(
    priorities: dict[str, int], expected: Any, best: set[tuple[str, str]]
) -> None:
    zones = {"node-a": "zone1", "node-b": "zone1", "node-x": "zone2"}
    made = [
        testing.node(name, labels={"hostname": name, "zone": zone}) for name, zone in zones.items()
    ]
    there = [
        placed(name, f"node-{name[0]}", priority, labels={"foo": ""})
        for name, priority in priorities.items()
    ]
    constraints = [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchExpressions": [{"key": "foo", "operator": "Exists"}]},
        }
        for key in ("zone", "hostname")
    ]
    pod = waiting(labels={"foo": ""}, topologySpreadConstraints=constraints)
    cluster = testing.cluster(made, there)
    assert dry_run(pod, cluster) == expected
    node, [victim] = chosen(make_room(pod, cluster))
    assert (node, victim) in best


FOO = {"app": "foo"}


@pytest.mark.parametrize(
    ("budgets", "count", "violations"),
    [
        pytest.param([budget(1, FOO)], 2, 1, id="the second one breaks it"),
        pytest.param([budget(1, FOO, ["p2"])], 2, 1, id="another eviction is counted already"),
        pytest.param([budget(1, FOO, ["p1.2"])], 2, 0, id="an eviction of theirs is"),
        pytest.param([budget(1, FOO, ["p1.3"])], 3, 1, id="an eviction of theirs is, of three"),
        pytest.param([budget(0, FOO)], 2, 2, id="nobody may go"),
        pytest.param([budget(0, {"app": "bar"})], 2, 0, id="it protects others"),
        pytest.param([budget(0, {})], 2, 0, id="an empty selector selects nobody"),
        pytest.param(
            [budget(0, {}, matchExpressions=[{"key": "app", "operator": "Isn't"}])],
            2,
            0,
            id="a selector that can't be read",
        ),
        pytest.param([budget(1, FOO), budget(0, FOO)], 2, 2, id="two budgets"),
    ],
)
def test_evictions_that_break_a_budget_are_counted(
    budgets: list[Object], count: int, violations: int
) -> None:
    there = [
        placed(f"p1.{number + 1}", "node1", MID, MEDIUM, labels=FOO) for number in range(count)
    ]
    [node] = nodes(1)
    node["status"]["allocatable"].update(cpu=f"{200 * count + 100}m", memory="10000")
    pod = waiting({"cpu": f"{200 * count}m"})
    found = dry_run(pod, testing.cluster([node], there), Around(budgets))
    assert found == {"node1": ([each["metadata"]["name"] for each in there], violations)}


def test_a_budget_of_another_namespace_protects_nobody_here() -> None:
    protecting = budget(0, FOO)
    protecting["metadata"]["namespace"] = "elsewhere"
    there = [placed("v", "node1", LOW, LARGE, labels=FOO)]
    found = dry_run(waiting(LARGE), testing.cluster(nodes(1), there), Around([protecting]))
    assert found == {"node1": (["v"], 0)}


def test_whom_a_budget_protects_is_let_back_first() -> None:
    there = [
        placed("important", "node1", MID, MEDIUM),
        placed("protected", "node1", LOW, MEDIUM, labels=FOO),
    ]
    cluster = testing.cluster(nodes(1), there)
    found = dry_run(waiting(LARGE), cluster, Around([budget(0, FOO)]))
    assert found == {"node1": (["important"], 0)}


# How many nodes are looked at.


def limited(percentage: int, absolute: int) -> defaultpreemption.DefaultPreemption:
    return defaultpreemption.DefaultPreemption.from_arguments(
        {"minCandidateNodesPercentage": percentage, "minCandidateNodesAbsolute": absolute}
    )


@pytest.mark.parametrize(
    ("offset", "important", "expected"),
    [
        (4, set(), ["node5", "node1"]),
        (4, {"node2", "node5"}, ["node1", "node3"]),
        (1, set(), ["node2", "node3"]),
        (3, set(), ["node4", "node5"]),
    ],
)
def test_it_starts_anywhere_and_stops_when_enough_nodes_would_do(
    offset: int, important: set[str], expected: list[str]
) -> None:
    there = [
        placed(f"p{name}", name, VERY_HIGH if name in important else MID, LARGE)
        for name in (f"node{number}" for number in range(1, 6))
    ]
    cluster = testing.cluster(nodes(5), there)
    found = dry_run(waiting(LARGE), cluster, Around(offset=offset), limited(40, 1))
    assert list(found) == expected


def test_it_looks_on_until_a_node_breaks_no_budget() -> None:
    there = [
        placed(f"p{number}", f"node{number}", MID, LARGE, labels={} if number in (3, 4) else FOO)
        for number in range(1, 6)
    ]
    around = Around([budget(0, FOO)], offset=4)
    found = dry_run(waiting(LARGE), testing.cluster(nodes(5), there), around, limited(40, 2))
    assert found == {"node3": (["p3"], 0), "node5": (["p5"], 1), "node1": (["p1"], 1)}


@pytest.mark.parametrize(
    ("count", "wanted"), [(5, 5), (100, 100), (500, 100), (1000, 100), (5000, 500)]
)
def test_a_tenth_of_the_nodes_but_a_hundred_at_least(count: int, wanted: int) -> None:
    assert defaultpreemption.DefaultPreemption().candidates_wanted(count) == wanted


# The node that is chosen.


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        pytest.param(
            {
                "node1": [(MID, MEDIUM, 1), (MID, LARGE, 1)],
                "node2": [(MID, MEDIUM, 1), (LOW, MEDIUM, 1)],
                "node3": [(LOW, MEDIUM, 1), (LOW, MEDIUM, 1)],
            },
            "node3",
            id="the least important of the most important victims",
        ),
        pytest.param(
            {
                "node1": [(MID, MEDIUM, 1), (MID, LARGE, 1)],
                "node2": [(MID, LARGE, 1), (LOW, MEDIUM, 1)],
                "node3": [(MID, MEDIUM, 1), (MID, MEDIUM, 1)],
            },
            "node2",
            id="the smallest sum of priorities",
        ),
        pytest.param(
            {
                "node1": [(MID, SMALL, 1), (NEGATIVE, SMALL, 1)] * 2,
                "node2": [(MID, LARGE, 1), (NEGATIVE, MEDIUM, 1)],
                "node3": [(MID, MEDIUM, 1), (NEGATIVE, SMALL, 1), (LOW, SMALL, 1)],
            },
            "node2",
            id="the fewest victims",
        ),
        pytest.param(
            {
                "node1": [(MID, SMALL, 1), (NEGATIVE, SMALL, 1), (NEGATIVE, SMALL, 1)],
                "node2": [(MID, LARGE, 1), (NEGATIVE, MEDIUM, 1)],
                "node3": [(MID, MEDIUM, 1), (NEGATIVE, SMALL, 1), (LOW, SMALL, 1)],
            },
            "node2",
            id="negative priorities don't make up for one another",
        ),
        pytest.param(
            {
                "node1": [(MID, SMALL, 1), (LOW, SMALL, 1), (LOW, SMALL, 1)],
                "node2": [(HIGH, LARGE, 1)],
                "node3": [(MID, MEDIUM, 1), (LOW, SMALL, 1), (LOW, SMALL, 1), (LOW, MEDIUM, 1)],
                "node4": [(MID, MEDIUM, 1), (MID, SMALL, 1), (MID, SMALL, 1), (NEGATIVE, SMALL, 1)],
            },
            "node1",
            id="one rule after the other",
        ),
        pytest.param(
            {
                "node1": [(MID, MEDIUM, 2), (MID, MEDIUM, 2)],
                "node2": [(MID, MEDIUM, 3), (MID, MEDIUM, 3)],
                "node3": [(MID, MEDIUM, 1), (MID, MEDIUM, 1)],
            },
            "node2",
            id="the latest start",
        ),
        pytest.param(
            {
                "node1": [(MID, MEDIUM, 4), (MID, MEDIUM, 2)],
                "node2": [(MID, MEDIUM, 5), (MID, MEDIUM, 1)],
                "node3": [(MID, MEDIUM, 3), (MID, MEDIUM, 6)],
            },
            "node3",
            id="the latest of the earliest starts",
        ),
        pytest.param(
            {
                "node1": [(LOW, MEDIUM, 4), (MID, MEDIUM, 2)],
                "node2": [(MID, MEDIUM, 6), (LOW, MEDIUM, 1)],
                "node3": [(LOW, MEDIUM, 3), (MID, MEDIUM, 5)],
            },
            "node2",
            id="of the most important victims only",
        ),
    ],
)
def test_the_node_where_it_hurts_least(
    there: dict[str, list[tuple[int, Object, int]]], expected: str
) -> None:
    pods_there = [
        placed(f"{node}.{number}", node, priority, requests, day=day)
        for node, each in there.items()
        for number, (priority, requests, day) in enumerate(each)
    ]
    cluster = testing.cluster(nodes(len(there)), pods_there)
    assert chosen(make_room(waiting(VERY_LARGE, priority=VERY_HIGH), cluster))[0] == expected


def test_a_broken_budget_weighs_most() -> None:
    there = [
        placed("p1.1", "node1", HIGH, SMALL),
        placed("p1.2", "node1", LOW, SMALL, labels=FOO),
        placed("p2", "node2", MID, SMALL),
    ]
    cluster = testing.cluster(nodes(2), there)
    around = Around([budget(0, FOO)])
    assert chosen(make_room(waiting(VERY_LARGE, VERY_HIGH), cluster, around)) == ("node2", ["p2"])


def test_of_equals_the_first_is_taken() -> None:
    victims = [testing.pod_info(name, node_name="n", priority=LOW) for name in ("a", "b")]
    candidates = [preemption.Candidate(pod.name, (pod,), 0) for pod in victims]
    assert preemption.choose(candidates, lambda _: 0.0).node == "a"


# Room that others wait for.


def test_room_made_for_an_equal_is_not_taken() -> None:
    around = Around()
    rival = testing.pod_info("rival", LARGE, priority=HIGH)
    around.promises.add(rival, "node1")
    cluster = testing.cluster(
        nodes(2), [placed("p1", "node1", LOW, MEDIUM), placed("p2", "node2", MID, LARGE)]
    )
    # Evicting p1 would leave no room beside the rival, who isn't there yet.
    assert chosen(make_room(waiting(LARGE), cluster, around)) == ("node2", ["p2"])


def test_room_made_for_somebody_less_important_is() -> None:
    around = Around()
    around.promises.add(testing.pod_info("rival", LARGE, priority=MID), "node1")
    cluster = testing.cluster(
        nodes(2), [placed("p1", "node1", LOW, LARGE), placed("p2", "node2", MID, LARGE)]
    )
    assert chosen(make_room(waiting(LARGE), cluster, around)) == ("node1", ["p1"])


# Plugins of one's own.


class Choosy(defaultpreemption.DefaultPreemption):
    """Evicts only who agreed to it."""

    def may_evict(self, victim: pods.PodInfo, preemptor: pods.PodInfo) -> bool:
        return victim.labels.get("preemptible") == "yes"


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (HIGH, {"node2": (["v2"], 0), "node3": (["v3"], 0)}),
        (MID, {"node3": (["v3"], 0)}),
        (LOW, {}),
    ],
)
def test_a_plugin_may_say_who_is_spared(priority: int, expected: Any) -> None:
    there = [
        placed("v1", "node1", MID, LARGE, labels={"preemptible": "no"}),
        placed("v2", "node2", MID, LARGE, labels={"preemptible": "yes"}),
        placed("v3", "node3", LOW, LARGE, labels={"preemptible": "yes"}),
        placed("v4", "node4", LOW, LARGE),
    ]
    cluster = testing.cluster(nodes(4), there)
    assert dry_run(waiting(LARGE, priority=priority), cluster, plugin=Choosy()) == expected


class Faulty(framework.Plugin):
    """Fails on some nodes once the pod in the way is gone, and refuses all of them before."""

    name = "Faulty"
    filter_reads = framework.Reads.NODE | framework.Reads.PODS

    def sign(self, pod: pods.PodInfo) -> tuple[()]:
        return ()

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        full = cluster.pod_counts[rows] > 0
        for row in np.arange(len(cluster))[rows][~full].tolist():
            if "error" in cluster.node_at(row)["metadata"]["labels"]:
                raise framework.PluginError(self.name, "out of order")
        return framework.reject(full, "taken", framework.Code.UNSCHEDULABLE)


def test_where_a_plugin_fails_other_nodes_are_tried() -> None:
    around = Around()
    plugins = built(around, Faulty())
    there = [placed("p1", "node1", LOW), placed("p2", "node2", LOW)]
    failing = testing.node("node1", labels={"error": "true"})
    cluster = testing.cluster([failing, testing.node("node2")], there)
    assert chosen(make_room(waiting(), cluster, around, plugins)) == ("node2", ["p2"])


def test_a_failure_everywhere_is_told_and_changes_no_promise() -> None:
    around = Around()
    plugins = built(around, Faulty())
    failing = testing.node("node1", labels={"error": "true"})
    cluster = testing.cluster([failing], [placed("p1", "node1", LOW)])
    answer = make_room(waiting(), cluster, around, plugins)
    assert answer.message == 'preemption: running "Faulty" filter plugin: out of order'
    assert answer.outcome.status.code == framework.Code.ERROR
    assert chosen(answer) == (None, [])
