"""Workloads become the pods that their controllers would create.

No loop runs here. A Deployment's pods belong to a ReplicaSet, as the real ones do, because the
selectors of ReplicaSets and StatefulSets count where pods are spread by default; so that comes out
as well. A StatefulSet brings its claims, a DaemonSet a pod for each node that it is meant for,
which is asked of the engine's own plugins.

Answers to `pkg/controller/deployment`, `replicaset`, `statefulset`, `job` and `daemon`, as far as
they say which pods there are. Left out: CronJobs, which have no pods until their time comes, and
what rollouts do to pods that are there already.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from whipstaff.scheduler import offline, pods, profile, snapshot
from whipstaff.scheduler.plugins import nodeaffinity, nodename, tainttoleration
from whipstaff.scheduler.simulation import documents

Object = dict[str, Any]

WORKLOADS = frozenset(
    {
        ("v1", "Pod"),
        ("v1", "ReplicationController"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "Job"),
    }
)
"""The kinds that pods come from."""

_HASH = "pod-template-hash"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_DAEMON_TAINTS = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


@dataclasses.dataclass(slots=True)
class Expanded:
    """What a workload amounts to."""

    pods: list[Object]
    others: list[Object] = dataclasses.field(default_factory=list)
    """What comes with the pods: ReplicaSets, claims."""


def is_workload(obj: Mapping[str, Any]) -> bool:
    """Whether pods come from the object."""
    return (obj.get("apiVersion", ""), obj.get("kind", "")) in WORKLOADS


def label(obj: Mapping[str, Any]) -> str:
    """What tables call the workload: `Deployment default/web`."""
    return f"{obj['kind']} {obj['metadata']['namespace']}/{name_of(obj)}"


def name_of(obj: Mapping[str, Any]) -> str:
    """The object's name; what names are generated from, where it has none yet."""
    metadata = obj["metadata"]
    return str(metadata.get("name") or metadata["generateName"].rstrip("-"))


def template(obj: Object) -> Object:
    """The pod that a workload makes several of; a pod itself.

    Raises:
        LookupError: the object is no workload.
    """
    if not is_workload(obj):
        raise LookupError(f"no pods come from a {obj['kind']}")
    if obj["kind"] == "Pod":
        return obj
    return next(iter(_pods(obj, 1)))


def expand(
    document: documents.Document, cluster: snapshot.Snapshot, classes: Iterable[Object] = ()
) -> Expanded:
    """The pods of a workload; those of a DaemonSet for the nodes of `cluster`.

    `classes` are the StorageClasses, of which one may be the default.

    Raises:
        errors.ConfigurationError: a field has a value that can't be used.
    """
    obj = document.obj
    spec = obj["spec"]
    match obj["kind"]:
        case "Pod":
            return Expanded([{**obj, "metadata": {**obj["metadata"], "name": name_of(obj)}}])
        case "Deployment":
            replica_set = _replica_set(obj)
            return Expanded(_pods(replica_set, _replicas(document)), [replica_set])
        case "StatefulSet":
            count = _replicas(document)
            made = _pods(obj, count, (spec.get("ordinals") or {}).get("start") or 0)
            claims = [claim for pod in made for claim in _claims(obj, pod, classes)]
            return Expanded(made, [obj, *claims])
        case "DaemonSet":
            return Expanded(list(_daemons(obj, cluster)))
        case "Job":
            return Expanded(_pods(obj, _parallel(spec)))
    return Expanded(_pods(obj, _replicas(document)), [obj])


def _replicas(document: documents.Document) -> int:
    count = document.obj["spec"].get("replicas")
    if count is None:
        return 1
    if count < 0:
        raise document.problem("spec.replicas: must not be negative")
    return int(count)


def _parallel(spec: Mapping[str, Any]) -> int:
    if spec.get("suspend"):
        return 0
    parallel = spec.get("parallelism")
    parallel = 1 if parallel is None else max(parallel, 0)
    completions = spec.get("completions")
    return parallel if completions is None else min(parallel, completions)


def _replica_set(deployment: Object) -> Object:
    spec = deployment["spec"]
    # An API server's own hash is of the template with all defaults in it; this one is as good.
    digest = hashlib.sha256(repr(spec["template"]).encode()).hexdigest()[:10]
    metadata = spec["template"].get("metadata") or {}
    labels = {**(metadata.get("labels") or {}), _HASH: digest}
    selector = spec.get("selector") or {}
    matching = {**(selector.get("matchLabels") or {}), _HASH: digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "namespace": deployment["metadata"]["namespace"],
        },
        "spec": {
            "selector": {**selector, "matchLabels": matching},
            "template": {**spec["template"], "metadata": {**metadata, "labels": labels}},
        },
    }


def _pods(owner: Object, count: int, start: int = 0) -> list[Object]:
    metadata, made = owner["metadata"], owner["spec"]["template"]
    name = name_of(owner)
    of_template = made.get("metadata") or {}
    labels, annotations = of_template.get("labels") or {}, of_template.get("annotations") or {}
    references = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": name,
            "uid": metadata.get("uid") or f"simulated-{owner['kind']}-{name}",
            "controller": True,
        }
    ]
    numbered = owner["kind"] == "StatefulSet"
    found = []
    for index in range(start, start + count):
        pod_name = f"{name}-{index}" if numbered else f"{name}-{index + 1}"
        own = {
            "statefulset.kubernetes.io/pod-name": pod_name,
            "apps.kubernetes.io/pod-index": str(index),
        }
        found.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": pod_name,
                    "namespace": metadata["namespace"],
                    "labels": {**labels, **own} if numbered else labels,
                    "annotations": annotations,
                    "ownerReferences": references,
                },
                "spec": _with_claims(owner, pod_name) if numbered else made["spec"],
            }
        )
    return found


def _with_claims(stateful_set: Object, pod_name: str) -> Object:
    """The spec of a StatefulSet's pod, whose claims take the place of volumes of their names."""
    spec: Object = stateful_set["spec"]["template"]["spec"]
    names = [
        claim["metadata"]["name"]
        for claim in stateful_set["spec"].get("volumeClaimTemplates") or ()
    ]
    if not names:
        return spec
    others = [volume for volume in spec.get("volumes") or () if volume["name"] not in names]
    claimed = [
        {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{pod_name}"}}
        for name in names
    ]
    return {**spec, "volumes": [*others, *claimed]}


def _claims(stateful_set: Object, pod: Object, classes: Iterable[Object]) -> Iterator[Object]:
    default = next(
        (
            found["metadata"]["name"]
            for found in classes
            if (found["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
        ),
        None,
    )
    for claim in stateful_set["spec"].get("volumeClaimTemplates") or ():
        spec = dict(claim["spec"])
        if spec.get("storageClassName") is None and default is not None:
            spec["storageClassName"] = default
        name = f"{claim['metadata']['name']}-{pod['metadata']['name']}"
        namespace = pod["metadata"]["namespace"]
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "uid": f"simulated-{name}"},
            "spec": spec,
            "status": {"phase": "Pending"},
        }


def _daemons(daemon_set: Object, cluster: snapshot.Snapshot) -> Iterator[Object]:
    """A pod for each node that it is meant for. Source: `NodeShouldRunDaemonPod`."""
    single = _pods(daemon_set, 1)[0]
    spec = single["spec"]
    taints = list(_DAEMON_TAINTS)
    if spec.get("hostNetwork"):
        taints.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    tolerations = [
        *(spec.get("tolerations") or ()),
        *({"key": key, "operator": "Exists", "effect": effect} for key, effect in taints),
    ]
    spec = {**spec, "tolerations": tolerations}
    for name in _meant(offline.info_of({**single, "spec": spec}), cluster):
        yield {
            **single,
            "metadata": {**single["metadata"], "name": f"{name_of(daemon_set)}-{name}"},
            "spec": {**spec, "affinity": _only(spec.get("affinity") or {}, name)},
        }


def _meant(pod: pods.PodInfo, cluster: snapshot.Snapshot) -> list[str]:
    rows = np.arange(len(cluster))
    for plugin in (
        nodename.NodeName(),
        nodeaffinity.NodeAffinity(),
        tainttoleration.TaintToleration(),
    ):
        state: dict[Any, Any] = {}
        if hasattr(plugin, "pre_filter"):
            plugin.pre_filter(state, pod, cluster)
        verdict = profile.filter_of(plugin).plugin.filter(state, pod, cluster, rows)
        if verdict is not None:
            rows = rows[verdict.codes == 0]
    return [cluster.names[row] for row in rows.tolist()]


def _only(affinity: Mapping[str, Any], node_name: str) -> Object:
    """The affinity of a DaemonSet's pod: for its node. Source: `ReplaceDaemonSetPodNodeName`."""
    required = {
        "nodeSelectorTerms": [
            {
                "matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": [node_name]},
                ]
            }
        ]
    }
    nodes = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }
    return {**affinity, "nodeAffinity": nodes}
