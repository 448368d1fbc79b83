"""The workloads of upstream's scheduler_perf: how many nodes and pods, and what they look like.

Answers to test/integration/scheduler_perf (the performance-config.yaml files and their templates).
All pods are in one namespace here. Left out: workloads that need volumes, devices or churn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from whipstaff.runtime import client, resources

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
ZONES = ("zone1", "zone2", "zone3")
HIGH_PRIORITY: client.Object = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "high-priority"},
    "value": 10,
}


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
    return _colored("blue", {"topologySpreadConstraints": [constraint]})


def required(kind: str, color: str, key: str) -> PodMaker:
    """pod-with-pod-affinity.yaml and pod-with-pod-anti-affinity.yaml."""
    rules = {"requiredDuringSchedulingIgnoredDuringExecution": [_term(color, key)]}
    return _colored(color, {"affinity": {kind: rules}})


def preferred(kind: str, color: str, key: str) -> PodMaker:
    """pod-with-preferred-pod-affinity.yaml and pod-with-preferred-pod-anti-affinity.yaml."""
    weighed = {"weight": 1, "podAffinityTerm": _term(color, key)}
    rules = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return _colored(color, {"affinity": {kind: rules}})


def _term(color: str, key: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key}


def _colored(color: str, spec: dict[str, Any]) -> PodMaker:
    def make(namespace: str, name: str) -> client.Object:
        made = basic_pod(namespace, name)
        made["metadata"]["labels"] = {"color": color}
        made["spec"].update(spec)
        return made

    return make


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
    pod: PodMaker
    init_pod: PodMaker | None = None
    """Where the pods before are others than those measured."""
    node: Callable[[int], client.Object] = node
    objects: tuple[tuple[resources.Resource, client.Object], ...] = ()
    arrivals: tuple[str, ...] = ("backlog", "stream")
    """Without `backlog` the init pods have to be there before the measured ones."""


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
        Workload(
            "PreemptionBasic",
            1000,
            4000,
            1000,
            high_priority_pod,
            init_pod=low_priority_pod,
            objects=((resources.PRIORITYCLASSES, HIGH_PRIORITY),),
            arrivals=("stream",),
        ),
    )
}
