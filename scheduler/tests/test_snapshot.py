"""The columns: what is counted where, as nodes and pods come, change and go."""

import collections
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from whipstaff.runtime import selectors
from whipstaff.scheduler import pods, requests, snapshot, testing

MI = 1024 * 1024


def requested(cluster: snapshot.Snapshot, name: str) -> list[int]:
    amounts: list[int] = cluster.requested[cluster.row_of[name]].tolist()
    return amounts


def test_a_node_is_a_row_of_what_pods_may_use() -> None:
    cluster = testing.cluster(
        [testing.node("a", cpu="1500m", memory="2Mi", max_pods="7", more={"example.com/gpu": "2"})]
    )

    column = cluster.column_of("example.com/gpu")
    assert column is not None
    assert cluster.allocatable[0].tolist() == [1500, 2 * MI, 0, 2]
    assert cluster.allocatable[0, column] == 2
    assert cluster.allowed_pods.tolist() == [7]
    assert cluster.column_of("example.com/other") is None


def test_pods_are_counted_on_their_node_whoever_placed_them() -> None:
    cluster = testing.cluster(
        [testing.node("a"), testing.node("b")],
        [
            testing.pod("x", {"cpu": "1", "memory": "1Mi"}, node_name="a", schedulerName="other"),
            testing.pod("y", node_name="a"),
        ],
    )

    assert requested(cluster, "a") == [1000, MI, 0]
    assert cluster.nonzero_requested[0].tolist() == [1100, 201 * MI]
    assert cluster.pod_counts.tolist() == [2, 0]


def test_an_assumed_pod_counts_until_it_is_forgotten() -> None:
    cluster = testing.cluster([testing.node("a")])
    pod = testing.pod_info("x", {"cpu": "1"})

    placed = cluster.assume(pod, "a")

    assert placed.node_name == "a"
    assert cluster.is_assumed(pod.uid)
    assert requested(cluster, "a")[snapshot.CPU] == 1000
    assert cluster.forget(pod.uid)
    assert requested(cluster, "a")[snapshot.CPU] == 0
    assert not cluster.forget(pod.uid)


def test_an_assumed_pod_seen_on_its_node_is_counted_once_and_no_longer_assumed() -> None:
    cluster = testing.cluster([testing.node("a")])
    cluster.assume(testing.pod_info("x", {"cpu": "1"}), "a")
    before = cluster.version

    cluster.add_pod(testing.pod_info("x", {"cpu": "1"}, node_name="a"))

    assert requested(cluster, "a")[snapshot.CPU] == 1000
    assert (cluster.assumed_count, cluster.pod_count) == (0, 1)
    assert not cluster.forget("uid-default-x")
    assert cluster.version == before, "a confirmation changes nothing that a plugin sees"


def test_an_assumed_pod_has_the_labels_that_binding_gives_it() -> None:
    zone = {"topology.kubernetes.io/zone": "zone1", "topology.kubernetes.io/region": "r"}
    cluster = testing.cluster([testing.node("a", labels={**zone, "other": "x"})])
    pod = testing.pod_info("x", {"cpu": "1"}, labels={"app": "web"})

    placed = cluster.assume(pod, "a")
    version = cluster.version
    cluster.add_pod(
        testing.pod_info("x", {"cpu": "1"}, labels={"app": "web", **zone}, node_name="a")
    )

    assert placed.labels == {"app": "web", **zone}
    assert pod.labels == {"app": "web"}
    assert cluster.version == version  # seeing it changes nothing


def test_an_assumed_pod_seen_on_another_node_moves_there() -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    cluster.assume(testing.pod_info("x", {"cpu": "1"}), "a")

    cluster.add_pod(testing.pod_info("x", {"cpu": "1"}, node_name="b"))

    assert cluster.pod_counts.tolist() == [0, 1]
    assert [pod.key for pod in cluster.pods_on("b")] == ["default/x"]
    assert not cluster.pods_on("a")


def test_a_pod_cannot_be_assumed_twice() -> None:
    cluster = testing.cluster([testing.node("a")])
    pod = testing.pod_info("x")
    cluster.assume(pod, "a")

    with pytest.raises(ValueError, match="default/x"):
        cluster.assume(pod, "a")


def test_a_pod_without_a_node_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="default/x needs a uid and a node"):
        testing.cluster([]).add_pod(testing.pod_info("x"))


def test_pods_seen_before_their_node_count_when_it_appears() -> None:
    cluster = testing.cluster([], [testing.pod("x", {"cpu": "1"}, node_name="late")])
    assert len(cluster) == 0

    cluster.upsert_node(testing.node("late"))

    assert requested(cluster, "late")[snapshot.CPU] == 1000


def test_pods_of_a_node_that_went_count_again_when_it_comes_back() -> None:
    cluster = testing.cluster([testing.node("a")], [testing.pod("x", {"cpu": "1"}, node_name="a")])

    assert cluster.remove_node("a")
    assert (len(cluster), cluster.pod_count) == (0, 1)
    assert not cluster.remove_node("a")
    cluster.upsert_node(testing.node("a"))

    assert requested(cluster, "a")[snapshot.CPU] == 1000


def test_a_resource_that_only_a_pod_names_has_a_column() -> None:
    cluster = testing.cluster(
        [testing.node("a")], [testing.pod("x", {"example.com/gpu": "1"}, node_name="a")]
    )

    assert cluster.column_of("example.com/gpu") == 3
    assert cluster.requested.tolist() == [[0, 0, 0, 1]]
    assert cluster.allocatable[0, 3] == 0


def test_a_heartbeat_changes_nothing() -> None:
    raw = testing.node("a", images={"web:1": 5})
    raw["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}]
    cluster = testing.cluster([raw])
    later = testing.node("a", images={"web:1": 5})
    later["metadata"]["resourceVersion"] = "99"
    later["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2"}]
    before = cluster.version

    assert not cluster.upsert_node(later)
    assert cluster.version == before
    assert cluster.node("a") is later


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "8"},
        {"labels": {"zone": "b"}},
        {"unschedulable": True},
        {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        {"images": {"web:1": 1}},
    ],
)
def test_a_material_change_marks_the_row_and_no_other(change: dict[str, Any]) -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    before = cluster.version

    assert cluster.upsert_node(testing.node("b", **change))

    assert (cluster.node_version > before).tolist() == [False, True]
    assert (cluster.pods_version > before).tolist() == [False, False]
    assert cluster.last_node_version == cluster.node_version.max()


def test_a_pod_that_changed_in_nothing_that_counts_marks_no_row() -> None:
    cluster = testing.cluster([testing.node("a")], [testing.pod("x", node_name="a")])
    before = cluster.version

    cluster.update_pod(testing.pod_info("x", node_name="a", status={"phase": "Running"}))
    assert cluster.version == before
    held = cluster.get_pod("uid-default-x")
    assert held is not None
    assert held.raw["status"] == {"phase": "Running"}

    cluster.update_pod(testing.pod_info("x", node_name="a", labels={"app": "new"}))
    assert (cluster.pods_version > before).tolist() == [True]


def test_a_pod_resized_in_place_counts_by_what_it_holds() -> None:
    cluster = testing.cluster([testing.node("a")], [testing.pod("x", {"cpu": "1"}, node_name="a")])
    status = {
        "containerStatuses": [{"name": "main", "resources": {"requests": {"cpu": "2"}}}],
    }

    cluster.update_pod(testing.pod_info("x", {"cpu": "1"}, node_name="a", status=status))

    assert requested(cluster, "a")[snapshot.CPU] == 2000


def test_a_removed_node_leaves_no_gap() -> None:
    cluster = testing.cluster(
        [testing.node(name, labels={"n": name}, images={name: 1}) for name in "abc"],
        [testing.pod("x", {"cpu": "1"}, node_name="c")],
    )

    cluster.remove_node("a")

    assert cluster.names == ["c", "b"]
    assert cluster.row_of == {"c": 0, "b": 1}
    assert cluster.requested[:, snapshot.CPU].tolist() == [1000, 0]
    requirement = selectors.Requirement("n", "In", ("c",))
    assert cluster.matches(requirement, slice(None)).tolist() == [True, False]
    assert cluster.images.get("a") is None


def test_a_port_stays_taken_while_one_of_its_holders_is_left() -> None:
    holder = [testing.container(host_ports=[80])]
    cluster = testing.cluster(
        [testing.node("a")],
        [testing.pod(name, containers=holder, node_name="a") for name in ("x", "y")],
    )

    cluster.remove_pod("uid-default-x")
    assert [(port.port, counts.tolist()) for port, counts in cluster.ports()] == [(80, [1])]
    cluster.remove_pod("uid-default-y")
    assert list(cluster.ports()) == []


def test_the_size_of_an_image_is_what_the_first_node_said() -> None:
    cluster = testing.cluster(
        [testing.node("a", images={"web:1": 10}), testing.node("b", images={"web:1": 20})]
    )
    image = cluster.images.get("web:1")
    assert image is not None
    assert (image.size, image.node_count) == (10, 2)

    cluster.remove_node("a")
    assert (image.size, image.node_count) == (10, 1)
    cluster.upsert_node(testing.node("b", images={"web:1": 30}))
    renewed = cluster.images.get("web:1")
    assert renewed is not None
    assert renewed.size == 30


def test_dictionaries_forget_values_that_no_row_has() -> None:
    cluster = testing.cluster([testing.node("a", labels={"host": "0"})])
    for number in range(1, 100):
        cluster.upsert_node(testing.node("a", labels={"host": str(number)}))

    column = cluster._labels.column("host")
    assert column is not None
    assert len(column) == 1
    assert len(column._values) <= 3
    cluster.upsert_node(testing.node("a"))
    assert cluster.label_codes("host") is None


LABELS = st.dictionaries(
    st.sampled_from(["zone", "rank"]), st.sampled_from(["a", "b", "7", "-3", "x9"])
)
NODES = st.builds(
    testing.node,
    st.sampled_from([f"n{i}" for i in range(6)]),
    cpu=st.sampled_from(["0", "1", "2500m"]),
    labels=LABELS,
    unschedulable=st.booleans(),
    taints=st.lists(
        st.sampled_from(
            [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "PreferNoSchedule"}]
        ),
        max_size=2,
    ),
    images=st.dictionaries(st.sampled_from(["i:1", "j:1"]), st.integers(1, 9)),
    more=st.fixed_dictionaries({"example.com/gpu": st.sampled_from(["0", "3"])}),
)
PODS = st.builds(
    testing.pod,
    st.sampled_from([f"p{i}" for i in range(8)]),
    st.dictionaries(
        st.sampled_from(["cpu", "memory", "example.com/fpga"]), st.sampled_from(["1", "2"])
    ),
    node_name=st.sampled_from([f"n{i}" for i in range(7)]),
    containers=st.sampled_from(
        [None, [testing.container(host_ports=[80])], [testing.container({"cpu": "3"})]]
    ),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert_node"), NODES),
        st.tuples(st.just("remove_node"), st.sampled_from([f"n{i}" for i in range(6)])),
        st.tuples(st.just("add_pod"), PODS),
        st.tuples(st.just("assume"), PODS),
        st.tuples(st.just("forget"), st.sampled_from([f"uid-default-p{i}" for i in range(8)])),
        st.tuples(st.just("remove_pod"), st.sampled_from([f"uid-default-p{i}" for i in range(8)])),
    ),
    max_size=30,
)


def apply(cluster: snapshot.Snapshot, operation: str, argument: Any) -> None:
    match operation:
        case "upsert_node" | "remove_node" | "forget" | "remove_pod":
            getattr(cluster, operation)(argument)
        case "add_pod":
            cluster.add_pod(pods.PodInfo.from_object(argument))
        case "assume":
            pod = pods.PodInfo.from_object(argument)
            if cluster.get_pod(pod.uid) is None:
                cluster.assume(pod, pod.node_name)


def picture(cluster: snapshot.Snapshot) -> dict[str, Any]:
    """All that can be read of each node, whatever row it is in."""
    columns = ("cpu", "memory", "ephemeral-storage", "example.com/gpu", "example.com/fpga")
    held = dict(cluster.ports())
    pictures = {}
    for name, row in cluster.row_of.items():
        amounts = {}
        for resource in columns:
            column = cluster.column_of(resource)
            if column is not None:
                amounts[resource] = (
                    int(cluster.allocatable[row, column]),
                    int(cluster.requested[row, column]),
                )
        taints = cluster.taints.table(len, np.int64)[cluster.taint_codes(slice(None))]
        pictures[name] = {
            "amounts": {name: pair for name, pair in amounts.items() if pair != (0, 0)},
            "nonzero": cluster.nonzero_requested[row].tolist(),
            "pods": (int(cluster.pod_counts[row]), int(cluster.allowed_pods[row])),
            "unschedulable": bool(cluster.unschedulable[row]),
            "taints": int(taints[row]),
            "labels": {
                (key, value): bool(
                    cluster.matches(selectors.Requirement(key, "In", (value,)), slice(None))[row]
                )
                for key in ("zone", "rank")
                for value in ("a", "b", "7", "-3", "x9")
            },
            "positive": bool(
                cluster.matches(selectors.Requirement("rank", "Gt", ("0",)), slice(None))[row]
            ),
            "ports": {port: int(counts[row]) for port, counts in held.items() if counts[row]},
            "images": {
                image: bool(found.held[row])
                for image in ("i:1", "j:1")
                if (found := cluster.images.get(image)) is not None
            },
            "here": collections.Counter(pod.key for pod in cluster.pods_on(name)),
        }
    return pictures


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(OPERATIONS)
def test_what_grew_step_by_step_is_what_is_built_at_once(operations: list[Any]) -> None:
    grown = snapshot.Snapshot(capacity=1)
    for operation, argument in operations:
        apply(grown, operation, argument)

    nodes = [grown.node_at(row) for row in range(len(grown))]
    rebuilt = testing.cluster(nodes, [])
    for pod in grown.all_pods():
        rebuilt.add_pod(pod)

    assert picture(grown) == picture(rebuilt)
    for name in grown.names:
        held = [pod.requests.held for pod in grown.pods_on(name)]
        assert requested(grown, name)[snapshot.CPU] == sum(each.milli_cpu for each in held)
    assert {name: grown.names[row] for name, row in grown.row_of.items()} == {
        name: name for name in grown.names
    }


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(NODES, max_size=8), OPERATIONS)
def test_the_counters_tell_every_row_that_changed(nodes: list[Any], operations: list[Any]) -> None:
    cluster = testing.cluster(nodes)
    before, since, size = picture(cluster), cluster.version, len(cluster)
    rows = dict(cluster.row_of)
    for operation, argument in operations:
        apply(cluster, operation, argument)

    if len(cluster) == size:
        changed = (cluster.node_version > since) | (cluster.pods_version > since)
        after = picture(cluster)
        for name, row in cluster.row_of.items():
            if not changed[row]:
                assert rows[name] == row
                images = {"images": None}
                assert before[name] | images == after[name] | images


def test_requests_beyond_a_column_are_told_apart() -> None:
    # The same amounts as a vector before and after a new resource widened the columns.
    cluster = testing.cluster([testing.node("a")], [testing.pod("x", {"cpu": "1"}, node_name="a")])
    cluster.add_pod(testing.pod_info("y", {"example.com/gpu": "1"}, node_name="a"))
    cluster.add_pod(testing.pod_info("z", {"cpu": "1"}, node_name="a"))

    assert requested(cluster, "a") == [2000, 0, 0, 1]
    assert cluster.allocatable.shape == (1, 4)
    assert requests.Requests(milli_cpu=1000) in cluster._vectors


def test_the_lowest_priority_on_each_node_is_kept_true() -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    nobody = np.iinfo(np.int64).max
    assert cluster.lowest_priority().tolist() == [nobody, nobody]
    for name, node, priority in (("one", "a", 5), ("two", "a", -3), ("three", "b", 7)):
        cluster.add_pod(testing.pod_info(name, node_name=node, priority=priority))
    assert cluster.lowest_priority().tolist() == [-3, 7]
    two = cluster.remove_pod("uid-default-two")
    assert two is not None
    assert cluster.lowest_priority().tolist() == [5, 7]
    cluster.remove_node("a")
    assert cluster.lowest_priority().tolist() == [7]
    cluster.add_pod(two)
    cluster.upsert_node(testing.node("a"))
    assert dict(zip(cluster.names, cluster.lowest_priority().tolist(), strict=True)) == {
        "b": 7,
        "a": -3,
    }


def test_pods_set_aside_for_a_moment_come_back_as_they_were() -> None:
    placed = [
        testing.pod("one", {"cpu": "1", "example.com/gpu": "2"}, node_name="a"),
        testing.pod("two", containers=[testing.container(host_ports=[80])], node_name="a"),
        testing.pod("lost", {"cpu": "1"}, node_name="gone"),
    ]
    cluster = testing.cluster([testing.node("a"), testing.node("b")], placed)
    assumed = cluster.assume(testing.pod_info("three", {"cpu": "2"}), "b")
    moved = [*cluster.pods_on("a"), *cluster.pods_on("gone"), assumed]
    requested, version = cluster.requested.copy(), cluster.version
    cluster.set_aside(cluster.moved(moved))
    assert not cluster.requested.any()
    assert not cluster.pod_counts.any()
    assert list(cluster.ports()) == []
    assert not cluster.pods_on("a")
    cluster.put_in(cluster.moved(moved))
    assert cluster.requested.tolist() == requested.tolist()
    assert cluster.pod_counts.tolist() == [2, 1]
    assert [pod.name for pod in cluster.pods_on("a")] == ["one", "two"]
    assert cluster.is_assumed(assumed.uid)
    assert (cluster.pods_version > version).all()


def test_where_only_amounts_are_moved_pods_stay_listed() -> None:
    placed = [
        testing.pod("one", {"cpu": "1", "example.com/gpu": "2"}, node_name="a"),
        testing.pod("two", containers=[testing.container(host_ports=[80])], node_name="a"),
    ]
    cluster = testing.cluster([testing.node("a"), testing.node("b")], placed)
    requested, version = cluster.requested.copy(), cluster.version
    moved = cluster.moved(list(cluster.pods_on("a")))
    cluster.set_aside(moved, only_amounts=True)
    assert not cluster.requested.any()
    assert not cluster.nonzero_requested.any()
    assert not cluster.pod_counts.any()
    assert [pod.name for pod in cluster.pods_on("a")] == ["one", "two"]
    assert len(list(cluster.ports())) == 1
    cluster.put_in(moved, only_amounts=True)
    assert cluster.requested.tolist() == requested.tolist()
    assert cluster.pod_counts.tolist() == [2, 0]
    assert cluster.pods_version[cluster.row_of["a"]] > version


def test_a_pod_put_in_may_bring_a_resource_that_nobody_named_before() -> None:
    cluster = testing.cluster([testing.node("a")])
    asked = [{"cpu": "1"}, {"example.com/gpu": "2"}]
    visitors = [
        testing.pod_info(f"p{index}", each, node_name="a") for index, each in enumerate(asked)
    ]
    cluster.put_in(cluster.moved(visitors))
    column = cluster.column_of("example.com/gpu")
    assert column is not None
    assert cluster.requested[0, [0, column]].tolist() == [1000, 2]
    cluster.set_aside(cluster.moved(visitors))
    assert not cluster.requested.any()
