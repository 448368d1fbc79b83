"""What a node says of itself: its machine, its images, what runs out."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import nodes, provider

CAPACITY = {"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "10Gi"}
INFO = {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6", "osImage": "D"}


def node(**fields: Any) -> nodes.Node:
    return nodes.Node("node-0", 0, {}, **fields)


def status(found: nodes.Node, **template: Any) -> Any:
    return nodes.status(found, nodes.Template(CAPACITY, **template), (), make.NOW)


def test_a_real_node_shows_its_machine() -> None:
    shown = status(node(runtime_version="containerd://1.6.20"), info=INFO)["nodeInfo"]
    assert shown.items() >= INFO.items()
    assert shown["containerRuntimeVersion"] == "containerd://1.6.20"
    assert shown["kubeletVersion"] == nodes.KUBELET_VERSION


def test_nodes_without_a_machine_differ_from_each_other() -> None:
    one, other = status(node()), status(nodes.Node("node-1", 1, {}))
    assert one["nodeInfo"]["machineID"] != other["nodeInfo"]["machineID"]
    assert "images" not in one


def test_the_fifty_largest_images_are_shown_with_five_names_at_most() -> None:
    found = [
        provider.Image(f"sha256:{i}", i, names=tuple(f"n{i}:{j}" for j in range(7)))
        for i in range(60)
    ]
    images = status(node(images=found))["images"]
    assert [image["sizeBytes"] for image in images] == list(range(59, 9, -1))
    assert images[0]["names"] == [f"n59:{j}" for j in range(5)]


PATH = "metrics.k8s.io/resource-metrics-path"


def registered(*names: str, **template: Any) -> Any:
    fleet = nodes.make(names, nodes.Template(CAPACITY, **template))
    return nodes.initial(fleet[names[0]], nodes.Template(CAPACITY, **template), make.NOW)


def test_nodes_that_share_a_port_say_where_their_metrics_are() -> None:
    fleet = registered("node-0", "node-1")
    assert fleet["metadata"]["annotations"][PATH] == "/nodes/node-0/metrics/resource"
    assert PATH not in registered("node-0")["metadata"]["annotations"]
    own = registered("node-0", "node-1", annotations={PATH: "/proxy"})
    assert own["metadata"]["annotations"][PATH] == "/proxy"


def test_a_node_that_changes_between_one_of_many_and_one_alone_says_so() -> None:
    alone, fleet = registered("node-0"), registered("node-0", "node-1")
    assert nodes.annotations_to_restore(fleet, fleet) == {}
    assert nodes.annotations_to_restore(fleet, alone) == {PATH: "/nodes/node-0/metrics/resource"}
    assert nodes.annotations_to_restore(alone, fleet) == {PATH: None}
    others = registered("node-0", annotations={PATH: "/proxy"})
    assert nodes.annotations_to_restore(alone, others) == {}


def test_what_the_runtime_can_do_is_shown() -> None:
    handlers = [{"name": "runc", "features": {"userNamespaces": True}}]
    found = node(handlers=handlers, features={"supplementalGroupsPolicy": True})
    assert status(found)["runtimeHandlers"] == handlers
    assert status(found)["features"] == {"supplementalGroupsPolicy": True}


def test_what_runs_out_is_a_condition() -> None:
    found = status(node(pressures=frozenset({"MemoryPressure", "PIDPressure"})))["conditions"]
    assert [(c["type"], c["status"], c["reason"], c["message"]) for c in found[:3]] == [
        (
            "MemoryPressure",
            "True",
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        (
            "PIDPressure",
            "True",
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
    ]
    assert found[3]["type"] == "Ready"


@pytest.mark.parametrize(
    ("tense", "events"),
    [
        (True, ["NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID"]),
        (False, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]),
    ],
)
def test_a_change_of_what_runs_out_is_an_event(tense: bool, events: list[str]) -> None:
    assert [pressure.event(tense=tense) for pressure in nodes.PRESSURES] == events


@pytest.mark.parametrize(
    ("before", "rebooted"), [({}, False), ({"bootID": "b"}, False), ({"bootID": "a"}, True)]
)
def test_a_machine_that_started_again_is_noticed(before: Any, rebooted: bool) -> None:
    template = nodes.Template(CAPACITY, info=INFO)
    assert nodes.was_rebooted({"nodeInfo": before}, template) is rebooted


def test_a_node_without_a_machine_never_starts_again() -> None:
    assert not nodes.was_rebooted({"nodeInfo": {"bootID": "a"}}, nodes.Template(CAPACITY))
