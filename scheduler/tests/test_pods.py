"""Reading a pod, and which pods look alike."""

from typing import Any

import pytest

from whipstaff.scheduler import pods, testing
from whipstaff.scheduler.pods import HostPort


def test_a_bare_pod_has_the_apis_defaults() -> None:
    pod = pods.PodInfo.from_object(
        {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": []}}
    )

    assert pod.key == "shop/web"
    assert (pod.scheduler_name, pod.node_name, pod.priority) == ("default-scheduler", "", 0)
    assert (pod.labels, pod.affinity, pod.node_selector) == ({}, {}, None)
    assert not pod.is_terminating


def test_times_are_seconds_since_the_epoch() -> None:
    raw = testing.pod("web")
    raw["metadata"]["creationTimestamp"] = "2026-11-21T04:00:00Z"
    raw["metadata"]["deletionTimestamp"] = "2026-11-21T04:00:30Z"
    pod = pods.PodInfo.from_object(raw)

    assert pod.created == 1795233600.0
    assert pod.is_terminating


def test_host_ports_are_those_of_containers_and_sidecars() -> None:
    pod = testing.pod_info(
        containers=[
            testing.container(host_ports=[8080, {"hostPort": 53, "protocol": "UDP"}]),
            testing.container(host_ports=[{"hostPort": 0}, {"hostPort": 9, "hostIP": "10.0.0.1"}]),
        ],
        initContainers=[
            testing.container(host_ports=[1]),
            testing.container(sidecar=True, host_ports=[2]),
        ],
    )

    assert pod.host_ports == (
        HostPort("0.0.0.0", "TCP", 2),
        HostPort("0.0.0.0", "TCP", 8080),
        HostPort("0.0.0.0", "UDP", 53),
        HostPort("10.0.0.1", "TCP", 9),
    )


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("nginx", "nginx:latest"),
        ("nginx:1.29", "nginx:1.29"),
        ("registry:5000/nginx", "registry:5000/nginx:latest"),
        ("registry:5000/nginx:1.29", "registry:5000/nginx:1.29"),
        ("nginx@sha256:0123", "nginx@sha256:0123"),
    ],
)
def test_an_image_without_a_tag_means_latest(image: str, named: str) -> None:
    assert pods.image_with_tag(image) == named


def test_images_are_those_of_containers_and_image_volumes() -> None:
    pod = testing.pod_info(
        containers=[testing.container(image="web")],
        initContainers=[testing.container(image="setup")],
        volumes=[{"name": "data", "image": {"reference": "data:1"}}, {"name": "tmp"}],
    )

    assert pod.images == ("setup:latest", "web:latest", "data:1")
    assert pod.container_count == 2


def test_a_pod_placed_on_a_node_is_the_same_but_for_the_node() -> None:
    pod = testing.pod_info("web", {"cpu": "1"}, labels={"app": "web"})
    placed = pod.on_node("n1")

    assert (placed.node_name, pod.node_name) == ("n1", "")
    assert (placed.uid, placed.labels, placed.requests) == (pod.uid, pod.labels, pod.requests)
    assert placed.class_key != pod.class_key


def test_pods_of_one_template_look_alike() -> None:
    first = testing.pod_info("a", {"cpu": "1"}, labels={"app": "x"}, nodeSelector={"disk": "ssd"})
    second = testing.pod_info(
        "b", {"cpu": "1000m"}, namespace="other", nodeSelector={"disk": "ssd"}
    )

    assert first.class_key == second.class_key


@pytest.mark.parametrize(
    "difference",
    [
        {"requests": {"cpu": "2"}},
        {"nodeSelector": {"disk": "ssd"}},
        {"tolerations": [{"operator": "Exists"}]},
        {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
        {"overhead": {"cpu": "1m"}},
        {"containers": [testing.container({"cpu": "1"}, image="other")]},
        {"containers": [testing.container({"cpu": "1"}, host_ports=[80])]},
        {"containers": [testing.container({"cpu": "1"}), testing.container({})]},
    ],
)
def test_pods_that_differ_in_what_a_plugin_looks_at_do_not_look_alike(
    difference: dict[str, Any],
) -> None:
    plain = testing.pod_info("a", {"cpu": "1"})
    other = testing.pod_info("b", **{"requests": {"cpu": "1"}, **difference})

    assert plain.class_key != other.class_key
