"""The Node object: what it says of itself at registration, and its status after that.

Pure. A `Template` is what the configuration says of all nodes of a process; `Node` is one of them
with what the agent remembers of it. Labels and taints belong to the API once the node is
registered (taints are written at creation only); capacity, addresses and the four conditions are
the node's own word. Answers to initialNode in ``pkg/kubelet/kubelet_node_status.go`` and to
``pkg/kubelet/nodestatus/setters.go``. Leaves out volumes in use.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whipstaff.node_agent import admission, provider, requirements, shutdown_plan, texts
from whipstaff.runtime import objects, quantities

Object = objects.Object

KUBELET_VERSION = "v1.36.3-whipstaff"
# Where metrics-server finds what a node uses, if that isn't the usual path.
RESOURCE_METRICS_PATH = "metrics.k8s.io/resource-metrics-path"
ATTACH_DETACH = "volumes.kubernetes.io/controller-managed-attach-detach"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, slots=True)
class Pressure:
    """A condition that says that something runs out: reason, text and event, without and with."""

    condition: str
    calm: tuple[str, str]
    tense: tuple[str, str]

    def words(self, *, tense: bool) -> tuple[str, str]:
        """The condition's reason and message."""
        return self.tense if tense else self.calm

    def event(self, *, tense: bool) -> str:
        """The reason of the event that tells of a change."""
        return self.words(tense=tense)[0].replace("Kubelet", "Node", 1)


PRESSURES = (
    Pressure(
        "MemoryPressure",
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    Pressure(
        "DiskPressure",
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    Pressure(
        "PIDPressure",
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
)

_IMAGES = 50
_NAMES_OF_AN_IMAGE = 5
_REQUIRED_CAPACITY = ("cpu", "memory", "pods", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Template:
    """What all nodes of a process have in common.

    Attributes:
        capacity: quantities by resource name, ``pods`` among them.
        reserved: quantities that pods can't have.
        labels: values by key; several values are dealt out to the nodes in turn.
        annotations, taints, provider_id: as registered; ``{name}`` in the provider ID is replaced.
        addresses: the nodes' IPs, at most one a family.
        address_type: what the Node calls them, ``InternalIP`` or ``ExternalIP``.
        port: where the agent's server listens.
        pod_cidrs: the ranges given to each node by the agent itself, by node name; mostly empty.
        info: what of ``nodeInfo`` the machine decides; made up where that is empty.
        declared: the features that the API may count on here (``declaredFeatures``), sorted.
    """

    capacity: Mapping[str, str]
    reserved: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    provider_id: str = ""
    addresses: Sequence[str] = ()
    address_type: str = "InternalIP"
    port: int = 10250
    pod_cidrs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    declared: Sequence[str] = ()

    @property
    def allocatable(self) -> dict[str, str]:
        """What is left for pods: capacity less what is reserved, and huge pages less memory."""
        left = {name: quantities.parse(quantity) for name, quantity in self.capacity.items()}
        for name, quantity in self.reserved.items():
            left[name] = max(left[name] - quantities.parse(quantity), quantities.parse(0))
        huge = sum(amount for name, amount in left.items() if name.startswith("hugepages-"))
        if huge and "memory" in left:
            left["memory"] = max(left["memory"] - huge, quantities.parse(0))
        return {
            name: self.capacity[name]
            if amount == quantities.parse(self.capacity[name])
            else quantities.format_quantity(amount, quantities.format_of(self.capacity[name]))
            for name, amount in left.items()
        }


@dataclass(slots=True)
class Node:
    """One node of this process and what the agent remembers of it.

    Attributes:
        name, index: its name, and its place among the nodes of the process.
        annotations: what it has in its metadata besides what all have.
        object: the Node as the API last showed it (pruned); None while it isn't registered.
        allocatable: its amounts, ``cpu`` in thousandths.
        usage: what its admitted pods hold.
        lease_version: the resourceVersion of its Lease; empty when that must be read first.
        registrations: how often it was registered; what beats for an earlier one stops.
        problems: why it isn't ready, from its provider.
        runtime_version: what its provider calls itself.
        handlers, features: what its runtime can do, as the status shows it.
        images: what takes room on it.
        pressures: the conditions that say that something runs out, those that are true.
        admitting: held while a pod is admitted, so that what is free stays so.
        shutting_down: whether its machine is about to go down.
        shown: its status without conditions as the API has it; None where only conditions change.
    """

    name: str
    index: int
    allocatable: Mapping[str, int]
    annotations: Mapping[str, str] = field(default_factory=dict)
    object: Object | None = None
    usage: admission.Usage = field(default_factory=admission.Usage)
    lease_version: str = ""
    registrations: int = 0
    problems: tuple[str, ...] = ()
    runtime_version: str = ""
    handlers: Sequence[Object] = ()
    features: Object | None = None
    images: Sequence[provider.Image] = ()
    pressures: frozenset[str] = frozenset()
    admitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    shutting_down: bool = False
    shown: Object | None = None


def make(names: Iterable[str], template: Template) -> dict[str, Node]:
    """The nodes of a process, by name."""
    amounts = requirements.amounts(template.allocatable)
    fleet = {name: Node(name, index, amounts) for index, name in enumerate(names)}
    if len(fleet) > 1:
        # They share an address and a port, and so their paths must tell them apart.
        for node in fleet.values():
            node.annotations = {RESOURCE_METRICS_PATH: _resource_metrics_path(node.name)}
    return fleet


def initial(node: Node, template: Template, now: float) -> Object:
    """The object to register a node with."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    labels = {
        "beta.kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
    }
    for key, values in template.labels.items():
        labels[key] = values[node.index % len(values)]
    spec: Object = {}
    if template.taints:
        spec["taints"] = [dict(taint) for taint in template.taints]
    if template.provider_id:
        spec["providerID"] = template.provider_id.replace("{name}", node.name)
    if template.pod_cidrs.get(node.name):
        spec["podCIDRs"] = list(template.pod_cidrs[node.name])
        spec["podCIDR"] = spec["podCIDRs"][0]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": labels,
            "annotations": {ATTACH_DETACH: "true", **node.annotations, **template.annotations},
        },
        "spec": spec,
        "status": status(node, template, (), now),
    }


def labels_to_restore(wanted: Object, existing: Object) -> dict[str, str]:
    """Labels that a node that was registered before must get again."""
    have = existing["metadata"].get("labels") or {}
    return {k: v for k, v in wanted["metadata"]["labels"].items() if have.get(k) != v}


def annotations_to_restore(wanted: Object, existing: Object) -> dict[str, str | None]:
    """Annotations about its process that such a node must get; None for one that it must lose."""
    path = objects.annotations(wanted).get(RESOURCE_METRICS_PATH)
    have = objects.annotations(existing).get(RESOURCE_METRICS_PATH)
    if path is None and have != _resource_metrics_path(objects.name(existing)):
        return {}
    return {} if path == have else {RESOURCE_METRICS_PATH: path}


def _resource_metrics_path(name: str) -> str:
    return f"/nodes/{name}/metrics/resource"


def status(node: Node, template: Template, old: Sequence[Object], now: float) -> Object:
    """What a node says of itself now.

    Args:
        node: the node.
        template: what it has in common with the others.
        old: the conditions that the API has, for the times of their transitions.
        now: seconds since the epoch.
    """
    return {**details(node, template), "conditions": conditions(node, template, old, now)}


def details(node: Node, template: Template) -> Object:
    """What a node says of itself besides its conditions."""
    addresses = [{"type": template.address_type, "address": ip} for ip in template.addresses]
    found: Object = {
        "capacity": dict(template.capacity),
        "allocatable": template.allocatable,
        "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": template.port}},
        "nodeInfo": _info(node, template),
    }
    if node.images:
        found["images"] = _images(node.images)
    if node.handlers:
        found["runtimeHandlers"] = list(node.handlers)
    if node.features is not None:
        found["features"] = node.features
    if template.declared:
        found["declaredFeatures"] = list(template.declared)
    return found


def extended_changes(shown: Object) -> dict[str, str | None]:
    """What is wrong in a node's allocatable of resources that others have put into its capacity.

    All that the capacity has may be allocated, and nothing else; None takes away. Source:
    ``pkg/kubelet/nodestatus/setters.go``, MachineInfo.

    Args:
        shown: the Node, of which `records.prune_node` keeps these resources only.
    """
    capacity, allocatable = (
        shown["status"].get(field) or {} for field in ("capacity", "allocatable")
    )
    changes: dict[str, str | None] = {
        name: amount for name, amount in capacity.items() if allocatable.get(name) != amount
    }
    return changes | dict.fromkeys(allocatable.keys() - capacity.keys())


def was_rebooted(found: Object, template: Template) -> bool:
    """Whether the machine has started again since its Node was written.

    Args:
        found: the status that the API has.
        template: what the machine says now.
    """
    before = (found.get("nodeInfo") or {}).get("bootID")
    return bool(before and template.info and before != template.info.get("bootID"))


def conditions(node: Node, template: Template, old: Sequence[Object], now: float) -> list[Object]:
    """The four conditions, Ready last; each keeps the time of its last transition."""
    before = {condition["type"]: condition for condition in old}
    found = []
    for pressure in PRESSURES:
        kind = pressure.condition
        tense = kind in node.pressures
        words = pressure.words(tense=tense)
        found.append(_condition(before.get(kind), now, kind, str(tense), *words))
    problems = list(node.problems)
    if node.shutting_down:
        problems.append(shutdown_plan.PROBLEM)
    missing = [name for name in _REQUIRED_CAPACITY if name not in template.capacity]
    if missing:
        problems.append(f"missing node capacity for resources: {', '.join(missing)}")
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        ready = ("False", "KubeletNotReady", text)
    else:
        ready = ("True", "KubeletReady", "kubelet is posting ready status")
    return [*found, _condition(before.get("Ready"), now, "Ready", *ready)]


def differs(shown: Sequence[Object], wanted: Sequence[Object]) -> bool:
    """Whether the API shows other conditions than the node's word, heartbeats aside."""
    have = {c["type"]: (c.get("status"), c.get("reason"), c.get("message")) for c in shown}
    return any(
        have.get(c["type"]) != (c["status"], c.get("reason"), c.get("message")) for c in wanted
    )


def lease(node: Node, uid: str, duration: int, now: float) -> Object:
    """The Lease that says that the node is alive: owned by the Node, and with it garbage."""
    body: Object = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node.name,
            "namespace": "kube-node-lease",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": uid}
            ],
        },
        "spec": {
            "holderIdentity": node.name,
            "leaseDurationSeconds": duration,
            "renewTime": objects.format_micro_time(now),
        },
    }
    if node.lease_version:
        body["metadata"]["resourceVersion"] = node.lease_version
    return body


def _condition(
    old: Object | None, now: float, kind: str, status: str, reason: str, message: str
) -> Object:
    changed = old is None or old.get("status") != status
    return {
        "type": kind,
        "status": status,
        "lastHeartbeatTime": texts.timestamp(now),
        "lastTransitionTime": texts.timestamp(now)
        if changed or old is None
        else old.get("lastTransitionTime"),
        "reason": reason,
        "message": message,
    }


def _images(found: Iterable[provider.Image]) -> list[Object]:
    """The largest images, the largest first; in the same order each time, or they would differ."""
    largest = sorted(found, key=lambda image: (-image.size, image.names, image.ref))[:_IMAGES]
    return [
        {"names": list(image.names[:_NAMES_OF_AN_IMAGE]) or None, "sizeBytes": image.size}
        for image in largest
    ]


def _info(node: Node, template: Template) -> Object:
    return {
        **(template.info or _made_up(node)),
        "containerRuntimeVersion": node.runtime_version,
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }


def _made_up(node: Node) -> Object:
    """A machine of its own for a node that has none; the same each time."""
    identity = hashlib.sha256(node.name.encode()).hexdigest()[:32]
    boot = hashlib.sha256(f"{node.name}/boot".encode()).hexdigest()[:32]
    return {
        "machineID": identity,
        "systemUUID": str(uuid.UUID(identity)),
        "bootID": str(uuid.UUID(boot)),
        "kernelVersion": platform.release(),
        "osImage": "Whipstaff",
    }
