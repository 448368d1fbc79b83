"""What a requeueing case is made of: objects in a line each, changes, and who is tried again.

A case is one of `CoreResourceEnqueueTestCases` in upstream's
`test/integration/scheduler/queueing/queue.go`, which are the specification of when a pod that was
refused is tried again. Its `number` is the position there.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]

ZONE = "topology.kubernetes.io/zone"
BETA_ZONE = "failure-domain.beta.kubernetes.io/zone"
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
BOUND = {"pv.kubernetes.io/bind-completed": "true"}


@dataclasses.dataclass(frozen=True)
class New:
    """An object comes."""

    body: Object


@dataclasses.dataclass(frozen=True)
class Changed:
    """An object changes, by a patch; `part` is a subresource."""

    kind: str
    name: str
    patch: Object
    part: str | None = None


@dataclasses.dataclass(frozen=True)
class Gone:
    """An object goes."""

    kind: str
    name: str


Change = New | Changed | Gone


@dataclasses.dataclass(frozen=True)
class Case:
    """`pods` are refused by `plugins`; then come `changes`; then `requeued` are tried again."""

    number: int
    name: str
    plugins: tuple[str, ...]
    nodes: tuple[Object, ...]
    pods: tuple[Object, ...]
    changes: tuple[Change, ...]
    requeued: frozenset[str]
    there: tuple[Object, ...] = ()
    """What is there at first beside nodes: pods on nodes, volumes, claims and their like."""
    refused_by: frozenset[str] = frozenset()
    """All the plugins that have a say in it, where that is to be looked at."""
    features: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Toleration keys, and the node feature that a pod needs which has such a toleration."""


def case(
    number: int,
    name: str,
    plugins: str,
    *,
    nodes: Iterable[Object],
    pods: Iterable[Object],
    changes: Iterable[Change],
    requeued: str,
    there: Iterable[Object] = (),
    refused_by: str = "",
    features: Mapping[str, str] | None = None,
) -> Case:
    """A case; `plugins`, `requeued` and `refused_by` are names with spaces between them."""
    return Case(
        number,
        name,
        tuple(plugins.split()),
        tuple(nodes),
        tuple(pods),
        tuple(changes),
        frozenset(requeued.split()),
        tuple(there),
        frozenset(refused_by.split()),
        features or {},
    )


# Nodes and pods.


def labelled(text: str) -> dict[str, str]:
    """Labels or resources of "a=b c=d"."""
    return dict(pair.split("=") for pair in text.split())


def node(
    name: str = "node",
    labels: str = "",
    *,
    room: str = "",
    taints: Iterable[Mapping[str, str]] = (),
    unschedulable: bool = False,
) -> Object:
    """A node with room for 32 pods unless `room` ("cpu=2 pods=1") says otherwise."""
    spec: Object = {"taints": list(taints)}
    if unschedulable:
        spec["unschedulable"] = True
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labelled(labels)},
        "spec": spec,
        "status": room_of(room),
    }


def room_of(room: str) -> Object:
    """A node's status."""
    resources = {"pods": "32", **labelled(room)}
    return {"capacity": resources, "allocatable": resources}


def grown(name: str, room: str) -> Changed:
    """A node that has `room` from now on; what isn't named in it is as it was."""
    return Changed("Node", name, {"status": room_of(room)}, "status")


def pod(
    name: str,
    labels: str = "",
    *,
    asks: str = "",
    on: str = "",
    tolerates: Iterable[str] = (),
    claim: str = "",
    ports: Iterable[int] = (),
    **spec: Any,
) -> Object:
    """A pod; `asks` is "cpu=4", `on` its node, `claim` the claim that it uses."""
    amounts = labelled(asks)
    extended = {key: amount for key, amount in amounts.items() if "/" in key}
    container: Object = {
        "name": "main",
        "image": "pause",
        "resources": {"requests": amounts, "limits": extended},
        "ports": [{"containerPort": 8080, "hostPort": port} for port in ports],
    }
    if on:
        spec["nodeName"] = on
    if claim:
        spec["volumes"] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}}]
    if tolerates:
        spec["tolerations"] = [tolerating(key) for key in tolerates]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labelled(labels)},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }


def tolerating(key: str) -> Object:
    """A toleration of every taint with `key`."""
    return {"key": key, "operator": "Exists"}


def wanting(label: str, *values: str) -> Object:
    """Affinity to nodes whose `label` has one of `values`."""
    term = {"matchExpressions": [{"key": label, "operator": "In", "values": list(values)}]}
    return {"nodeAffinity": _required({"nodeSelectorTerms": [term]})}


def wanting_node(name: str) -> Object:
    """Affinity to the node of that name, as a DaemonSet's pods have it."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    return {"nodeAffinity": _required({"nodeSelectorTerms": [term]})}


def near(label: str, topology: str) -> Object:
    """Affinity to pods that have `label`."""
    return {"podAffinity": _required([_term(label, topology)])}


def far(label: str, topology: str) -> Object:
    """Anti-affinity to pods that have `label`."""
    return {"podAntiAffinity": _required([_term(label, topology)])}


def spread(label: str, topology: str, min_domains: int | None = None) -> list[Object]:
    """No more than one pod with `label` a domain more than in the emptiest."""
    constraint: Object = {
        "maxSkew": 1,
        "topologyKey": topology,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": _has(label),
    }
    if min_domains is not None:
        constraint["minDomains"] = min_domains
    return [constraint]


def _required(what: Any) -> Object:
    return {"requiredDuringSchedulingIgnoredDuringExecution": what}


def _term(label: str, topology: str) -> Object:
    return {"labelSelector": _has(label), "topologyKey": topology}


def _has(label: str) -> Object:
    return {"matchExpressions": [{"key": label, "operator": "Exists"}]}


# Volumes.


def volume(
    name: str,
    labels: str = "",
    *,
    mode: str = "ReadWriteMany",
    storage_class: str = "",
    nodes: tuple[str, str] | None = None,
    csi: tuple[str, str] | None = None,
) -> Object:
    """A volume; `nodes` are a label and its value, `csi` a driver and a handle."""
    driver, handle = csi or ("", "")
    source: Object = {"hostPath": {"path": "/tmp", "type": "DirectoryOrCreate"}}
    spec: Object = {
        "accessModes": [mode],
        "capacity": {"storage": "1Mi"},
        "storageClassName": storage_class,
        **({"csi": {"driver": driver, "volumeHandle": handle}} if csi else source),
    }
    if nodes is not None:
        spec["nodeAffinity"] = reached_from(*nodes)
    return {
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labelled(labels)},
        "spec": spec,
    }


def reached_from(label: str, value: str) -> Object:
    """A volume's affinity to nodes."""
    term = {"matchExpressions": [{"key": label, "operator": "In", "values": [value]}]}
    return {"required": {"nodeSelectorTerms": [term]}}


def claim(
    name: str, to: str = "", *, mode: str = "ReadWriteMany", storage_class: str | None = None
) -> Object:
    """A claim, bound to the volume `to`."""
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    if to:
        spec["volumeName"] = to
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "annotations": dict(BOUND) if to else {}},
        "spec": spec,
    }


def bound(name: str, to: str) -> Changed:
    """A claim that becomes bound."""
    patch = {"metadata": {"annotations": BOUND}, "spec": {"volumeName": to}}
    return Changed("PersistentVolumeClaim", name, patch)


def storage_class(
    name: str, *, zones: Iterable[str] = (), mode: str = "WaitForFirstConsumer", labels: str = ""
) -> Object:
    """A class; `zones` are where its volumes can be made."""
    made: Object = {
        "kind": "StorageClass",
        "metadata": {"name": name, "labels": labelled(labels)},
        "provisioner": "p",
        "volumeBindingMode": mode,
    }
    if zones:
        made["allowedTopologies"] = made_in(*zones)
    return made


def made_in(*zones: str) -> list[Object]:
    """Where a class's volumes can be made."""
    return [{"matchLabelExpressions": [{"key": ZONE, "values": list(zones)}]}]


def csi_node(name: str, **limits: int) -> Object:
    """A CSINode: how many volumes of each driver the node takes, `_` for `.` in names."""
    drivers = [
        {"name": driver.replace("_", "."), "nodeID": name, "allocatable": {"count": count}}
        for driver, count in limits.items()
    ]
    return {"kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": drivers}}


def csi_driver(name: str, *, capacity: bool) -> Object:
    """A driver that says, or doesn't, how much room it has."""
    return {"kind": "CSIDriver", "metadata": {"name": name}, "spec": {"storageCapacity": capacity}}


def capacity(name: str, storage_class: str, amount: str) -> Object:
    """How much room there is for volumes of a class."""
    return {
        "kind": "CSIStorageCapacity",
        "metadata": {"name": name},
        "storageClassName": storage_class,
        "capacity": amount,
    }


def attachment(name: str, volume: str, *, to: str, by: str) -> Object:
    """A volume that is attached to a node by a driver."""
    return {
        "kind": "VolumeAttachment",
        "metadata": {"name": name},
        "spec": {"attacher": by, "nodeName": to, "source": {"persistentVolumeName": volume}},
    }
