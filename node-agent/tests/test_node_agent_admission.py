"""Which pods a node lets in, and what it says to the others."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import admission, requirements

ALLOCATABLE = {"cpu": 4000, "memory": 1024, "pods": 3, "ephemeral-storage": 100}


def node(labels: Any = None, taints: Any = ()) -> Any:
    return {
        "metadata": {"name": "node-0", "labels": {"kubernetes.io/os": "linux"} | (labels or {})},
        "spec": {"taints": list(taints)},
    }


def admit(
    pod: Any, usage: admission.Usage | None = None, on: Any = None, allocatable: Any = None
) -> admission.Rejection | None:
    claim = admission.claim_of(pod["spec"])
    return admission.admit(
        pod, claim, on or node(), allocatable or ALLOCATABLE, usage or admission.Usage()
    )


def asking(**amounts: str) -> Any:
    return make.pod(containers=[make.container("app", resources={"requests": amounts})])


def test_a_pod_that_fits_is_let_in() -> None:
    assert admit(asking(cpu="4", memory="1Ki")) is None


@pytest.mark.parametrize(
    ("pod", "reason", "message"),
    [
        (asking(cpu="4500m"), "OutOfcpu", "cpu, requested: 4500, used: 0, capacity: 4000"),
        (asking(memory="2Ki"), "OutOfmemory", "memory, requested: 2048, used: 0, capacity: 1024"),
        (
            asking(**{"ephemeral-storage": "101"}),
            "OutOfephemeral-storage",
            "ephemeral-storage, requested: 101, used: 0, capacity: 100",
        ),
    ],
)
def test_a_pod_that_asks_for_too_much_is_rejected(pod: Any, reason: str, message: str) -> None:
    found = admit(pod)
    assert found is not None
    assert found.reason == reason
    assert found.message == f"Node didn't have enough resource: {message}"
    assert found.status_message == f"Pod was rejected: {found.message}"


def test_what_other_pods_hold_counts_until_they_give_it_back() -> None:
    usage = admission.Usage()
    claim = admission.claim_of(asking(cpu="3")["spec"])
    usage.add(claim)
    found = admit(asking(cpu="2"), usage)
    assert found is not None
    assert "requested: 2000, used: 3000, capacity: 4000" in found.message
    usage.remove(claim)
    assert admit(asking(cpu="2"), usage) is None


def test_a_full_node_takes_no_pod_even_if_it_asks_for_nothing() -> None:
    usage = admission.Usage(pods=3)
    found = admit(make.pod(), usage)
    assert found is not None
    assert (found.reason, found.message) == (
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
    )


def test_a_resource_that_the_node_has_never_heard_of_belongs_to_the_cluster() -> None:
    assert admit(asking(**{"example.com/licence": "1"})) is None
    known = {**ALLOCATABLE, "example.com/gpu": 1}
    found = admit(asking(**{"example.com/gpu": "2"}), allocatable=known)
    assert found is not None
    assert found.reason == "OutOfexample.com/gpu"


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"disk": "ssd"}},
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "disk", "operator": "In", "values": ["ssd"]}
                                ]
                            }
                        ]
                    }
                }
            }
        },
    ],
)
def test_a_pod_for_other_nodes_is_rejected(spec: Any) -> None:
    found = admit(make.pod(**spec))
    assert found is not None
    assert found.reason == "NodeAffinity"
    assert found.message == (
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    )
    assert admit(make.pod(**spec), on=node({"disk": "ssd"})) is None


def port(number: int, address: str = "", protocol: str = "TCP") -> Any:
    ports = [{"containerPort": 80, "hostPort": number, "hostIP": address, "protocol": protocol}]
    return make.pod(containers=[make.container("app", ports=ports)])


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (port(80), port(80), True),
        (port(80), port(81), False),
        (port(80), port(80, protocol="UDP"), False),
        (port(80, "10.0.0.1"), port(80, "10.0.0.2"), False),
        (port(80, "10.0.0.1"), port(80, "0.0.0.0"), True),
        (port(80), port(80, "10.0.0.2"), True),
    ],
)
def test_a_host_port_is_given_out_once(first: Any, second: Any, clash: bool) -> None:
    usage = admission.Usage()
    usage.add(admission.claim_of(first["spec"]))
    found = admit(second, usage)
    assert (found is not None) is clash
    if found is not None:
        assert found.reason == "NodePorts"


def test_only_taints_that_evict_keep_a_pod_out() -> None:
    evicting = node(taints=[{"key": "gone", "effect": "NoExecute"}])
    found = admit(make.pod(), on=evicting)
    assert found is not None
    assert found.reason == "TaintToleration"
    tolerating = make.pod(tolerations=[{"key": "gone", "operator": "Exists"}])
    assert admit(tolerating, on=evicting) is None
    assert admit(make.pod(), on=node(taints=[{"key": "x", "effect": "NoSchedule"}])) is None


def test_resources_are_looked_at_before_everything_else() -> None:
    pod = asking(cpu="5")
    pod["spec"]["nodeSelector"] = {"disk": "ssd"}
    found = admit(pod)
    assert found is not None
    assert found.reason == "OutOfcpu"


def test_windows_pods_have_no_place_here() -> None:
    found = admit(make.pod(os={"name": "windows"}))
    assert found is not None
    assert found.reason == "PodOSNotSupported"
    found = admit(make.pod(labels={"kubernetes.io/os": "windows"}))
    assert found is not None
    assert found.reason == "PodOSSelectorNodeLabelDoesNotMatch"


def resources(cpu: str) -> Any:
    return {"requests": {"cpu": cpu}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": [make.container("a", resources=resources("1")),
                         make.container("b", resources=resources("500m"))]}, 1500),
        ({"initContainers": [make.container("i", resources=resources("3"))],
          "containers": [make.container("a", resources=resources("1"))]}, 3000),
        ({"initContainers": [make.container("s", restartPolicy="Always", resources=resources("1")),
                             make.container("i", resources=resources("3"))],
          "containers": [make.container("a", resources=resources("1"))]}, 4000),
        ({"initContainers": [make.container("i", resources=resources("3")),
                             make.container("s", restartPolicy="Always", resources=resources("1"))],
          "containers": [make.container("a", resources=resources("1"))]}, 3000),
        ({"resources": resources("7"),
          "containers": [make.container("a", resources=resources("1"))]}, 7000),
        ({"overhead": {"cpu": "250m"},
          "containers": [make.container("a", resources=resources("1"))]}, 1250),
    ],
)  # fmt: skip
def test_a_pod_holds_what_it_needs_at_its_height(spec: Any, expected: int) -> None:
    assert requirements.requests(make.pod(**spec)["spec"])["cpu"] == expected
