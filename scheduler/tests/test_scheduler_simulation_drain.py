"""Simulated drains: who goes, who stays, and what holds it up, as `kubectl drain` would have it."""

import collections
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from whipstaff.runtime import errors, objects
from whipstaff.scheduler import simulation, testing
from whipstaff.scheduler.simulation import draining

Object = dict[str, Any]

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
UNREADY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


def pod(name: str, node: str = "a", owner: str = "ReplicaSet", **more: Any) -> Object:
    """A running pod of a controller; of none with ""."""
    labels = {"app": "web"}
    made = testing.pod(
        name, {"cpu": "1"}, node_name=node, labels=labels, **{"status": READY, **more}
    )
    if owner:
        made["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": owner, "name": "web", "uid": "w", "controller": True}
        ]
    return made


def budget(name: str = "web", *, status: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        **({"status": status} if status is not None else {}),
    }


def nodes(*names: str, cpu: str = "4") -> list[Object]:
    return [testing.node(name, cpu=cpu) for name in names]


def evicted(found: simulation.Drain) -> list[tuple[str, int, str | None]]:
    return [(row["pod"], row["wave"], row["to"]) for row in found.rows() if row["evicted"]]


def test_evicted_pods_go_to_nodes_that_arent_drained() -> None:
    cluster = simulation.Cluster([*nodes("a", "b", "c"), pod("one"), pod("two", "b")])
    found = simulation.drain(cluster, ["a", "b"])
    assert evicted(found) == [("default/one", 1, "c"), ("default/two", 1, "c")]
    assert found.succeeds
    assert found.placement.before.pods.tolist() == [1, 1, 0]
    assert found.placement.after.pods.tolist() == [0, 0, 2]
    assert found.placement.after.schedulable.tolist() == [False, False, True]


def test_a_pod_that_fits_nowhere_else_stays_pending() -> None:
    cluster = simulation.Cluster([*nodes("a", "b", cpu="1"), pod("one"), pod("two", "b")])
    found = simulation.drain(cluster, ["a"])
    assert evicted(found) == [("default/one", 1, None)]
    assert found.succeeds
    [pending] = found.placement.pending
    assert pending.message.startswith("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were")


def test_pods_that_kubectl_wants_an_option_for_keep_a_node_from_being_drained() -> None:
    local = pod("local", volumes=[{"name": "tmp", "emptyDir": {}}])
    there = [*nodes("a", "b"), pod("web"), local, pod("bare", owner="")]
    found = simulation.drain(simulation.Cluster(there), ["a"])
    assert {(each.pod, each.reason) for each in found.refusals} == {
        ("default/local", draining.LOCAL_STORAGE),
        ("default/bare", draining.UNMANAGED),
    }
    assert not found.succeeds
    assert not found.evictions
    forced = simulation.drain(
        simulation.Cluster(there), ["a"], force=True, delete_emptydir_data=True
    )
    assert forced.succeeds
    assert {row["pod"]: (row["to"], row["returns"]) for row in forced.rows()} == {
        "default/web": ("b", True),
        "default/local": ("b", True),
        "default/bare": (None, False),
    }


def test_daemons_and_static_pods_stay() -> None:
    static = pod("static", owner="Node")
    static["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    there = simulation.Cluster([*nodes("a"), pod("agent", owner="DaemonSet"), static])
    found = simulation.drain(there, ["a"])
    assert found.succeeds
    assert [(each.pod, each.reason, each.fatal) for each in found.refusals] == [
        ("default/agent", draining.DAEMON_SET_IGNORED, False),
        ("default/static", draining.STATIC, False),
    ]
    assert not simulation.drain(there, ["a"], ignore_daemonsets=False).succeeds


def test_a_budget_lets_pods_go_in_waves() -> None:
    allowed = budget(maxUnavailable=1, status={"disruptionsAllowed": 1})
    there = [*nodes("a", "b"), *(pod(name) for name in ("one", "two", "three")), allowed]
    found = simulation.drain(simulation.Cluster(there), ["a"])
    assert evicted(found) == [
        ("default/one", 1, "b"),
        ("default/three", 2, "b"),
        ("default/two", 3, "b"),
    ]
    assert found.succeeds


def test_a_budget_that_allows_nothing_is_named() -> None:
    there = [*nodes("a", "b"), pod("one"), budget(status={"disruptionsAllowed": 0})]
    found = simulation.drain(simulation.Cluster(there), ["a"])
    [refusal] = found.refusals
    assert refusal.reason == "PodDisruptionBudget default/web allows no more disruptions"
    assert refusal.fatal
    assert not found.succeeds
    assert not found.evictions


def test_successors_that_stay_pending_keep_the_others_where_they_are() -> None:
    allowed = budget(maxUnavailable=1, status={"disruptionsAllowed": 1})
    there = [*nodes("a"), *nodes("b", cpu="1"), pod("one"), pod("two"), pod("three"), allowed]
    found = simulation.drain(simulation.Cluster(there), ["a"])
    assert evicted(found) == [("default/one", 1, "b"), ("default/three", 2, None)]
    assert [each.pod for each in found.refusals] == ["default/two"]


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"minAvailable": 2}, 1),
        ({"minAvailable": "50%"}, 1),
        ({"maxUnavailable": "67%"}, 3),
        ({"maxUnavailable": 0}, 0),
        ({}, 0),
    ],
)
def test_a_budget_that_no_controller_has_seen_is_counted(spec: Object, allowed: int) -> None:
    pods = [pod(name) for name in ("one", "two", "three")]
    there = simulation.Cluster([*nodes("a"), *pods, budget(**spec)])
    found = simulation.drain(there, ["a"])
    assert len(found.evictions) == allowed


def test_two_budgets_over_one_pod_are_one_too_many() -> None:
    status = {"disruptionsAllowed": 9}
    there = [*nodes("a", "b"), pod("one"), budget("x", status=status), budget("y", status=status)]
    [refusal] = simulation.drain(simulation.Cluster(there), ["a"]).refusals
    assert "default/x, default/y" in refusal.reason


@pytest.mark.parametrize(
    ("spec", "status", "goes"),
    [
        ({}, {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1}, True),
        ({}, {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1}, False),
        ({"unhealthyPodEvictionPolicy": "AlwaysAllow"}, {"disruptionsAllowed": 0}, True),
    ],
)
def test_a_pod_that_isnt_ready_may_go_as_its_budget_says(
    spec: Object, status: Object, goes: bool
) -> None:
    there = [*nodes("a", "b"), pod("one", status=UNREADY), budget(status=status, **spec)]
    assert simulation.drain(simulation.Cluster(there), ["a"]).succeeds == goes


def test_a_pod_on_its_way_out_has_a_successor_already() -> None:
    leaving = pod("leaving")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = simulation.drain(simulation.Cluster([*nodes("a", "b"), leaving]), ["a"])
    assert [(each.reason, each.fatal) for each in found.refusals] == [(draining.LEAVING, False)]
    assert not found.placement.pods


def test_pods_evicted_elsewhere_for_those_of_the_node_are_told() -> None:
    high = pod("high", priority=10)
    low = pod("low", "b", priority=0)
    cluster = simulation.Cluster([*nodes("a", "b", cpu="1"), high, low])
    found = simulation.drain(cluster, ["a"])
    assert evicted(found) == [("default/high", 1, "b")]
    assert [(each.pod, each.preemptor) for each in found.placement.evictions] == [
        ("default/low", "default/high")
    ]


def test_a_node_that_isnt_there_is_an_error() -> None:
    with pytest.raises(errors.ConfigurationError, match="there is no node z"):
        simulation.drain(simulation.Cluster(nodes("a")), ["a", "z"])


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[list[Object], int]:
    count = draw(st.integers(2, 5))
    names = [f"node-{index}" for index in range(count)]
    there = [testing.node(name, cpu=draw(st.sampled_from(["2", "4"]))) for name in names]
    room = {obj["metadata"]["name"]: int(obj["status"]["allocatable"]["cpu"]) for obj in there}
    for index in range(draw(st.integers(0, 10))):
        node = draw(st.sampled_from(names))
        if room[node]:
            room[node] -= 1
            kind = draw(st.sampled_from(["ReplicaSet", "ReplicaSet", "DaemonSet", ""]))
            made = pod(f"pod-{index}", node, kind, priority=draw(st.integers(0, 1)))
            made["metadata"]["labels"] = {"app": draw(st.sampled_from(["web", "db"]))}
            there.append(made)
    allowed = draw(st.integers(0, 2))
    there.append(budget(status={"disruptionsAllowed": allowed}))
    return there, allowed


@hypothesis.given(drawn=_clusters(), force=st.booleans(), several=st.booleans())
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_drain_loses_no_pod_and_breaks_no_budget(
    drawn: tuple[list[Object], int], force: bool, several: bool
) -> None:
    there, allowed = drawn
    drained = ["node-0", "node-1"] if several else ["node-0"]
    found = simulation.drain(simulation.Cluster(there), drained, force=force)
    use, before = found.placement.after, found.placement.before
    everything = [*found.evictions, *found.placement.evictions]
    lost = sum(not each.returns for each in everything)
    assert use.pods.sum() == before.pods.sum() - len(found.placement.pending) - lost
    assert (use.requested <= use.allocatable).all()
    assert not {each.node for each in found.placement.placed} & set(drained)
    staying = {each.pod for each in found.refusals}
    for index, name in enumerate(use.names):
        if name in drained:
            refused = [each for each in found.refusals if each.node == name]
            if any(each.fatal for each in refused):
                assert use.pods[index] >= len(refused)
            else:
                assert use.pods[index] == len(refused)
    assert not staying & {each.pod for each in found.evictions}
    labels = {objects.key(obj): obj["metadata"].get("labels") for obj in there}
    waves = collections.Counter(
        (each.node, each.wave) for each in found.evictions if labels[each.pod] == {"app": "web"}
    )
    assert max(waves.values(), default=0) <= allowed
