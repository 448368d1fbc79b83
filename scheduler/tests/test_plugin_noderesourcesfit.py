"""NodeResourcesFit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from whipstaff.scheduler import framework, plugin_arguments, snapshot, testing
from whipstaff.scheduler.framework import Code
from whipstaff.scheduler.plugins import noderesourcesfit

GPU, HUGE, DISK = "example.com/gpu", "hugepages-2Mi", "ephemeral-storage"


def plugin(**arguments: Any) -> noderesourcesfit.NodeResourcesFit:
    defaults = plugin_arguments.defaults("NodeResourcesFit")
    return noderesourcesfit.NodeResourcesFit.from_arguments({**defaults, **arguments})


def filtered(
    asked: Mapping[str, str],
    used: Mapping[str, str],
    node: Mapping[str, str] | None = None,
    **arguments: Any,
) -> framework.Status:
    more = dict(node or {})
    max_pods = more.pop("pods", "32")
    cluster = testing.cluster(
        [testing.node("n", cpu="10m", memory="20", max_pods=max_pods, more=more)],
        [testing.pod("used", used, node_name="n")],
    )
    return testing.statuses(plugin(**arguments), testing.pod_info("new", asked), cluster)["n"]


def unschedulable(*reasons: str) -> framework.Status:
    return framework.Status(Code.UNSCHEDULABLE, reasons)


def unresolvable(*reasons: str) -> framework.Status:
    return framework.Status(Code.UNSCHEDULABLE_AND_UNRESOLVABLE, reasons)


@pytest.mark.parametrize(
    ("asked", "used", "status"),
    [
        ({}, {"cpu": "10m", "memory": "20"}, framework.SUCCESS),
        ({"cpu": "1m", "memory": "1"}, {"cpu": "5m", "memory": "5"}, framework.SUCCESS),
        ({"cpu": "5m", "memory": "1"}, {"cpu": "5m", "memory": "19"}, framework.SUCCESS),
        (
            {"cpu": "1m", "memory": "1"},
            {"cpu": "10m", "memory": "20"},
            unschedulable("Insufficient cpu", "Insufficient memory"),
        ),
        ({"cpu": "1m"}, {"cpu": "10m"}, unschedulable("Insufficient cpu")),
        ({"memory": "2"}, {"memory": "19"}, unschedulable("Insufficient memory")),
        # Not even an empty node is large enough.
        ({"cpu": "11m"}, {}, unresolvable("Insufficient cpu")),
        (
            {"cpu": "11m", "memory": "2"},
            {"memory": "19"},
            unresolvable("Insufficient cpu", "Insufficient memory"),
        ),
        ({"ephemeral-storage": "1"}, {}, unresolvable("Insufficient ephemeral-storage")),
        ({GPU: "1"}, {}, unresolvable(f"Insufficient {GPU}")),
        ({GPU: "0"}, {}, framework.SUCCESS),
        # Using more than there is hinders only whoever wants more of it.
        ({"memory": "1"}, {"cpu": "11m"}, framework.SUCCESS),
    ],
)
def test_a_pod_fits_into_what_is_left(
    asked: dict[str, str], used: dict[str, str], status: framework.Status
) -> None:
    assert filtered(asked, used) == status


@pytest.mark.parametrize(
    ("asked", "used", "status"),
    [
        ({GPU: "3"}, {GPU: "2"}, framework.SUCCESS),
        ({GPU: "4"}, {GPU: "2"}, unschedulable(f"Insufficient {GPU}")),
        ({GPU: "6"}, {}, unresolvable(f"Insufficient {GPU}")),
        ({HUGE: "6"}, {HUGE: "2"}, unschedulable(f"Insufficient {HUGE}")),
        ({DISK: "15"}, {DISK: "6"}, unschedulable(f"Insufficient {DISK}")),
    ],
)
def test_other_resources_are_counted_by_name(
    asked: dict[str, str], used: dict[str, str], status: framework.Status
) -> None:
    node = {GPU: "5", HUGE: "6", DISK: "20"}

    assert filtered(asked, used, node) == status


def test_a_full_node_is_told_beside_what_it_lacks() -> None:
    assert filtered({}, {}, {"pods": "1"}) == unschedulable("Too many pods")
    assert filtered({"cpu": "6m"}, {"cpu": "5m"}, {"pods": "1"}) == unschedulable(
        "Too many pods", "Insufficient cpu"
    )


def test_vendors_resources_can_be_ignored_one_by_one_or_by_group() -> None:
    asked = {"example.com/aaa": "1", "example.com/bbb": "1"}

    assert filtered(asked, {}, ignoredResources=["example.com/bbb"]) == unresolvable(
        "Insufficient example.com/aaa"
    )
    assert filtered(asked, {}, ignoredResourceGroups=["example.com"]) == framework.SUCCESS
    # Only vendors' resources: naming others there has no effect.
    assert filtered({"cpu": "11m"}, {}, ignoredResources=["cpu"]).reasons == ("Insufficient cpu",)


def test_what_a_pod_asks_for_as_a_whole_and_its_overhead_count() -> None:
    cluster = testing.cluster([testing.node("n", cpu="10m", memory="20")])
    pod = testing.pod_info(
        "new", {"cpu": "1m"}, resources={"requests": {"cpu": "9m"}}, overhead={"cpu": "2m"}
    )

    assert testing.statuses(plugin(), pod, cluster) == {"n": unresolvable("Insufficient cpu")}


def scored(
    asked: Mapping[str, str],
    nodes: snapshot.Snapshot,
    strategy: Mapping[str, Any] | None = None,
    **spec: Any,
) -> list[int]:
    arguments = {"scoringStrategy": strategy} if strategy else {}
    found = testing.scores(plugin(**arguments), testing.pod_info("new", asked, **spec), nodes)
    assert found is not None
    return list(found.values())


def two_nodes(*used: Mapping[str, str]) -> snapshot.Snapshot:
    """Two nodes of 4 CPUs and 10000 bytes, the second with half the CPUs more."""
    return testing.cluster(
        [testing.node("a", cpu="4", memory="10000"), testing.node("b", cpu="6", memory="10000")],
        [testing.pod(name, each, node_name=name) for name, each in zip("ab", used, strict=False)],
    )


def test_least_allocated_favours_what_is_free() -> None:
    # (4000-3000)/4000 and (10000-5000)/10000 against (6000-3000)/6000: 25 and 50, 50 and 50.
    assert scored({"cpu": "3", "memory": "5000"}, two_nodes()) == [37, 50]


def test_least_allocated_cuts_each_division() -> None:
    nodes = testing.cluster([testing.node("a", cpu="3", memory="7")])

    # CPU (3000-1000)*100/3000 = 66.67 -> 66; memory (7-2)*100/7 = 71.4 -> 71; mean 68.5 -> 68.
    assert scored({"cpu": "1", "memory": "2"}, nodes) == [68]


def test_more_than_there_is_scores_zero() -> None:
    assert scored({"cpu": "5", "memory": "5000"}, two_nodes()) == [25, 33]


def test_containers_that_ask_for_nothing_count_with_defaults() -> None:
    gib = testing.cluster([testing.node("a", cpu="1", memory="1000Mi")])

    # 100m of 1 CPU and 200 of 1000 Mi.
    assert scored({}, gib) == [(90 + 80) // 2]
    gib.add_pod(testing.pod_info("there", node_name="a"))
    assert scored({}, gib) == [(80 + 60) // 2]


def test_what_the_pod_asks_for_as_a_whole_is_not_seen_by_the_score() -> None:
    nodes = testing.cluster([testing.node("a", cpu="1", memory="1000Mi")])

    assert scored({}, nodes, resources={"requests": {"cpu": "1", "memory": "900Mi"}}) == [85]


def strategy(kind: str, *resources: tuple[str, int], **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "resources": [{"name": name, "weight": weight} for name, weight in resources],
        **more,
    }


def test_weights_count_and_a_resource_that_a_node_lacks_does_not() -> None:
    nodes = testing.cluster(
        [
            testing.node("with", cpu="4", memory="10000", more={GPU: "4"}),
            testing.node("without", cpu="4", memory="10000"),
        ]
    )
    weighted = strategy("LeastAllocated", ("cpu", 2), (GPU, 3))

    assert scored({"cpu": "3", GPU: "1"}, nodes, weighted) == [(25 * 2 + 75 * 3) // 5, 25]
    # Who doesn't ask for it isn't scored by it.
    assert scored({"cpu": "3"}, nodes, weighted) == [25, 25]


def test_a_node_with_none_of_the_resources_scores_zero() -> None:
    nodes = testing.cluster([testing.node("a", cpu="0", memory="0")])

    for kind in ("LeastAllocated", "MostAllocated"):
        assert scored({"cpu": "1"}, nodes, strategy(kind, ("cpu", 1), ("memory", 1))) == [0]
    shape = {"shape": [{"utilization": 0, "score": 10}]}
    ratio = strategy("RequestedToCapacityRatio", ("cpu", 1), requestedToCapacityRatio=shape)
    assert scored({"cpu": "1"}, nodes, ratio) == [0]


def test_ephemeral_storage_can_be_scored_without_defaults() -> None:
    nodes = testing.cluster([testing.node("a", more={"ephemeral-storage": "10"})])

    assert scored({}, nodes, strategy("LeastAllocated", ("ephemeral-storage", 1))) == [100]
    assert scored(
        {"ephemeral-storage": "3"}, nodes, strategy("LeastAllocated", ("ephemeral-storage", 1))
    ) == [70]


def test_most_allocated_favours_what_is_in_use() -> None:
    packing = strategy("MostAllocated", ("cpu", 1), ("memory", 1))

    assert scored({"cpu": "3", "memory": "5000"}, two_nodes(), packing) == [62, 50]
    # What is asked for beyond the node's size counts as all of it.
    assert scored({"cpu": "5", "memory": "5000"}, two_nodes(), packing) == [75, 66]


BIN_PACKING = {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}


def test_the_ratio_is_scored_by_its_shape() -> None:
    ratio = strategy(
        "RequestedToCapacityRatio", ("cpu", 1), ("memory", 1), requestedToCapacityRatio=BIN_PACKING
    )

    assert scored({"cpu": "3", "memory": "5000"}, two_nodes(), ratio) == [
        # 75 and 50, 50 and 50; rounded half up and not to even.
        63,
        50,
    ]


def test_resources_whose_ratio_scores_nothing_leave_the_mean() -> None:
    ratio = strategy(
        "RequestedToCapacityRatio",
        ("cpu", 3),
        (GPU, 5),
        requestedToCapacityRatio={
            "shape": [{"utilization": 50, "score": 0}, {"utilization": 100, "score": 10}]
        },
    )
    nodes = testing.cluster([testing.node("a", cpu="4", more={GPU: "4"})])

    # CPU at 75 % scores 50; the GPU at 25 % scores 0 and doesn't pull the mean down.
    assert scored({"cpu": "3", GPU: "1"}, nodes, ratio) == [50]


def test_beyond_capacity_the_ratio_is_that_of_a_full_node() -> None:
    spread = {"shape": [{"utilization": 0, "score": 10}, {"utilization": 100, "score": 3}]}
    ratio = strategy("RequestedToCapacityRatio", ("cpu", 1), requestedToCapacityRatio=spread)

    assert scored({"cpu": "9"}, two_nodes(), ratio) == [30, 30]


def test_a_shape_is_a_broken_line_cut_towards_zero() -> None:
    scores = noderesourcesfit.ratio_scores([(10, 10), (90, 3), (95, 3)])

    assert scores[0] == scores[10] == 100
    # 100 - 70*1/80 = 100 - 0.875: the division gives 0 and not -1.
    assert scores[11] == 100
    assert scores[12] == 99
    assert scores[50] == 65
    assert scores[90] == scores[100] == 30


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.0, 0), (0.5, 1), (1.5, 2), (2.5, 3), (0.49999999999999994, 0)]
)
def test_halves_are_rounded_up(value: float, rounded: int) -> None:
    assert noderesourcesfit.round_half_away(np.array([value])).tolist() == [rounded]


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "Best"},
        {"type": "RequestedToCapacityRatio", "resources": []},
    ],
)
def test_a_strategy_that_there_is_not_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scoringStrategy|shape"):
        noderesourcesfit.NodeResourcesFit.from_arguments({"scoringStrategy": wrong})
