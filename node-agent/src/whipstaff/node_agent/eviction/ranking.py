"""Which pod goes first when something runs out, and what evicted pods are told.

The order is: those that use more than they asked for, then those of lower priority, then those
that use the most above what they asked for; of which nothing is known comes before all. Pure.
Answers to the ranking functions and evictionMessage in ``pkg/kubelet/eviction/helpers.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from whipstaff.node_agent import containers, requirements
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.runtime import objects, quantities

Object = objects.Object
Kind = Literal["root", "logs", "volumes"]

_EVERYTHING: tuple[Kind, ...] = ("root", "logs", "volumes")


@dataclass(frozen=True, slots=True)
class Files:
    """What some files take up; None is not known."""

    used: int | None = None
    inodes: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """What a container uses.

    Attributes:
        memory: its working set in bytes.
        root, logs: its writable layer and its logs.
    """

    name: str
    memory: int | None = None
    root: Files = Files()
    logs: Files = Files()


@dataclass(frozen=True, slots=True)
class PodUsage:
    """What a pod uses.

    Attributes:
        memory: its working set in bytes.
        ephemeral: bytes of local storage in all: writable layers, logs, local volumes.
        volumes: by name.
    """

    memory: int | None = None
    processes: int | None = None
    ephemeral: int | None = None
    containers: Sequence[ContainerUsage] = ()
    volumes: Mapping[str, Files] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    """An active pod and what it uses, if that is known."""

    pod: Object
    usage: PodUsage | None = None

    @property
    def uid(self) -> str:
        """The pod's."""
        uid: str = self.pod["metadata"]["uid"]
        return uid

    @property
    def priority(self) -> int:
        """The pod's."""
        return int(self.pod["spec"].get("priority") or 0)


def rank(signal: str, pods: Iterable[Pod], *, dedicated: bool) -> list[Pod]:
    """Pods in the order in which they are to be evicted.

    Args:
        signal: what has run out.
        pods: the active ones.
        dedicated: whether images (and with them writable layers) have a file system of their own.
    """
    if signal == eviction_signals.PIDS:
        return sorted(pods, key=lambda pod: (pod.priority, -_processes(pod)))
    if signal in {eviction_signals.MEMORY, eviction_signals.PODS_MEMORY}:
        return sorted(pods, key=_by_memory)
    kinds = _kinds(signal, dedicated=dedicated)
    inodes = signal in {eviction_signals.NODE_INODES, eviction_signals.IMAGE_INODES}
    return sorted(pods, key=lambda pod: _by_disk(pod, kinds, inodes=inodes))


def message(
    resource: str,
    pod: Pod,
    thresholds: Iterable[eviction_signals.Threshold],
    observations: Mapping[str, eviction_signals.Observation],
) -> str:
    """Why a pod is evicted: what the node has too little of, and who uses more than it asked for.

    Args:
        resource: what is to be won back.
        pod: the pod.
        thresholds: those that count.
        observations: what there is.
    """
    text = f"The node was low on resource: {resource}. "
    for threshold in thresholds:
        observed = observations.get(threshold.signal)
        if eviction_signals.RESOURCES[threshold.signal] == resource and observed is not None:
            quantity = threshold.amount.shown(threshold.signal, observed.capacity)
            available = eviction_signals.shown(threshold.signal, observed.available)
            text += f"Threshold quantity: {quantity}, available: {available}. "
            break
    if pod.usage is None:
        return text
    text += _pod_level_message(resource, pod, pod.usage)
    definitions = {
        definition["name"]: definition
        for kind, definition in containers.every(pod.pod["spec"])
        if kind != "ephemeral"
    }
    for used in pod.usage.containers:
        definition = definitions.get(used.name)
        if definition is None:
            continue
        asked = ((definition.get("resources") or {}).get("requests") or {}).get(resource, "0")
        amount = _container_usage(resource, used)
        if amount is not None and amount > quantities.value(asked):
            text += (
                f"Container {used.name} was using {_bytes(amount)}, request is "
                f"{quantities.canonical(asked)}, has larger consumption of {resource}. "
            )
    return text


def _pod_level_message(resource: str, pod: Pod, usage: PodUsage) -> str:
    asked = ((pod.pod["spec"].get("resources") or {}).get("requests") or {}).get(resource)
    if resource != "memory" or asked is None or usage.memory is None:
        return ""
    return (
        f"Pod {pod.pod['metadata']['name']} was using {_bytes(usage.memory)}, request is "
        f"{quantities.canonical(asked)}, has larger consumption of {resource}. "
    )


def _container_usage(resource: str, used: ContainerUsage) -> int | None:
    if resource == "memory":
        return used.memory
    if resource == eviction_signals.STORAGE:
        if used.root.used is None or used.logs.used is None:
            return None
        return used.root.used + used.logs.used
    return None


def _by_memory(pod: Pod) -> tuple[bool, bool, int, int]:
    if pod.usage is None:
        return (False, False, pod.priority, 0)
    used = pod.usage.memory or 0
    asked = requirements.requests(pod.pod["spec"]).get("memory", 0)
    return (True, used <= asked, pod.priority, asked - used)


def _by_disk(pod: Pod, kinds: Sequence[Kind], *, inodes: bool) -> tuple[bool, bool, int, int]:
    if pod.usage is None:
        return (False, False, pod.priority, 0)
    used = _disk(pod.pod, pod.usage, kinds, inodes=inodes)
    asked = requirements.requests(pod.pod["spec"]).get(eviction_signals.STORAGE, 0)
    # Inodes can't be asked for; upstream takes off bytes from them, and so does this.
    return (True, used <= (0 if inodes else asked), pod.priority, asked - used)


def _disk(pod: Object, usage: PodUsage, kinds: Sequence[Kind], *, inodes: bool) -> int:
    found: list[Files] = []
    if "root" in kinds:
        found += [used.root for used in usage.containers]
    if "logs" in kinds:
        found += [used.logs for used in usage.containers]
    if "volumes" in kinds:
        found += [usage.volumes[name] for name in _local_volumes(pod) if name in usage.volumes]
    return sum((files.inodes if inodes else files.used) or 0 for files in found)


def _local_volumes(pod: Object) -> list[str]:
    """The volumes whose files are on the node's own disk."""
    found = []
    for volume in pod["spec"].get("volumes") or ():
        on_disk = "emptyDir" in volume and not (volume["emptyDir"] or {}).get("medium")
        if on_disk or any(kind in volume for kind in ("hostPath", "configMap", "gitRepo")):
            found.append(volume["name"])
    return found


def _kinds(signal: str, *, dedicated: bool) -> tuple[Kind, ...]:
    if not dedicated:
        return _EVERYTHING
    if signal in {eviction_signals.IMAGE_DISK, eviction_signals.IMAGE_INODES}:
        return ("root",)
    return ("logs", "volumes")


def _processes(pod: Pod) -> float:
    if pod.usage is None:
        return float("inf")
    return pod.usage.processes or 0


def _bytes(amount: int) -> str:
    return quantities.format_quantity(amount, "BinarySI")
