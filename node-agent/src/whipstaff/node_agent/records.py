"""Pods at rest: kept as their JSON, read when something is to be done with them.

Most pods of a fleet just run, so between two events a pod is a handful of short strings and some
two kilobytes of bytes here, where the decoded object would take five times that. Decoding costs
15 µs and happens when a worker wakes up. Pure; answers to no part of upstream.
"""

from __future__ import annotations

import orjson

from whipstaff.node_agent import provider
from whipstaff.runtime import objects

Object = objects.Object

PACKED = "packed"

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def pack(pod: Object) -> Object:
    """What an informer is to keep of a pod: enough to know it by, and its JSON."""
    metadata = pod["metadata"]
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if annotations is not None:
        annotations.pop(_LAST_APPLIED, None)
    known = {
        key: metadata[key]
        for key in ("name", "namespace", "uid", "resourceVersion")
        if key in metadata
    }
    return {
        "metadata": known,
        "node": pod["spec"].get("nodeName", ""),
        # Copied, because orjson's own bytes keep the whole buffer that they were written into.
        PACKED: bytes(memoryview(orjson.dumps(pod))),
    }


def unpack(packed: bytes) -> Object:
    """The pod as the API has it."""
    pod: Object = orjson.loads(packed)
    return pod


def orphan(found: provider.RuntimePod) -> Object:
    """A pod that stands for something that runs and has no pod: just enough to stop it."""
    names = dict.fromkeys(run.name for run in found.containers)
    return {
        "metadata": {
            "name": found.name,
            "namespace": found.namespace,
            "uid": found.uid,
            "resourceVersion": "0",
        },
        "spec": {
            "containers": [{"name": name} for name in names],
            "terminationGracePeriodSeconds": 1,
        },
    }


def _extended(amounts: Object) -> Object:
    """Of a node's resources those that somebody else has put there, as device plugins do."""
    return {k: v for k, v in amounts.items() if "/" in k and "kubernetes.io/" not in k}


def prune_node(node: Object) -> Object:
    """What is to be kept of a Node: what admission, providers and heartbeats look at."""
    metadata = node["metadata"]
    status = node.get("status") or {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            key: metadata[key]
            for key in ("name", "uid", "resourceVersion", "labels")
            if key in metadata
        },
        "spec": {
            key: value
            for key, value in (node.get("spec") or {}).items()
            if key in {"podCIDR", "podCIDRs", "taints", "unschedulable"}
        },
        "status": {
            "conditions": status.get("conditions") or [],
            **{key: status[key] for key in ("features", "declaredFeatures") if key in status},
            **{
                key: extended
                for key in ("capacity", "allocatable")
                if (extended := _extended(status.get(key) or {}))
            },
        },
    }
