"""A pod, read once from its raw object into what deciding about it needs.

No loop runs here. `PodInfo` is immutable by convention: whoever sees a newer object of the same pod
makes a new one. It keeps the raw object for events, bindings and plugins that look at more.

Answers to `PodInfo` in `pkg/scheduler/framework/types.go`. Pods that are alike in everything that
the built-in plugins look at have equal `class_key`s, which is what lets the decider answer for the
second of them with what it worked out for the first (upstream's SignPod has the same idea).
"""

import dataclasses
import datetime
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from whipstaff.scheduler import affinityterms, csi_migration, requests

Object = dict[str, Any]

DEFAULT_SCHEDULER_NAME = "default-scheduler"
PLACED_VOLUMES = frozenset({"persistentVolumeClaim", "ephemeral", "iscsi", "rbd"}) | (
    csi_migration.SOURCES
)
"""The kinds of volumes that say something about where a pod can be."""
TOPOLOGY_LABELS = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")
WILDCARD_IP = "0.0.0.0"  # noqa: S104 - nothing is bound: a pod that names no address means all


class HostPort(NamedTuple):
    """A port of the node that a container takes."""

    ip: str
    protocol: str
    port: int


class Kind(NamedTuple):
    """What pods have in common that are counted alike."""

    namespace: str
    is_terminating: bool
    labels: frozenset[tuple[str, str]]


@dataclasses.dataclass(slots=True, eq=False)
class PodInfo:
    """What scheduling needs to know of a pod. Made by `PodInfo.from_object`."""

    raw: Object
    key: str  # "namespace/name"
    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    scheduler_name: str
    node_name: str  # "" while it is on no node
    nominated_node_name: str
    priority: int
    created: float  # seconds since the epoch
    is_terminating: bool
    requests: requests.PodRequests
    host_ports: tuple[HostPort, ...]
    node_selector: Mapping[str, str] | None
    affinity: Object  # as it stands in the spec; {} if there is none
    tolerations: Sequence[Mapping[str, Any]]  # as in the spec
    images: tuple[str, ...]  # with a tag; one a container and image volume, in upstream's order
    container_count: int  # containers and init containers
    scheduling_gates: tuple[str, ...]
    volumes: tuple[Mapping[str, Any], ...]  # as in the spec, of the kinds in `PLACED_VOLUMES`
    _class_key: Hashable = None
    _kind: Kind | None = None
    _affinity_terms: affinityterms.Terms | None = None

    @classmethod
    def from_object(cls, raw: Object) -> "PodInfo":
        """Reads a raw pod.

        Raises:
            ValueError: a quantity or a time in it can't be read (no API server stores such a pod).
        """
        metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
        namespace, name = metadata.get("namespace") or "", metadata["name"]
        created = metadata.get("creationTimestamp")
        containers, init_containers = spec.get("containers") or (), spec.get("initContainers") or ()
        return cls(
            raw=raw,
            key=f"{namespace}/{name}",
            uid=metadata.get("uid") or "",
            namespace=namespace,
            name=name,
            labels=metadata.get("labels") or {},
            scheduler_name=spec.get("schedulerName") or DEFAULT_SCHEDULER_NAME,
            node_name=spec.get("nodeName") or "",
            nominated_node_name=status.get("nominatedNodeName") or "",
            priority=spec.get("priority") or 0,
            created=datetime.datetime.fromisoformat(created).timestamp() if created else 0.0,
            is_terminating=metadata.get("deletionTimestamp") is not None,
            requests=requests.of_pod(raw),
            host_ports=host_ports(spec),
            node_selector=spec.get("nodeSelector"),
            affinity=spec.get("affinity") or {},
            tolerations=spec.get("tolerations") or (),
            images=_images(spec),
            container_count=len(containers) + len(init_containers),
            scheduling_gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
            volumes=tuple(
                volume
                for volume in spec.get("volumes") or ()
                if not PLACED_VOLUMES.isdisjoint(volume)
            ),
        )

    def on_node(self, node_name: str, node_labels: Mapping[str, str] | None = None) -> "PodInfo":
        """The same pod as it will be once it is bound to `node_name`, whose labels these are.

        The API server gives it the node's topology labels then (from 1.35 on). Source:
        `plugin/pkg/admission/podtopologylabels/admission.go`.
        """
        # Not dataclasses.replace, which takes ten times as long: this runs for every placement.
        placed = object.__new__(PodInfo)
        for name in PodInfo.__slots__:
            setattr(placed, name, getattr(self, name))
        placed.node_name = node_name
        placed._class_key = None
        if node_labels:
            given = {key: node_labels[key] for key in TOPOLOGY_LABELS if key in node_labels}
            if given:
                placed.labels = {**self.labels, **given}
                placed._kind = None
        return placed

    @property
    def kind(self) -> Kind:
        """What the pod is counted as."""
        if self._kind is None:
            labels = frozenset(self.labels.items())
            self._kind = Kind(self.namespace, self.is_terminating, labels)
        return self._kind

    @property
    def node_affinity(self) -> Object:
        """`spec.affinity.nodeAffinity`; {} if there is none."""
        return self.affinity.get("nodeAffinity") or {}

    @property
    def affinity_terms(self) -> affinityterms.Terms:
        """The terms of its pod affinity and anti-affinity."""
        if self._affinity_terms is None:
            self._affinity_terms = affinityterms.read(self.affinity, self.namespace)
        return self._affinity_terms

    def claims(self) -> Iterator[tuple[str, bool]]:
        """The key of each claim that it uses, and whether the claim is made for it alone."""
        for volume in self.volumes:
            if (source := volume.get("persistentVolumeClaim")) is not None:
                yield f"{self.namespace}/{source['claimName']}", False
            elif volume.get("ephemeral") is not None:
                yield f"{self.namespace}/{self.name}-{volume['name']}", True

    @property
    def class_key(self) -> Hashable:
        """Everything that the built-in plugins look at, as one hashable value."""
        if self._class_key is None:
            affinity = self.node_affinity
            self._class_key = (
                self.requests,
                orjson.dumps(self.tolerations) if self.tolerations else b"",
                self.images,
                self.container_count,
                self.host_ports,
                self.node_name,
                tuple(sorted(self.node_selector.items())) if self.node_selector else None,
                orjson.dumps(affinity, option=orjson.OPT_SORT_KEYS) if affinity else b"",
            )
        return self._class_key


def host_ports(spec: Mapping[str, Any]) -> tuple[HostPort, ...]:
    """The node's ports that the pod takes all its life. Source: `util.GetHostPorts`."""
    return tuple(
        HostPort(
            port.get("hostIP") or WILDCARD_IP, port.get("protocol") or "TCP", int(port["hostPort"])
        )
        for kind in ("initContainers", "containers")
        for container in spec.get(kind) or ()
        if kind == "containers" or container.get("restartPolicy") == "Always"
        for port in container.get("ports") or ()
        if (port.get("hostPort") or 0) > 0
    )


def _images(spec: Mapping[str, Any]) -> tuple[str, ...]:
    names = [
        container.get("image") or ""
        for kind in ("initContainers", "containers")
        for container in spec.get(kind) or ()
    ]
    names += [
        volume["image"].get("reference") or ""
        for volume in spec.get("volumes") or ()
        if volume.get("image") is not None
    ]
    return tuple(map(image_with_tag, names))


def image_with_tag(name: str) -> str:
    """The name with the tag that is meant when none is given. Source: `normalizedImageName`."""
    return f"{name}:latest" if name.rfind(":") <= name.rfind("/") else name
