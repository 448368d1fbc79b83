"""The workloads of upstream's scheduler_perf: how many nodes and pods, and what they look like.

Answers to test/integration/scheduler_perf (the performance-config.yaml files and their templates).
All pods are in one namespace here. Left out: workloads that need volumes, devices or churn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from whipstaff.runtime import client

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
ZONES = ("zone1", "zone2", "zone3")


def node(index: int, zones: Sequence[str] = ZONES) -> client.Object:
    """node-default.yaml: 4 CPU, 32Gi, 110 pods; with the labels that every real node has."""
    name = f"node-{index:05d}"
    capacity = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {HOST: name, ZONE: zones[index % len(zones)]},
        },
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


def node_of_one_zone(index: int) -> client.Object:
    """The same, all in one zone: where pods are to be near one another."""
    return node(index, ZONES[:1])


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


PodMaker = Callable[[str, str], client.Object]
"""Makes the pod of a namespace and a name."""


def spreading(action: str) -> PodMaker:
    """pod-with-topology-spreading.yaml and its preferred twin, by `whenUnsatisfiable`."""
    constraint = {
        "maxSkew": 5,
        "topologyKey": ZONE,
        "whenUnsatisfiable": action,
        "labelSelector": {"matchLabels": {"color": "blue"}},
    }
    return _pod("blue", {"topologySpreadConstraints": [constraint]})


def required(kind: str, color: str, key: str) -> PodMaker:
    """pod-with-pod-affinity.yaml and pod-with-pod-anti-affinity.yaml."""
    rules = {"requiredDuringSchedulingIgnoredDuringExecution": [_term(color, key)]}
    return _pod(color, {"affinity": {kind: rules}})


def preferred(kind: str, color: str, key: str) -> PodMaker:
    """pod-with-preferred-pod-affinity.yaml and pod-with-preferred-pod-anti-affinity.yaml."""
    weighed = {"weight": 1, "podAffinityTerm": _term(color, key)}
    rules = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return _pod(color, {"affinity": {kind: rules}})


def _term(color: str, key: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key}


def _pod(color: str, spec: dict[str, Any]) -> PodMaker:
    def make(namespace: str, name: str) -> client.Object:
        made = basic_pod(namespace, name)
        made["metadata"]["labels"] = {"color": color}
        made["spec"].update(spec)
        return made

    return make


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Nodes, the pods bound before the clock starts, and the pods that are measured."""

    name: str
    nodes: int
    init_pods: int
    pods: int
    pod: PodMaker
    init_pod: PodMaker | None = None
    """Where the pods before are others than those measured."""
    node: Callable[[int], client.Object] = node


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("SchedulingBasic", 5000, 1000, 10000, basic_pod),
        Workload(
            "TopologySpreading", 5000, 5000, 5000, spreading("DoNotSchedule"), init_pod=basic_pod
        ),
        Workload(
            "PreferredTopologySpreading",
            5000,
            5000,
            5000,
            spreading("ScheduleAnyway"),
            init_pod=basic_pod,
        ),
        Workload(
            "SchedulingPodAntiAffinity",
            5000,
            1000,
            2000,
            required("podAntiAffinity", "green", HOST),
        ),
        Workload(
            "SchedulingPodAffinity",
            5000,
            5000,
            5000,
            required("podAffinity", "blue", ZONE),
            node=node_of_one_zone,
        ),
        Workload(
            "SchedulingPreferredPodAffinity",
            5000,
            5000,
            5000,
            preferred("podAffinity", "red", HOST),
        ),
        Workload(
            "SchedulingPreferredPodAntiAffinity",
            5000,
            5000,
            5000,
            preferred("podAntiAffinity", "yellow", HOST),
        ),
    )
}
