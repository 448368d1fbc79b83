"""What helps a pod that a plugin refused: the plugins about nodes, room and ports.

Those about other pods and about volumes are tested with the plugins themselves.
"""

from typing import Any

import pytest

from whipstaff.scheduler import cluster_events, pods, testing
from whipstaff.scheduler.plugins import (
    BUILT,
    nodeaffinity,
    nodeports,
    noderesourcesfit,
    nodeunschedulable,
    tainttoleration,
)

Object = dict[str, Any]

ADD, ALLOCATABLE, LABEL, TAINT = (
    cluster_events.event(cluster_events.NODE, action)
    for action in (
        cluster_events.Action.ADD,
        cluster_events.Action.UPDATE_NODE_ALLOCATABLE,
        cluster_events.Action.UPDATE_NODE_LABEL,
        cluster_events.Action.UPDATE_NODE_TAINT,
    )
)


def helps(
    plugin: Any,
    waiting: Object,
    event: cluster_events.ClusterEvent,
    old: Object | None,
    new: Object | None,
) -> bool:
    """Whether the plugin has the pod, which it refused, tried again."""
    return testing.may_help(plugin, pods.PodInfo.from_object(waiting), event, old, new)


def changes_help(plugin: Any, waiting: Object, old: Object, new: Object) -> bool:
    """Whether what a pod's or a node's change amounts to helps."""
    of_pods = "containers" in new["spec"]
    happened = (cluster_events.pod_changes if of_pods else cluster_events.node_changes)(old, new)
    return any(helps(plugin, waiting, event, old, new) for event in happened)


# Room.

FIT = noderesourcesfit.NodeResourcesFit()
WANTS_CPU = testing.pod("waits", {"cpu": "2"})


def whole(name: str, amounts: dict[str, str], **more: Any) -> Object:
    """A pod that asks for something as a whole and not by container."""
    return testing.pod(name, resources={"requests": amounts}, **more)


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (testing.pod("gone", node_name="n"), True),
        (testing.pod("gone", status={"nominatedNodeName": "n"}), True),
        (testing.pod("gone"), False),
    ],
)
def test_a_pod_that_had_or_was_promised_a_node_leaves_room(gone: Object, expected: bool) -> None:
    event = cluster_events.ASSIGNED_POD_DELETE
    assert helps(FIT, WANTS_CPU, event, gone, None) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            testing.pod("other", {"cpu": "2"}, node_name="n"),
            testing.pod("other", {"cpu": "1"}, node_name="n"),
            True,
        ),
        (
            testing.pod("other", {"memory": "2"}, node_name="n"),
            testing.pod("other", {"memory": "1"}, node_name="n"),
            False,
        ),
        (testing.pod("other", {"cpu": "2"}), testing.pod("other", {"cpu": "1"}), False),
        (testing.pod("waits", {"cpu": "3"}), WANTS_CPU, True),
        (
            whole("other", {"cpu": "2"}, node_name="n"),
            whole("other", {"cpu": "1"}, node_name="n"),
            True,
        ),
        (
            whole("other", {"memory": "2"}, node_name="n"),
            whole("other", {"memory": "1"}, node_name="n"),
            False,
        ),
        (whole("waits", {"cpu": "3"}), whole("waits", {"cpu": "2"}), True),
    ],
)
def test_a_pod_that_shrinks_leaves_room_of_that_kind(
    old: Object, new: Object, expected: bool
) -> None:
    assert changes_help(FIT, WANTS_CPU, old, new) is expected


@pytest.mark.parametrize(
    ("wanted", "old", "new", "expected"),
    [
        ({"cpu": "2"}, None, {"cpu": "2"}, True),
        ({"cpu": "2"}, None, {"cpu": "1"}, False),
        ({"example.com/gpu": "1"}, None, {"cpu": "4"}, False),
        ({"example.com/gpu": "1"}, None, {"more": {"example.com/gpu": "1"}}, True),
        ({}, None, {"max_pods": "1"}, True),
        ({}, None, {"max_pods": "0"}, False),
        ({"cpu": "2"}, {"cpu": "2"}, {"cpu": "2", "memory": "64Gi"}, False),
        ({"cpu": "2"}, {"cpu": "2"}, {"cpu": "3"}, True),
        ({"cpu": "2"}, {"cpu": "2"}, {"cpu": "1"}, False),
        ({"cpu": "2"}, {"cpu": "1"}, {"cpu": "2"}, True),
        ({"cpu": "2"}, {"cpu": "2"}, {"cpu": "2", "max_pods": "120"}, True),
        ({}, {"cpu": "2"}, {"cpu": "3"}, False),
    ],
)
def test_a_node_helps_that_has_room_and_has_come_or_grown(
    wanted: dict[str, str], old: Object | None, new: Object, expected: bool
) -> None:
    waiting = testing.pod("waits", wanted)
    before = None if old is None else testing.node("n", **old)
    event = ADD if old is None else ALLOCATABLE
    assert helps(FIT, waiting, event, before, testing.node("n", **new)) is expected


def test_what_is_to_be_ignored_is_not_missed_in_a_new_node() -> None:
    ignoring = noderesourcesfit.NodeResourcesFit(ignored_resources=["example.com/gpu"])
    waiting = testing.pod("waits", {"cpu": "2", "example.com/gpu": "1"})
    assert helps(ignoring, waiting, ADD, None, testing.node("n"))
    assert not helps(FIT, waiting, ADD, None, testing.node("n"))


# Taints and cordons.

TOLERATES = testing.pod("waits", tolerations=[{"key": "mine", "operator": "Exists"}])
MINE, OTHERS = ({"key": key, "effect": "NoSchedule"} for key in ("mine", "others"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, [MINE], True),
        (None, [OTHERS], False),
        ([OTHERS], [MINE], True),
        ([MINE, OTHERS], [], True),
        ([OTHERS], [OTHERS, MINE], False),
        ([MINE], [], False),
        ([{"key": "others", "effect": "NoExecute"}], [MINE], True),
        ([{"key": "others", "effect": "PreferNoSchedule"}], [MINE], False),
    ],
)
def test_a_node_helps_that_the_pod_has_come_to_tolerate(
    old: list[Object] | None, new: list[Object], expected: bool
) -> None:
    plugin = tainttoleration.TaintToleration()
    before = None if old is None else testing.node("n", taints=old)
    event = ADD if old is None else TAINT
    assert helps(plugin, TOLERATES, event, before, testing.node("n", taints=new)) is expected


@pytest.mark.parametrize(
    ("key", "expected"), [("node.kubernetes.io/unschedulable", True), ("mine", False)]
)
def test_a_toleration_helps_against_a_cordon_if_it_is_about_that(key: str, expected: bool) -> None:
    plugin = nodeunschedulable.NodeUnschedulable()
    tolerations = [{"key": key, "operator": "Exists"}]
    tolerant = testing.pod("waits", tolerations=tolerations)
    assert changes_help(plugin, tolerant, testing.pod("waits"), tolerant) is expected
    other = testing.pod("other", tolerations=tolerations)
    assert not changes_help(plugin, tolerant, testing.pod("other"), other)


# Labels.


def wanting(**labels: str) -> Object:
    return testing.pod("waits", nodeSelector=labels)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, {"zone": "a"}, True),
        (None, {"zone": "b"}, False),
        ({"zone": "b"}, {"zone": "a"}, True),
        ({"zone": "a"}, {"zone": "a", "more": "x"}, False),
        ({"zone": "a"}, {"zone": "b"}, False),
    ],
)
def test_a_node_helps_that_has_come_to_match(
    old: dict[str, str] | None, new: dict[str, str], expected: bool
) -> None:
    plugin = nodeaffinity.NodeAffinity()
    before = None if old is None else testing.node("n", labels=old)
    event = ADD if old is None else LABEL
    waiting, after = wanting(zone="a"), testing.node("n", labels=new)
    assert helps(plugin, waiting, event, before, after) is expected


def test_a_node_that_comes_to_match_what_is_asked_for_in_every_pods_name_helps() -> None:
    term = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["ours"]}]}
    plugin = nodeaffinity.NodeAffinity(
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    )
    without, within = (
        testing.node("n", labels={"zone": "a", **more}) for more in ({}, {"pool": "ours"})
    )
    assert helps(plugin, wanting(zone="a"), LABEL, without, within)
    assert not helps(plugin, wanting(zone="b"), LABEL, without, within)
    assert not helps(plugin, wanting(zone="a"), ADD, None, without)


# Ports.


def holding(*ports: Any, **more: Any) -> Object:
    return testing.pod("gone", containers=[testing.container(host_ports=ports)], **more)


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (holding(80, node_name="n"), True),
        (holding(81, node_name="n"), False),
        (holding(81, 80, node_name="n"), True),
        (holding({"hostPort": 80, "protocol": "UDP"}, node_name="n"), False),
        (holding({"hostPort": 80, "hostIP": "127.0.0.1"}, node_name="n"), True),
        (holding(node_name="n"), False),
        (holding(80), False),
        (holding(80, status={"nominatedNodeName": "n"}), True),
    ],
)
def test_a_pod_leaves_the_ports_that_it_held(gone: Object, expected: bool) -> None:
    waiting = testing.pod("waits", containers=[testing.container(host_ports=[80])])
    event = cluster_events.ASSIGNED_POD_DELETE
    assert helps(nodeports.NodePorts(), waiting, event, gone, None) is expected


# All of them.


@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_plugin_that_refuses_pods_says_what_helps_them(name: str) -> None:
    plugin = BUILT[name]()
    refuses = any(
        hasattr(plugin, point)
        for point in ("pre_enqueue", "pre_filter", "filter", "reserve", "permit")
    )
    assert not refuses or hasattr(plugin, "queueing_hints")
