"""What the nodes and pods of upstream's scheduler_perf look like.

Answers to test/integration/scheduler_perf/templates. Different: priorities come from a
PriorityClass, as an API server with its usual admission wants it, and pods that get evicted have no
grace period, as nobody runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from whipstaff.runtime import client

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
ZONES = ("zone1", "zone2", "zone3")
HIGH_PRIORITY: client.Object = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "high-priority"},
    "value": 10,
}
SERVICE: client.Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "perf", "namespace": "default"},
    "spec": {"selector": {"app": "scheduler-perf"}, "ports": [{"port": 80, "targetPort": 8000}]},
}
TEAM = {"team": "devops"}
"""The labels of every namespace."""
BIG_NODE = "scheduler-perf-node"


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


def node_after_big(index: int) -> client.Object:
    """First node-with-name.yaml, which takes any number of pods, then node-default.yaml."""
    if index:
        return node(index)
    big = node(index)
    big["metadata"]["name"] = big["metadata"]["labels"][HOST] = BIG_NODE
    for amounts in (big["status"]["capacity"], big["status"]["allocatable"]):
        amounts["pods"] = "90000"
    return big


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
    return colored("blue", {"topologySpreadConstraints": [constraint]})


def required(kind: str, color: str, key: str, *, team: bool = False) -> PodMaker:
    """pod-with-pod-affinity.yaml and the like; `team`: the -ns-selector ones."""
    rules = {"requiredDuringSchedulingIgnoredDuringExecution": [_term(color, key, team)]}
    return colored(color, {"affinity": {kind: rules}})


def preferred(kind: str, color: str, key: str, *, team: bool = False) -> PodMaker:
    """pod-with-preferred-pod-affinity.yaml and the like; `team`: the -ns-selector ones."""
    weighed = {"weight": 1, "podAffinityTerm": _term(color, key, team)}
    rules = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return colored(color, {"affinity": {kind: rules}})


def in_two_zones(namespace: str, name: str) -> client.Object:
    """pod-with-node-affinity.yaml."""
    wanted = {"key": ZONE, "operator": "In", "values": list(ZONES[:2])}
    return _on_nodes(basic_pod(namespace, name), {"matchExpressions": [wanted]})


def of_one_node(namespace: str, name: str) -> client.Object:
    """daemonset-pod.yaml: without requests, for the first node alone."""
    pod = basic_pod(namespace, name)
    del pod["spec"]["containers"][0]["resources"]
    wanted = {"key": "metadata.name", "operator": "In", "values": [BIG_NODE]}
    return _on_nodes(pod, {"matchFields": [wanted]})


def of_service(namespace: str, name: str) -> client.Object:
    """pod-with-label.yaml: without requests, selected by `SERVICE`."""
    pod = basic_pod(namespace, name)
    del pod["spec"]["containers"][0]["resources"]
    pod["metadata"]["labels"] = dict(SERVICE["spec"]["selector"])
    return pod


def too_large_pod(namespace: str, name: str) -> client.Object:
    """pod-high-priority-large-cpu.yaml: it fits on no node and comes before all others."""
    pod = high_priority_pod(namespace, name)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "9", "memory": "500Mi"}}
    return pod


def _on_nodes(pod: client.Object, term: dict[str, Any]) -> client.Object:
    rules = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    pod["spec"]["affinity"] = {"nodeAffinity": rules}
    return pod


def _term(color: str, key: str, team: bool) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key}
    return {**term, "namespaceSelector": {"matchLabels": TEAM}} if team else term


def colored(color: str, spec: dict[str, Any]) -> PodMaker:
    """Pods with the label that the others look for."""

    def make(namespace: str, name: str) -> client.Object:
        made = basic_pod(namespace, name)
        made["metadata"]["labels"] = {"color": color}
        made["spec"].update(spec)
        return made

    return make
