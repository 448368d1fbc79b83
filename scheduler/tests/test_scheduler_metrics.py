"""What the scheduler's metrics count, and what /metrics/resources says of pods."""

import random
from typing import Any

import prometheus_client
import pytest

from whipstaff.scheduler import (
    decision,
    framework,
    metrics,
    pods,
    profile,
    requests,
    resource_metrics,
    snapshot,
    testing,
    timings,
)


def exposed(collector: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


class Steps:
    """A clock that goes on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1.0
        return self.time


def decider(measured: metrics.Metrics, *, sampled: bool) -> tuple[decision.Decider, Any]:
    cluster = snapshot.Snapshot()
    cluster.upsert_node(
        {"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "1", "pods": "9"}}}
    )
    chance = (lambda: 0.0) if sampled else (lambda: 0.99)
    stopwatch = timings.Stopwatch(measured, chance, Steps())
    made = decision.Decider(cluster, random.Random(1), stopwatch=stopwatch)
    return made, profile.default_profile("whipstaff")


def points(measured: metrics.Metrics) -> dict[tuple[str, str], int]:
    """Observations by extension point and status."""
    counted = {}
    for point in ("PreFilter", "Filter", "PreScore", "Score"):
        for code in framework.Code:
            count = measured.extension_point_duration.count(point, code.label, "whipstaff")
            if count:
                counted[point, code.label] = count
    return counted


def pod(cpu: str, **spec: Any) -> pods.PodInfo:
    return pods.PodInfo.from_object(testing.pod("web", {"cpu": cpu}, **spec))


def test_each_decision_counts_once_at_each_point_that_it_comes_to() -> None:
    measured = metrics.Metrics()
    made, plugins = decider(measured, sampled=False)
    assert made.decide(pod("100m"), plugins).node == "a"
    assert points(measured) == {
        (point, "Success"): 1 for point in ("PreFilter", "Filter", "PreScore", "Score")
    }
    assert made.decide(pod("5"), plugins).node is None
    assert points(measured)["Filter", "Success"] == 2
    assert points(measured)["Score", "Success"] == 1
    assert not exposed(measured).get(
        (
            "scheduler_plugin_execution_duration_seconds_count",
            (
                ("extension_point", "Filter"),
                ("plugin", "NodeResourcesFit"),
                ("status", "Success"),
            ),
        )
    )


def test_a_pod_that_pre_filter_refuses_comes_to_no_filter() -> None:
    measured = metrics.Metrics()
    made, plugins = decider(measured, sampled=False)
    claim = [{"name": "data", "persistentVolumeClaim": {"claimName": "absent"}}]
    assert made.decide(pod("1m", volumes=claim), plugins).node is None
    assert points(measured) == {("PreFilter", "UnschedulableAndUnresolvable"): 1}


def test_of_a_sampled_decision_each_plugin_is_timed() -> None:
    measured = metrics.Metrics()
    made, plugins = decider(measured, sampled=True)
    made.decide(pod("100m"), plugins)
    shown = exposed(measured)
    name = "scheduler_plugin_execution_duration_seconds_sum"
    assert (
        shown[
            name,
            (
                ("extension_point", "Filter"),
                ("plugin", "NodeResourcesFit"),
                ("status", "Success"),
            ),
        ]
        == 1.0
    )
    assert (
        shown[name, (("extension_point", "PreFilter"), ("plugin", "NodePorts"), ("status", "Skip"))]
        >= 1.0
    )


def test_plugins_that_skip_a_pod_count_as_not_asked() -> None:
    measured = metrics.Metrics()
    made, plugins = decider(measured, sampled=False)
    made.decide(pod("100m"), plugins)
    counts = measured.plugin_evaluations["whipstaff"]
    assert counts["PreFilter", "NodePorts"] == 0
    assert counts["Filter", "NodeResourcesFit"] == 1
    assert counts["Score", "NodeResourcesFit"] == 1


def test_a_plugin_that_fails_is_counted_as_an_error() -> None:
    class Fault(framework.Plugin):
        name = "Fault"

        def filter(self, *_: Any) -> None:
            raise ZeroDivisionError

    measured = metrics.Metrics()
    made, usual = decider(measured, sampled=True)
    listed = {**usual.points, "filter": (*usual.points["filter"], "Fault")}
    by_name = {name: plugin for name, plugin in usual.plugins.items() if name != "Unsupported"}
    by_name["Fault"] = Fault()
    plugins = profile.Profile("whipstaff", listed, usual.weights, by_name)
    with pytest.raises(framework.PluginError):
        made.decide(pod("100m"), plugins)
    assert points(measured) == {("PreFilter", "Success"): 1, ("Filter", "Error"): 1}


def test_a_histogram_without_labels_is_there_before_anything_happened() -> None:
    shown = exposed(metrics.Metrics())
    assert shown["scheduler_preemption_victims_count", ()] == 0
    assert shown["scheduler_pod_scheduling_attempts_count", ()] == 0


# /metrics/resources


def resources_of(raw: dict[str, Any]) -> dict[tuple[str, str], tuple[float, str]]:
    found = {}
    for family in resource_metrics.Collector(lambda: [raw]).collect():
        for sample in family.samples:
            kind = sample.name.removeprefix("kube_pod_resource_")
            found[kind, sample.labels["resource"]] = (sample.value, sample.labels["unit"])
    return found


def test_requests_and_limits_are_in_whole_units() -> None:
    raw = testing.pod("web", {"cpu": "250m", "memory": "1Gi", "example.com/gpu": "1"})
    raw["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1500m", "hugepages-2Mi": "4Mi"}
    assert resources_of(raw) == {
        ("request", "cpu"): (0.25, "cores"),
        ("request", "memory"): (2.0**30, "bytes"),
        ("request", "example.com/gpu"): (1.0, ""),
        ("limit", "cpu"): (1.5, "cores"),
        ("limit", "hugepages-2Mi"): (2.0**22, "bytes"),
    }


def test_limits_count_the_start_and_the_overhead_where_there_is_a_limit() -> None:
    raw = testing.pod("web", {"cpu": "100m"})
    raw["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1"}
    raw["spec"]["initContainers"] = [
        {"name": "proxy", "restartPolicy": "Always", "resources": {"limits": {"cpu": "500m"}}},
        {"name": "setup", "resources": {"limits": {"cpu": "3"}}},
    ]
    raw["spec"]["overhead"] = {"cpu": "250m", "memory": "1Mi"}
    nano = 10**9
    assert requests.pod_limits(raw) == {"cpu": 3750 * nano // 1000}


def test_limits_of_the_pod_as_a_whole_win() -> None:
    raw = testing.pod("web", {"cpu": "100m"})
    raw["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1"}
    raw["spec"]["resources"] = {"limits": {"cpu": "2"}}
    assert requests.pod_limits(raw) == {"cpu": 2 * 10**9}


def test_a_pod_is_told_with_its_place_and_rank() -> None:
    raw = testing.pod("web", {"cpu": "1"})
    raw["spec"] |= {"nodeName": "node-a", "priority": 7, "schedulerName": "other"}
    registry = prometheus_client.CollectorRegistry()
    registry.register(resource_metrics.Collector(lambda: [raw]))
    labels = {
        "namespace": "default",
        "pod": "web",
        "node": "node-a",
        "scheduler": "other",
        "priority": "7",
        "resource": "cpu",
        "unit": "cores",
    }
    assert registry.get_sample_value("kube_pod_resource_request", labels) == 1.0
