"""How much a pod asks for: the rules of Kubernetes' PodRequests, one by one."""

import pytest

from whipstaff.scheduler import requests, testing
from whipstaff.scheduler.requests import Requests

MI = 1024 * 1024


def of(**pod: object) -> requests.PodRequests:
    return requests.of_pod(testing.pod("pod", **pod))  # type: ignore[arg-type]


def test_containers_add_up() -> None:
    counted = of(
        containers=[
            testing.container({"cpu": "1", "memory": "1Gi"}),
            testing.container({"cpu": "500m", "ephemeral-storage": "2Gi"}),
        ]
    )

    assert counted.asked == Requests(1500, 1024 * MI, 2048 * MI)


def test_amounts_are_summed_exactly_and_rounded_up_once() -> None:
    # Three tenths of a milli-CPU are one milli-CPU; each rounded up alone they would be three.
    counted = of(containers=[testing.container({"cpu": "100u", "memory": "100m"})] * 3)

    assert counted.asked == Requests(1, 1)


def test_init_containers_run_one_by_one_before_the_others() -> None:
    counted = of(
        containers=[
            testing.container({"cpu": "2", "memory": "1Gi"}),
            testing.container({"cpu": "1", "memory": "1Gi"}),
        ],
        initContainers=[
            testing.container({"cpu": "2", "memory": "1Gi"}),
            testing.container({"cpu": "2", "memory": "3Gi"}),
        ],
    )

    assert counted.asked == Requests(3000, 3072 * MI)


def test_a_sidecar_counts_beside_the_containers_and_beside_later_init_containers() -> None:
    counted = of(
        containers=[testing.container({"cpu": "1"})],
        initContainers=[
            testing.container({"cpu": "5"}),
            testing.container({"cpu": "3"}, sidecar=True),
            testing.container({"cpu": "4"}),
        ],
    )

    # The worst moment is the last init container beside the sidecar: 4 + 3.
    assert counted.asked.milli_cpu == 7000


def test_what_the_pod_asks_for_as_a_whole_replaces_the_containers_sum() -> None:
    counted = of(
        containers=[testing.container({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"})],
        resources={"requests": {"cpu": "3", "hugepages-2Mi": "4Mi", "ephemeral-storage": "9Gi"}},
        overhead={"cpu": "250m"},
    )

    # Ephemeral storage can't be asked for by the pod as a whole; overhead comes on top.
    assert counted.asked == Requests(3250, 1024 * MI, 1024 * MI, (("hugepages-2Mi", 4 * MI),))


def test_scalars_are_counted_and_other_names_are_not() -> None:
    counted = of(
        requests={
            "example.com/gpu": "2",
            "hugepages-1Gi": "1Gi",
            "attachable-volumes-x": "1",
            "storage": "5",
            "nonsense": "5",
            "a/b/c": "5",
        }
    )

    assert counted.asked.scalars == (
        ("attachable-volumes-x", 1),
        ("example.com/gpu", 2),
        ("hugepages-1Gi", 1024 * MI),
    )


@pytest.mark.parametrize(
    ("name", "extended"),
    [
        ("example.com/gpu", True),
        ("gpu", False),
        ("requests.example.com/gpu", False),
        ("kubernetes.io/x", False),
        ("sub.kubernetes.io/x", False),
        ("Example.com/gpu", False),
        ("example.com/", False),
        ("example.com/" + "x" * 64, False),
    ],
)
def test_extended_resources_are_the_vendors(name: str, extended: bool) -> None:
    assert requests.is_extended(name) == extended
    assert requests.is_scalar(name) == (extended or "kubernetes.io/" in name)


def test_containers_that_name_nothing_count_with_defaults_in_scoring_only() -> None:
    counted = of(containers=[testing.container(), testing.container({"cpu": "0"})])

    assert counted.asked == Requests()
    assert (counted.nonzero_milli_cpu, counted.nonzero_memory) == (100, 400 * MI)
    assert counted.scored == Requests(100, 400 * MI)


def test_defaults_apply_to_init_containers_too() -> None:
    counted = of(
        containers=[testing.container({"cpu": "10m", "memory": "10Mi"})],
        initContainers=[testing.container()],
    )

    assert (counted.nonzero_milli_cpu, counted.nonzero_memory) == (100, 200 * MI)


def test_with_pod_level_requests_defaults_apply_to_what_the_whole_pod_lacks() -> None:
    counted = of(
        containers=[testing.container({"cpu": "1"}), testing.container()],
        resources={"requests": {"cpu": "3"}},
    )

    # CPU is named by the pod; memory by nobody, so each container counts as 200 Mi.
    assert (counted.nonzero_milli_cpu, counted.nonzero_memory) == (3000, 400 * MI)


def test_the_fit_score_does_not_see_what_the_pod_asks_for_as_a_whole() -> None:
    counted = of(
        containers=[testing.container({"cpu": "1"})],
        resources={"requests": {"cpu": "3", "memory": "1Gi"}},
    )

    assert counted.asked == Requests(3000, 1024 * MI)
    assert counted.scored == Requests(1000, 200 * MI)


RESIZING = {
    "containerStatuses": [
        {
            "name": "main",
            "resources": {"requests": {"cpu": "2"}},
            "allocatedResources": {"cpu": "3", "memory": "1Gi"},
        }
    ]
}


def test_a_pod_being_resized_holds_the_most_of_wish_grant_and_use() -> None:
    counted = of(requests={"cpu": "1", "memory": "2Gi"}, status=RESIZING)

    assert counted.asked == Requests(1000, 2048 * MI)
    assert counted.held == Requests(3000, 2048 * MI)
    assert (counted.nonzero_milli_cpu, counted.nonzero_memory) == (3000, 2048 * MI)


def test_a_resize_that_cannot_be_done_leaves_the_wish_out() -> None:
    infeasible = {
        **RESIZING,
        "conditions": [{"type": "PodResizePending", "reason": "Infeasible"}],
    }
    counted = of(requests={"cpu": "8", "memory": "2Gi"}, status=infeasible)

    assert counted.held == Requests(3000, 1024 * MI)


def test_a_pod_resized_as_a_whole_holds_the_most_too() -> None:
    counted = of(
        requests={"cpu": "1"},
        resources={"requests": {"cpu": "2"}},
        status={"resources": {"requests": {"cpu": "4"}}, "allocatedResources": {"cpu": "3"}},
    )

    assert (counted.asked.milli_cpu, counted.held.milli_cpu) == (2000, 4000)


def test_an_allocatable_amount_beyond_int64_stops_there() -> None:
    amounts, pods = requests.allocatable({"cpu": "1", "memory": "16Ei", "pods": "110"})

    assert (amounts.memory, pods) == (2**63 - 1, 110)
