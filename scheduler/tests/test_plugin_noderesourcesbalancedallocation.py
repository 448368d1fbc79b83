"""NodeResourcesBalancedAllocation."""

from collections.abc import Mapping
from typing import Any

import pytest

from whipstaff.scheduler import testing
from whipstaff.scheduler.plugins import noderesourcesbalancedallocation, resourceallocation

GPU = "example.com/gpu"


def node_of(name: str, size: Mapping[str, str]) -> dict[str, Any]:
    more = {resource: amount for resource, amount in size.items() if resource == GPU}
    return testing.node(name, cpu=size["cpu"], memory=size["memory"], more=more)


def score(
    asked: Mapping[str, str],
    used: Mapping[str, str],
    node: Mapping[str, str],
    *resources: str,
    **spec: Any,
) -> int | None:
    plugin = noderesourcesbalancedallocation.NodeResourcesBalancedAllocation.from_arguments(
        {"resources": [{"name": name, "weight": 1} for name in resources]}
    )
    cluster = testing.cluster([node_of("n", node)], [testing.pod("used", used, node_name="n")])
    found = testing.scores(plugin, testing.pod_info("new", asked, **spec), cluster)
    return None if found is None else found["n"]


NODE = {"cpu": "10", "memory": "1000"}


def test_a_pod_that_asks_for_none_of_the_resources_is_skipped() -> None:
    assert score({}, {}, NODE) is None
    assert score({GPU: "1"}, {}, NODE) is None
    assert score({GPU: "1"}, {}, {**NODE, GPU: "2"}, "cpu", GPU) is not None


def test_a_pod_that_changes_no_balance_scores_seventy_five() -> None:
    assert score({"cpu": "1", "memory": "100"}, {}, NODE) == 75
    assert score({"cpu": "1"}, {"memory": "50"}, NODE) == 75


def test_better_balance_scores_more_and_worse_less() -> None:
    # Alone it takes 90 % of the CPU: |0.9 - 0| / 2 = 0.45, so 55 against 100 before.
    assert score({"cpu": "9"}, {}, NODE) == 50 + (50 + 55 - 100) // 2
    # Beside a pod that takes 90 % of the memory it restores the balance.
    assert score({"cpu": "9"}, {"memory": "900"}, NODE) == 50 + (50 + 100 - 55) // 2


def test_the_deviation_is_cut_and_not_rounded() -> None:
    # Shares 1/3 and 0: 1 - 1/6 = 0.8333, so 83; 50 + (50 + 83 - 100) / 2 = 66.5, so 66.
    assert score({"cpu": "1"}, {}, {"cpu": "3", "memory": "1000"}) == 66


def test_a_node_cannot_be_more_than_full() -> None:
    assert score({"cpu": "30"}, {}, NODE) == score({"cpu": "10"}, {}, NODE)


def test_real_requests_count_and_not_defaults() -> None:
    node = {"cpu": "1", "memory": "400Mi"}

    # The pod that is there asks for nothing, so it weighs nothing here.
    assert score({"cpu": "500m", "memory": "200Mi"}, {}, node) == 75


def test_what_the_pod_asks_for_as_a_whole_counts() -> None:
    assert score({}, {}, NODE, resources={"requests": {"cpu": "9"}}) == 52


def test_three_resources_deviate_by_the_population() -> None:
    node = {**NODE, GPU: "2"}
    # Shares 0.5, 0.5, 0.5 after; before 0.5, 0.5, 0: deviation 0.2357, so 76.
    assert score({GPU: "1"}, {"cpu": "5", "memory": "500"}, node, "cpu", "memory", GPU) == (
        50 + (50 + 100 - 76) // 2
    )


@pytest.mark.parametrize("node", [{"cpu": "10", "memory": "0"}, {"cpu": "0", "memory": "0"}])
def test_one_resource_alone_is_always_balanced(node: dict[str, str]) -> None:
    assert score({"cpu": "9"}, {}, node) == 75


def test_nodes_that_lack_a_resource_are_scored_by_the_others() -> None:
    plugin = noderesourcesbalancedallocation.NodeResourcesBalancedAllocation(
        [resourceallocation.WeightedResource(name) for name in ("cpu", "memory", GPU)]
    )
    cluster = testing.cluster([node_of("gpu", {**NODE, GPU: "1"}), node_of("plain", NODE)])
    pod = testing.pod_info("new", {"cpu": "5", "memory": "500", GPU: "1"})

    assert testing.scores(plugin, pod, cluster) == {
        # Shares 0.5, 0.5 and 1: deviation 0.2357.
        "gpu": 50 + (50 + 76 - 100) // 2,
        "plain": 75,
    }
