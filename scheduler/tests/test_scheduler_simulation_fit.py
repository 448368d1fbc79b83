"""How many more of a pod fit: the same count, however it is counted."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from whipstaff.runtime import errors
from whipstaff.scheduler import simulation, testing

Object = dict[str, Any]

ZONE = "topology.kubernetes.io/zone"


@st.composite
def _clusters(draw: st.DrawFn) -> list[Object]:
    nodes = [
        testing.node(
            f"node-{index}",
            cpu=draw(st.sampled_from(["1", "2", "4"])),
            max_pods=draw(st.sampled_from(["2", "5"])),
            labels={ZONE: draw(st.sampled_from("ab"))},
            taints=draw(st.sampled_from([[], [{"key": "k", "effect": "NoSchedule"}]])),
            unschedulable=draw(st.integers(0, 4)) == 0,
        )
        for index in range(draw(st.integers(1, 5)))
    ]
    pods = [
        testing.pod(
            f"pod-{index}",
            {"cpu": draw(st.sampled_from(["0", "300m", "1"]))},
            node_name=draw(st.sampled_from([*("node-0",), "node-1"])),
        )
        for index in range(draw(st.integers(0, 3)))
    ]
    waiting = testing.pod("waits", {"cpu": "1"}, priority=1, status={"nominatedNodeName": "node-0"})
    return [*nodes, *pods, *([waiting] if draw(st.booleans()) else [])]


@hypothesis.given(
    there=_clusters(),
    cpu=st.sampled_from(["0", "250m", "700m", "3"]),
    host_port=st.booleans(),
    selector=st.sampled_from([None, {ZONE: "a"}]),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_counting_by_rounds_and_pod_by_pod_is_the_same(
    there: list[Object], cpu: str, host_port: bool, selector: Object | None
) -> None:
    container = testing.container({"cpu": cpu}, host_ports=[80] if host_port else [])
    pod = testing.pod(
        "one", containers=[container], **({"nodeSelector": selector} if selector else {})
    )
    cluster = simulation.Cluster(there)
    at_once = simulation.fit(cluster, pod)
    one_by_one = simulation.fit(cluster, pod, limit=1000)
    assert at_once.counts.tolist() == one_by_one.counts.tolist()
    assert at_once.reasons == one_by_one.reasons
    assert at_once.rows() == one_by_one.rows()
    assert at_once.after.requested.tolist() == one_by_one.after.requested.tolist()


def test_what_ends_it_is_told_for_each_node() -> None:
    cluster = simulation.Cluster(
        [
            testing.node("roomy", cpu="10", max_pods="3"),
            testing.node("full", cpu="1"),
            testing.node("cordoned", unschedulable=True),
            testing.pod("p", {"cpu": "1"}, node_name="full"),
        ]
    )
    found = simulation.fit(cluster, testing.pod("one", {"cpu": "1"}))
    assert found.total == 3
    assert found.reasons == {
        "Too many pods": 1,
        "Insufficient cpu": 1,
        "node(s) were unschedulable": 1,
    }
    assert found.rows()[0] == {"node": "roomy", "more": 3, "reason": "Too many pods"}
    assert not found.limited


def test_pods_that_look_at_one_another_are_counted_one_by_one() -> None:
    cluster = simulation.Cluster(
        [testing.node(f"node-{index}", labels={ZONE: zone}) for index, zone in enumerate("aab")]
    )
    term = {"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "x"}}}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    apart = testing.pod(
        "apart", labels={"app": "x"}, affinity={"podAntiAffinity": {required: [term]}}
    )
    found = simulation.fit(cluster, apart)
    assert found.total == 2
    assert found.reasons == {"node(s) didn't match pod anti-affinity rules": 3}
    spread = testing.pod(
        "spread",
        {"cpu": "1"},
        labels={"app": "x"},
        topologySpreadConstraints=[
            {
                "maxSkew": 1,
                "topologyKey": ZONE,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}},
            }
        ],
    )
    assert simulation.fit(cluster, spread).total == 9  # four in zone b, and one more in zone a


def test_a_workloads_template_counts_and_not_its_replicas() -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 99,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [testing.container({"cpu": "1"})]},
            },
        },
    }
    assert simulation.fit(simulation.Cluster([testing.node("a")]), deployment).total == 4


def test_counting_ends_at_a_limit() -> None:
    cluster = simulation.Cluster([testing.node("a")])
    found = simulation.fit(cluster, testing.pod("one", {"cpu": "1"}), limit=3)
    assert (found.total, found.limited, found.message) == (3, True, "")


def test_nowhere_is_an_answer() -> None:
    claim = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    cluster = simulation.Cluster([testing.node("a")])
    found = simulation.fit(cluster, testing.pod("one", volumes=claim))
    assert found.total == 0
    assert 'persistentvolumeclaim "data" not found' in found.message
    assert simulation.fit(simulation.Cluster([]), testing.pod("one")).message == (
        "no nodes available to schedule pods"
    )


def test_one_kind_of_pod_at_a_time() -> None:
    cluster = simulation.Cluster([testing.node("a")])
    with pytest.raises(errors.ConfigurationError, match="one pod or workload is needed, found 2"):
        simulation.fit(cluster, [testing.pod("one"), testing.pod("two")])
