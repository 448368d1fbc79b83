"""Numbers for control groups: the kubelet's, case by case."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent.cgroups import numbers as cgroup_numbers

GI = 1 << 30
MI = 1 << 20


def container(name: str = "app", **resources: Any) -> Any:
    return make.container(name, resources=resources)


def pod(*definitions: Any, **spec: Any) -> Any:
    return make.pod(status={"phase": "Pending"}, containers=list(definitions), **spec)


@pytest.mark.parametrize(
    ("millicores", "shares"),
    [(0, 2), (1, 2), (2, 2), (100, 102), (1000, 1024), (2500, 2560), (300_000, 262_144)],
)
def test_requests_become_shares(millicores: int, shares: int) -> None:
    assert cgroup_numbers.shares(millicores) == shares


@pytest.mark.parametrize(
    ("millicores", "quota"),
    [(0, 0), (1, 1000), (9, 1000), (10, 1000), (200, 20_000), (1500, 150_000)],
)
def test_limits_become_quotas(millicores: int, quota: int) -> None:
    assert cgroup_numbers.quota(millicores) == quota


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (102, 4), (1024, 39), (262_144, 10_000), (999_999, 10_000)]
)
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert cgroup_numbers.weight(shares) == weight


def test_shares_and_quotas_are_read_back_as_the_millicores_that_they_came_from() -> None:
    assert cgroup_numbers.millicores_of_shares(cgroup_numbers.shares(250)) == 250
    assert cgroup_numbers.millicores_of_shares(0) == 0
    assert cgroup_numbers.millicores_of_quota(25_000, 100_000) == 250
    assert cgroup_numbers.millicores_of_quota(-1, 100_000) == 0
    assert cgroup_numbers.shares_of_weight(10_000) == 262_144


def test_a_guaranteed_pod_is_limited_in_everything() -> None:
    same = {"cpu": "500m", "memory": "64Mi"}
    numbers = cgroup_numbers.of_pod(pod(container(requests=same, limits=same)))
    assert numbers == cgroup_numbers.Numbers(512, 50_000, memory=64 * MI)


def test_a_best_effort_pod_gets_the_least_shares_and_no_limits() -> None:
    assert cgroup_numbers.of_pod(pod(container())) == cgroup_numbers.Numbers(2)


def test_a_burstable_pod_is_limited_where_each_container_is() -> None:
    first = container("a", requests={"cpu": "100m"}, limits={"cpu": "200m", "memory": "1Gi"})
    second = container("b", limits={"cpu": "300m"})
    numbers = cgroup_numbers.of_pod(pod(first, second))
    assert numbers == cgroup_numbers.Numbers(102, 50_000)


def test_an_init_container_without_limits_lifts_those_of_its_pod() -> None:
    limited = container("a", requests={"cpu": "1"}, limits={"cpu": "1", "memory": "1Gi"})
    numbers = cgroup_numbers.of_pod(pod(limited, initContainers=[container("init")]))
    assert (numbers.quota, numbers.memory) == (None, None)


def test_an_init_container_beside_a_limited_sidecar_counts_as_limited() -> None:
    sidecar = {
        **container("proxy", limits={"cpu": "1", "memory": "1Gi"}),
        "restartPolicy": "Always",
    }
    limited = container("a", requests={"cpu": "1"}, limits={"cpu": "1", "memory": "2Gi"})
    numbers = cgroup_numbers.of_pod(pod(limited, initContainers=[sidecar, container("init")]))
    assert (numbers.quota, numbers.memory) == (200_000, 3 * GI)


def test_pod_level_limits_take_the_place_of_the_containers() -> None:
    resources = {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    numbers = cgroup_numbers.of_pod(
        pod(container("a"), container("b", limits={"cpu": "500m"}), resources=resources)
    )
    assert numbers == cgroup_numbers.Numbers(1024, 200_000, memory=GI)


def test_overhead_is_added_to_what_is_limited() -> None:
    same = {"cpu": "1", "memory": "1Gi"}
    overhead = {"cpu": "250m", "memory": "256Mi"}
    numbers = cgroup_numbers.of_pod(pod(container(requests=same, limits=same), overhead=overhead))
    assert numbers == cgroup_numbers.Numbers(1280, 125_000, memory=GI + 256 * MI)


def test_quotas_can_be_switched_off() -> None:
    same = {"cpu": "1", "memory": "1Gi"}
    numbers = cgroup_numbers.of_pod(pod(container(requests=same, limits=same)), quotas=False)
    assert numbers.quota == -1


def test_huge_pages_are_named_as_the_kernel_names_them() -> None:
    pages = {"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "hugepages-64Ki": "128Ki"}
    asked = pages | {"cpu": "1"}
    numbers = cgroup_numbers.of_pod(pod(container(requests=asked, limits=asked)))
    assert numbers.huge_pages == {"2MB": 4 * MI, "1GB": GI, "64KB": 128 << 10}


def test_a_container_gets_its_own_numbers() -> None:
    definition = container(requests={"cpu": "100m"}, limits={"cpu": "200m", "memory": "64Mi"})
    numbers = cgroup_numbers.of_container(pod(definition), definition)
    assert numbers == cgroup_numbers.Numbers(102, 20_000, memory=64 * MI)


def test_a_container_that_only_has_a_limit_asks_for_that_much() -> None:
    definition = container(limits={"cpu": "1"})
    assert cgroup_numbers.of_container(pod(definition), definition).shares == 1024


def test_a_container_that_asks_for_nothing_gets_the_least_shares() -> None:
    numbers = cgroup_numbers.of_container(pod(container()), container())
    assert (numbers.shares, numbers.quota, numbers.memory) == (2, 0, None)


def test_a_container_without_limits_has_those_of_its_pod() -> None:
    definition = container("a", requests={"cpu": "100m"})
    whole = pod(definition, resources={"limits": {"cpu": "2", "memory": "1Gi"}})
    numbers = cgroup_numbers.of_container(whole, definition)
    assert (numbers.shares, numbers.quota, numbers.memory) == (102, 200_000, GI)


def test_huge_pages_that_a_container_does_not_ask_for_are_forbidden() -> None:
    definition = container(limits={"hugepages-2Mi": "4Mi"})
    numbers = cgroup_numbers.of_container(pod(definition), definition, page_sizes=["2MB", "1GB"])
    assert numbers.huge_pages == {"2MB": 4 * MI, "1GB": 0}


@pytest.mark.parametrize(
    ("memory", "score"), [("0", 999), ("1Mi", 999), ("1Gi", 750), ("2Gi", 500), ("4Gi", 3)]
)
def test_the_more_memory_a_burstable_container_asks_for_the_later_it_is_killed(
    memory: str, score: int
) -> None:
    definition = container(requests={"cpu": "1", "memory": memory})
    assert cgroup_numbers.oom_score_adj(pod(definition), definition, 4 * GI) == score


def test_guaranteed_and_node_critical_containers_are_killed_last_and_best_effort_ones_first() -> (
    None
):
    same = {"cpu": "1", "memory": "1Gi"}
    guaranteed = container(requests=same, limits=same)
    assert cgroup_numbers.oom_score_adj(pod(guaranteed), guaranteed, 4 * GI) == -997
    assert cgroup_numbers.oom_score_adj(pod(container()), container(), 4 * GI) == 1000
    critical = {"priority": 2_000_001_000, "priorityClassName": "system-node-critical"}
    assert cgroup_numbers.oom_score_adj(pod(container(), **critical), container(), 4 * GI) == -997
    cluster = critical | {"priorityClassName": "system-cluster-critical"}
    assert cgroup_numbers.oom_score_adj(pod(container(), **cluster), container(), 4 * GI) == 1000


def test_a_sidecar_is_not_killed_before_the_containers_that_it_serves() -> None:
    sidecar = {**container("proxy", requests={"memory": "16Mi"}), "restartPolicy": "Always"}
    whole = pod(
        container("a", requests={"memory": "2Gi"}),
        container("b", requests={"memory": "1Gi"}),
        initContainers=[sidecar],
    )
    assert cgroup_numbers.oom_score_adj(whole, sidecar, 4 * GI) == 750


def test_memory_of_the_pod_that_no_container_asks_for_counts_for_all() -> None:
    first = container("a", requests={"memory": "1Gi"})
    whole = pod(first, container("b"), resources={"requests": {"memory": "3Gi"}})
    assert cgroup_numbers.oom_score_adj(whole, first, 4 * GI) == 500
    assert cgroup_numbers.oom_score_adj(whole, container("b"), 4 * GI) == 750


def test_a_machine_of_unknown_size_counts_no_request() -> None:
    definition = container(requests={"memory": "1Gi"})
    assert cgroup_numbers.oom_score_adj(pod(definition), definition, 0) == 999
