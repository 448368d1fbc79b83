"""Nodes and pods in a line each, for tests of plugins.

No loop runs here. The objects are raw ones, as the API server would give them, with only what was
asked for in them; `cluster` puts some into a snapshot, `statuses` and `scores` ask a plugin about
it as a scheduling cycle would, pre_filter or pre_score first, and `may_help` as the queue would.

Answers to `pkg/scheduler/testing/wrappers.go`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from whipstaff.scheduler import (
    cluster_events,
    evaluation,
    framework,
    pods,
    profile,
    queueing_hints,
    snapshot,
)

Object = dict[str, Any]


def node(
    name: str,
    *,
    cpu: str = "4",
    memory: str = "32Gi",
    max_pods: str = "110",
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Mapping[str, str]] = (),
    unschedulable: bool = False,
    images: Mapping[str, int] | None = None,
    more: Mapping[str, str] | None = None,
) -> Object:
    """A node; `images` are bytes by name, `more` other allocatable resources."""
    spec: Object = {}
    if taints:
        spec["taints"] = list(taints)
    if unschedulable:
        spec["unschedulable"] = True
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": max_pods, **(more or {})},
            "images": [
                {"names": [image], "sizeBytes": size} for image, size in (images or {}).items()
            ],
        },
    }


def container(
    requests: Mapping[str, str] | None = None,
    *,
    name: str = "main",
    image: str = "",
    sidecar: bool = False,
    host_ports: Sequence[int | Mapping[str, Any]] = (),
) -> Object:
    """A container; a host port is a number, or a port with `hostIP` and `protocol`."""
    made: Object = {"name": name, "image": image}
    if requests is not None:
        made["resources"] = {"requests": dict(requests)}
    if sidecar:
        made["restartPolicy"] = "Always"
    if host_ports:
        made["ports"] = [
            {"containerPort": 80, **({"hostPort": port} if isinstance(port, int) else port)}
            for port in host_ports
        ]
    return made


def pod(
    name: str,
    requests: Mapping[str, str] | None = None,
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    containers: Sequence[Object] | None = None,
    node_name: str = "",
    status: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A pod of one container with these requests, or of `containers`; `spec` as in the API."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "labels": dict(labels or {}),
        },
        "spec": {
            "containers": list(containers or [container(requests)]),
            **({"nodeName": node_name} if node_name else {}),
            **spec,
        },
        "status": dict(status or {"phase": "Pending"}),
    }


def pod_info(
    name: str = "pod", requests: Mapping[str, str] | None = None, **more: Any
) -> pods.PodInfo:
    """`pod`, read."""
    return pods.PodInfo.from_object(pod(name, requests, **more))


def cluster(nodes: Iterable[Object], placed: Iterable[Object] = ()) -> snapshot.Snapshot:
    """A snapshot of these nodes, with pods that have a node name."""
    made = snapshot.Snapshot(capacity=1)
    for raw in nodes:
        made.upsert_node(raw)
    for raw in placed:
        made.add_pod(pods.PodInfo.from_object(raw))
    return made


def statuses(
    plugin: framework.Plugin, pod: pods.PodInfo, nodes: snapshot.Snapshot
) -> dict[str, framework.Status]:
    """What the plugin's filter says of each node; what its pre_filter says, under "", if no."""
    state: framework.CycleState = {}
    if isinstance(plugin, framework.PreFilterPlugin):
        answer = plugin.pre_filter(state, pod, nodes)
        if isinstance(answer, framework.Status) and not answer.is_success:
            return {"": answer}
    verdict = profile.filter_of(plugin).plugin.filter(state, pod, nodes, framework.ALL_ROWS)
    found = dict.fromkeys(nodes.names, framework.SUCCESS)
    if verdict is not None:
        for row in np.flatnonzero(verdict.codes).tolist():
            reasons = verdict.texts[int(verdict.reasons[row])]
            found[nodes.names[row]] = framework.Status(
                framework.Code(int(verdict.codes[row])), tuple(reasons)
            )
    return found


def scores(
    plugin: framework.Plugin, pod: pods.PodInfo, nodes: snapshot.Snapshot
) -> dict[str, int] | None:
    """The plugin's score of each node, normalised; None if its pre_score skips the pod."""
    entry = profile.scorer_of(plugin)
    state: framework.CycleState = {}
    rows = np.arange(len(nodes))
    if evaluation.skips_score(entry, pod, nodes, state, rows):
        return None
    raw = entry.plugin.score(state, pod, nodes, framework.ALL_ROWS)
    weighted = evaluation.weigh(entry, pod, state, raw)
    return dict(zip(nodes.names, weighted.tolist(), strict=True))


def may_help(
    plugin: framework.Plugin,
    pod: pods.PodInfo,
    event: cluster_events.ClusterEvent,
    old: Object | None,
    new: Object | None,
) -> bool:
    """Whether a pod that the plugin refused is tried again when this happens."""
    wanted = queueing_hints.interests({plugin.name: plugin})
    concerned = queueing_hints.concern(wanted, event)
    refused = frozenset({plugin.name})
    found = queueing_hints.verdict(concerned, refused, frozenset(), pod, old, new)
    return found != queueing_hints.SKIP
