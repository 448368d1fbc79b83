"""The workloads of upstream's scheduler_perf: how many nodes and pods, and what they look like.

Answers to test/integration/scheduler_perf (performance-config.yaml and its templates). Only
SchedulingBasic is here: the others need plugins that are not built yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from whipstaff.runtime import client

ZONES = ("zone1", "zone2", "zone3")


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
                        "requests": {"cpu": "100m", "memory": "500Mi"},
                        "limits": {"cpu": "100m", "memory": "500Mi"},
                    },
                }
            ],
        },
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Nodes, the pods bound before the clock starts, and the pods that are measured."""

    name: str
    nodes: int
    init_pods: int
    pods: int
    pod: Callable[[str, str], client.Object]


WORKLOADS = {
    "SchedulingBasic": Workload("SchedulingBasic", 5000, 1000, 10000, basic_pod),
}
