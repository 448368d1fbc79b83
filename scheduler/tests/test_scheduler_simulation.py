"""Simulated placements: the engine's own, whoever asks, and what happens around them."""

import random
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from whipstaff.runtime import errors
from whipstaff.scheduler import decision, pods, profile, simulation, testing

Object = dict[str, Any]

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def owned(pod: Object, owner: str = "web", kind: str = "ReplicaSet") -> Object:
    """The pod as one of a controller's."""
    pod["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": owner, "controller": True}
    ]
    return pod


def priority_class(name: str, value: int) -> Object:
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    return {**kind, "metadata": {"name": name}, "value": value}


# The same engine

_cpus = st.sampled_from(["0", "100m", "500m", "1", "1500m", "2"])


@st.composite
def _nodes(draw: st.DrawFn) -> list[Object]:
    return [
        testing.node(
            f"node-{index}",
            cpu=draw(st.sampled_from(["2", "4", "8"])),
            max_pods=draw(st.sampled_from(["2", "110"])),
            labels={HOSTNAME: f"node-{index}", ZONE: draw(st.sampled_from("ab"))},
            taints=draw(st.sampled_from([[], [{"key": "k", "effect": "PreferNoSchedule"}]])),
        )
        for index in range(draw(st.integers(1, 5)))
    ]


@st.composite
def _spec(draw: st.DrawFn) -> Object:
    spec: Object = {}
    if draw(st.booleans()):
        spec["nodeSelector"] = {ZONE: draw(st.sampled_from("ab"))}
    if draw(st.booleans()):
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": draw(st.sampled_from([ZONE, HOSTNAME])),
                "whenUnsatisfiable": draw(st.sampled_from(["DoNotSchedule", "ScheduleAnyway"])),
                "labelSelector": {"matchLabels": {"app": "x"}},
            }
        ]
    if draw(st.integers(0, 3)) == 0:
        term = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "x"}}}
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        spec["affinity"] = {"podAntiAffinity": {required: [term]}}
    return spec


@st.composite
def _pods(draw: st.DrawFn, most: int = 12) -> list[Object]:
    return [
        testing.pod(
            f"pod-{index:02}",
            {"cpu": draw(_cpus)},
            labels={"app": draw(st.sampled_from("xy"))},
            **draw(_spec()),
        )
        for index in range(draw(st.integers(1, most)))
    ]


@hypothesis.given(nodes=_nodes(), wanted=_pods(), seed=st.integers(0, 3))
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_simulation_places_pods_as_the_scheduler_decides(
    nodes: list[Object], wanted: list[Object], seed: int
) -> None:
    cluster = testing.cluster(nodes)
    decider = decision.Decider(cluster, random.Random(seed))
    plugins = profile.default_profile("default-scheduler")
    expected: dict[str, tuple[str, int]] = {}
    waiting = [pods.PodInfo.from_object(raw) for raw in wanted]
    while True:  # events wake pods that found no node, as long as others find one
        before = len(expected)
        for pod in waiting:
            if pod.key not in expected:
                decided = decider.decide(pod, plugins)
                if decided.node is not None:
                    cluster.assume(pod, decided.node)
                    expected[pod.key] = decided.node, decided.score
        if len(expected) == before:
            break
    placement = simulation.place(simulation.Cluster(nodes), wanted, seed=seed, preempt=False)
    assert {found.pod: (found.node, found.score) for found in placement.placed} == expected
    assert placement.after.requested.tolist() == cluster.requested.tolist()
    for found in placement.pending:
        pod = pods.PodInfo.from_object(
            next(raw for raw in wanted if f"default/{raw['metadata']['name']}" == found.pod)
        )
        assert found.message.startswith(str(decider.decide(pod, plugins).failure))


def test_the_same_question_has_the_same_answer_and_the_seed_decides_chance() -> None:
    cluster = simulation.Cluster([testing.node(f"node-{index}") for index in range(10)])
    wanted = [testing.pod(f"pod-{index}") for index in range(5)]
    first = simulation.place(cluster, wanted)
    assert simulation.place(cluster, wanted).rows() == first.rows()
    others = [simulation.place(cluster, wanted, seed=seed).rows() for seed in range(1, 4)]
    assert any(rows != first.rows() for rows in others)
    assert cluster.objects == simulation.Cluster(cluster.objects).objects


# The order of things


def test_the_more_important_pod_comes_first() -> None:
    cluster = simulation.Cluster([testing.node("a", cpu="1"), priority_class("high", 5)])
    wanted = [
        testing.pod("low", {"cpu": "1"}),
        testing.pod("high", {"cpu": "1"}, priorityClassName="high"),
    ]
    placement = simulation.place(cluster, wanted)
    assert [(found.pod, found.node) for found in placement.pods] == [
        ("default/high", "a"),
        ("default/low", ""),
    ]
    assert placement.nodes.tolist() == [0, -1]
    assert list(placement.reasons().values()) == [1]


def test_a_pod_that_waits_for_another_is_tried_again() -> None:
    term = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "db"}}}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    cluster = simulation.Cluster(
        [testing.node(name, labels={HOSTNAME: name}) for name in ("a", "b")]
    )
    wanted = [testing.pod("web", affinity=affinity), testing.pod("db", labels={"app": "db"})]
    placement = simulation.place(cluster, wanted)
    assert len({found.node for found in placement.placed}) == 1
    assert len(placement.placed) == 2


def test_gated_pods_and_pods_without_a_profile_stay_pending() -> None:
    cluster = simulation.Cluster([testing.node("a")])
    gated = testing.pod("gated", schedulingGates=[{"name": "example.com/wait"}])
    placement = simulation.place(cluster, gated)
    assert "example.com/wait" in placement.pending[0].message


# Preemption


def test_who_would_be_evicted_and_whether_a_budget_objects() -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "minAvailable": 1},
        "status": {"disruptionsAllowed": 0},
    }
    low = owned(testing.pod("low", {"cpu": "1"}, node_name="a", labels={"app": "web"}, priority=-1))
    bare = testing.pod("bare", {"cpu": "1"}, node_name="b", priority=-1)
    cluster = simulation.Cluster(
        [testing.node("a", cpu="1"), testing.node("b", cpu="1"), low, bare, budget]
    )
    wanted = [testing.pod(name, {"cpu": "1"}) for name in ("one", "two")]
    placement = simulation.place(cluster, wanted)
    assert [
        (each.pod, each.preemptor, each.budgets, each.returns) for each in placement.evictions
    ] == [
        ("default/bare", "default/one", (), False),
        ("default/low", "default/two", ("default/web",), True),
    ]
    assert [(found.pod, found.node, found.evicts, found.was_on) for found in placement.pods] == [
        ("default/one", "b", ("default/bare",), ""),
        ("default/two", "a", ("default/low",), ""),
        ("default/low", "", (), "a"),
    ]
    assert not simulation.place(cluster, wanted, preempt=False).evictions


def test_a_pod_that_never_preempts_evicts_nobody() -> None:
    low = testing.pod("low", {"cpu": "1"}, node_name="a", priority=-1)
    cluster = simulation.Cluster([testing.node("a", cpu="1"), low])
    wanted = testing.pod("new", {"cpu": "1"}, preemptionPolicy="Never")
    placement = simulation.place(cluster, wanted)
    assert not placement.evictions
    assert "not eligible due to preemptionPolicy=Never" in placement.pending[0].message


# Volumes


def test_a_volume_that_a_pod_takes_is_gone_for_the_next() -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }

    def volume(name: str, node: str) -> Object:
        terms = [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}]
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local",
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
                "local": {"path": "/x"},
            },
            "status": {"phase": "Available"},
        }

    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "storageClassName": "local",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    stateful_set = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [claim],
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [testing.container()]},
            },
        },
    }
    nodes = [testing.node(name, labels={HOSTNAME: name}) for name in ("a", "b", "c")]
    cluster = simulation.Cluster([*nodes, storage_class, volume("v1", "a"), volume("v2", "c")])
    placement = simulation.place(cluster, stateful_set)
    assert {found.node for found in placement.placed} == {"a", "c"}
    [left] = placement.pending
    assert "didn't find available persistent volumes to bind" in left.message


# Other nodes, other pods


def test_more_nodes_like_one_have_its_daemons_and_no_passing_taints() -> None:
    node = testing.node(
        "a",
        labels={HOSTNAME: "a", "pool": "x"},
        unschedulable=True,
        taints=[
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "pool", "effect": "NoSchedule"},
        ],
    )
    daemon = owned(testing.pod("agent-1", {"cpu": "1"}, node_name="a"), "agent", "DaemonSet")
    web = owned(testing.pod("web-1", {"cpu": "1"}, node_name="a"))
    cluster = simulation.Cluster([node, daemon, web]).nodes_like("a", 2)
    use = simulation.place(cluster, ()).after
    assert use.names == ("a", "a-like-1", "a-like-2")
    assert use.pods.tolist() == [2, 1, 1]
    assert use.schedulable.tolist() == [False, True, True]
    copied = next(obj for obj in cluster.objects if obj["metadata"]["name"] == "a-like-1")
    assert copied["metadata"]["labels"] == {HOSTNAME: "a-like-1", "pool": "x"}
    assert copied["spec"]["taints"] == [{"key": "pool", "effect": "NoSchedule"}]
    with pytest.raises(LookupError, match="there is no node b"):
        cluster.nodes_like("b", 1)


def test_without_a_node_its_pods_are_gone_too() -> None:
    cluster = simulation.Cluster(
        [testing.node("a"), testing.node("b"), testing.pod("p", node_name="a")]
    ).without_nodes(["a"])
    use = simulation.place(cluster, ()).after
    assert (use.names, use.pods.tolist()) == (("b",), [0])


def test_waiting_pods_of_the_cluster_are_placed_if_asked_for() -> None:
    cluster = simulation.Cluster([testing.node("a", cpu="1"), testing.pod("waits", {"cpu": "1"})])
    new = testing.pod("new", {"cpu": "1"})
    assert [found.node for found in simulation.place(cluster, new).pods] == ["a"]
    placement = simulation.place(cluster, new, pending=True)
    assert [(found.pod, found.node) for found in placement.pods] == [
        ("default/waits", "a"),
        ("default/new", ""),
    ]


def test_placed_anew_pods_balance_a_lopsided_cluster() -> None:
    nodes = [testing.node(name) for name in ("a", "b")]
    lopsided = [
        owned(testing.pod(f"web-{index}", {"cpu": "1"}, node_name="a", labels={"app": "web"}))
        for index in range(4)
    ]
    daemon = owned(testing.pod("agent", {"cpu": "0"}, node_name="a"), "agent", "DaemonSet")
    cluster = simulation.Cluster([*nodes, *lopsided, daemon])
    placement = simulation.place(cluster, (), anew=True)
    assert len(placement.pods) == 4
    assert placement.after.requested[:, 0].tolist() == [2000, 2000]
    assert {found.was_on for found in placement.pods} == {"a"}


def test_a_pod_that_is_there_already_and_unreadable_ones_are_told() -> None:
    cluster = simulation.Cluster([testing.node("a"), testing.pod("p", node_name="a")])
    with pytest.raises(errors.ConfigurationError, match="there is a pod default/p already"):
        simulation.place(cluster, testing.pod("p"))
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": {}}
    notes = simulation.place(cluster, [testing.pod("q", nodeName="a"), cron]).notes
    assert notes == (
        "no pods are known to come from: 1 CronJob (batch/v1)",
        "default/q names its node, a, and was put there",
    )


# Results


def test_results_are_arrays_and_rows() -> None:
    cluster = simulation.Cluster([testing.node("a"), testing.node("b", cpu="2")])
    placement = simulation.place(cluster, [testing.pod("p", {"cpu": "1", "memory": "8Gi"})])
    assert placement.nodes.dtype == np.intp
    assert placement.scores.tolist() == [placement.pods[0].score]
    assert placement.after.fractions("cpu").tolist() == [0.25, 0]
    [row] = placement.rows()
    assert row["node"] == "a"
    assert sum(row["scores"].values()) == row["score"]
    assert placement.after.rows()[0]["requested cpu"] == 1000


def test_balance_tells_means_spread_and_what_cant_be_used() -> None:
    use = simulation.place(
        simulation.Cluster(
            [
                testing.node("a", cpu="4", memory="4Gi"),
                testing.node("b", cpu="4", memory="4Gi"),
                testing.node("cordoned", unschedulable=True),
                testing.pod("p", {"cpu": "4"}, node_name="a"),
            ]
        ),
        (),
    ).after
    cpu, memory = simulation.balance_of(use)
    assert (cpu.mean, cpu.stddev, cpu.lowest, cpu.highest) == (0.5, 0.5, 0, 1)
    assert (cpu.fragmentation, memory.fragmentation) == (0, 0.5)
    assert (cpu.largest_free, memory.free) == (4000, 8 * 2**30)
    assert simulation.balance_of(simulation.place(simulation.Cluster([]), ()).after) == []


def test_two_configurations_are_compared(tmp_path: Any) -> None:
    head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
    spread, pack = tmp_path / "spread.yaml", tmp_path / "pack.yaml"
    spread.write_text(head)
    pack.write_text(
        head
        + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {"
        + "type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}],"
        + " plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}]}}}]\n"
    )
    cluster = simulation.Cluster([testing.node(name) for name in ("a", "b")])
    wanted = [testing.pod(f"p{index}", {"cpu": "1"}) for index in range(4)]
    found = simulation.compare(cluster, wanted, a=spread, b=pack)
    assert found.names == (str(spread), str(pack))
    assert [side[0].stddev for side in found.balances] == [0, 0.5]
    assert len(found.differences()) == 2
    assert found.balance_rows()[0]["configuration"] == str(spread)
    assert not simulation.compare(cluster, wanted, a=spread, b=None).differences()


def test_several_profiles_decide_about_the_pods_that_ask_for_them(tmp_path: Any) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
        "profiles: [{schedulerName: one}, {schedulerName: two}]\n"
    )
    cluster = simulation.Cluster([testing.node("a")])
    wanted = [testing.pod("p", schedulerName="two"), testing.pod("q", schedulerName="other")]
    placement = simulation.place(cluster, wanted, config=path)
    assert [(found.node, found.message) for found in placement.pods] == [
        ("a", ""),
        ("", "no profile is called other"),
    ]
    assert len(simulation.place(cluster, wanted).placed) == 2
