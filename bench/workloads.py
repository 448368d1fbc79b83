"""The workloads of upstream's scheduler_perf: how many nodes and pods, and what they look like.

Answers to test/integration/scheduler_perf (performance-config.yaml and its templates). Only
SchedulingBasic and PreemptionBasic are here: the others need plugins that are not built yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from whipstaff.runtime import client, resources

ZONES = ("zone1", "zone2", "zone3")
HIGH_PRIORITY: client.Object = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "high-priority"},
    "value": 10,
}


def node(index: int) -> client.Object:
    """node-default.yaml: 4 CPU, 32Gi, 110 pods; with the labels that every real node has."""
    name = f"node-{index:05d}"
    capacity = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": ZONES[index % len(ZONES)],
            },
        },
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


def basic_pod(namespace: str, name: str) -> client.Object:
    """pod-default.yaml: 100m and 500Mi, nothing else that a plugin looks at."""
    return _pod(namespace, name, "100m")


def low_priority_pod(namespace: str, name: str) -> client.Object:
    """pod-low-priority.yaml: four of them fill a node. Nobody runs them, so they end at once."""
    pod = _pod(namespace, name, "900m")
    pod["spec"]["terminationGracePeriodSeconds"] = 0
    return pod


def high_priority_pod(namespace: str, name: str) -> client.Object:
    """pod-high-priority.yaml: it takes the place of three of them."""
    pod = _pod(namespace, name, "3000m")
    pod["spec"]["priorityClassName"] = HIGH_PRIORITY["metadata"]["name"]
    return pod


def _pod(namespace: str, name: str, cpu: str) -> client.Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "pause",
                    "image": "registry.k8s.io/pause:3.10.2",
                    "resources": {
                        "requests": {"cpu": cpu, "memory": "500Mi"},
                        "limits": {"cpu": cpu, "memory": "500Mi"},
                    },
                }
            ],
        },
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Nodes, the pods bound before the clock starts, and the pods that are measured.

    `pod` makes the measured pods and, without an `init_pod`, the others too; `objects` are there
    before all of them.
    """

    name: str
    nodes: int
    init_pods: int
    pods: int
    pod: Callable[[str, str], client.Object]
    init_pod: Callable[[str, str], client.Object] | None = None
    objects: tuple[tuple[resources.Resource, client.Object], ...] = ()
    arrivals: tuple[str, ...] = ("backlog", "stream")
    """Without `backlog` the init pods have to be there before the measured ones."""


WORKLOADS = {
    "SchedulingBasic": Workload("SchedulingBasic", 5000, 1000, 10000, basic_pod),
    "PreemptionBasic": Workload(
        "PreemptionBasic",
        1000,
        4000,
        1000,
        high_priority_pod,
        low_priority_pod,
        ((resources.PRIORITYCLASSES, HIGH_PRIORITY),),
        ("stream",),
    ),
}
