"""Claims, volumes and their like in a line each, for tests of plugins.

No loop runs here. The objects are raw ones, as the API server would give them, with only what was
asked for in them; `fill` puts some of them into a snapshot.

Answers to `pkg/scheduler/testing/wrappers.go` and `plugins/volumebinding/test_utils.go`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whipstaff.scheduler import snapshot, storage_objects

Object = dict[str, Any]

WAITING = "waiting"
"""The class whose volumes wait for their pods, in `storage_class` and where none is named."""


def claim(
    name: str,
    *,
    volume: str = "",
    storage_class: str | None = WAITING,
    bound: bool | None = None,
    selected_node: str | None = None,
    size: str | None = "1Gi",
    access_modes: Sequence[str] = ("ReadWriteOnce",),
    namespace: str = "default",
    owner: str = "",
    phase: str | None = None,
    version: int = 1,
    terminating: bool = False,
    **spec: Any,
) -> Object:
    """A claim; `bound` (by default where it has a volume) says that the PV controller is done.

    `owner` is the uid of the pod that it is made for.
    """
    bound = bool(volume) if bound is None else bound
    annotations = {storage_objects.BIND_COMPLETED: "yes"} if bound else {}
    if selected_node is not None:
        annotations[storage_objects.SELECTED_NODE] = selected_node
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "annotations": annotations,
    }
    if owner:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": True}
        ]
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {
            "accessModes": list(access_modes),
            **({} if storage_class is None else {"storageClassName": storage_class}),
            **({"volumeName": volume} if volume else {}),
            **({} if size is None else {"resources": {"requests": {"storage": size}}}),
            **spec,
        },
        "status": {"phase": phase or ("Bound" if bound else "Pending")},
    }


def volume(
    name: str,
    *,
    storage_class: str = WAITING,
    size: str = "1Gi",
    for_claim: str = "",
    claim_uid: str = "",
    zone: str | None = None,
    labels: Mapping[str, str] | None = None,
    access_modes: Sequence[str] = ("ReadWriteOnce",),
    phase: str | None = None,
    version: int = 1,
    terminating: bool = False,
    **spec: Any,
) -> Object:
    """A volume; `zone` is what nodes' label `zone` must be to reach it."""
    if zone is not None:
        expression = {"key": "zone", "operator": "In", "values": zone.split(",")}
        term = {"matchExpressions": [expression]}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
    if for_claim:
        spec["claimRef"] = {"namespace": "default", "name": for_claim, "uid": claim_uid}
    metadata: Object = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": dict(labels or {}),
    }
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {
            "storageClassName": storage_class,
            "capacity": {"storage": size},
            "accessModes": list(access_modes),
            **spec,
        },
        "status": {"phase": phase or ("Bound" if claim_uid else "Available")},
    }


def storage_class(
    name: str = WAITING,
    *,
    provisioner: str = storage_objects.NO_PROVISIONER,
    mode: str | None = "WaitForFirstConsumer",
    zones: Sequence[str] = (),
) -> Object:
    """A class; `zones` are the values of nodes' label `zone` where its volumes can be made."""
    made: Object = {"metadata": {"name": name}, "provisioner": provisioner}
    if mode is not None:
        made["volumeBindingMode"] = mode
    if zones:
        expression = {"key": "zone", "values": list(zones)}
        made["allowedTopologies"] = [{"matchLabelExpressions": [expression]}]
    return made


def csi_node(
    name: str, limits: Mapping[str, int] | None = None, *, migrated: Iterable[str] = ()
) -> Object:
    """A CSINode: limits by driver, and the in-tree plugins that CSI drivers serve there."""
    drivers = [
        {"name": driver, "nodeID": name, "allocatable": {"count": count}}
        for driver, count in (limits or {}).items()
    ]
    annotations = {"storage.alpha.kubernetes.io/migrated-plugins": ",".join(migrated)}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {"drivers": drivers}}


def attachment(name: str, *, node: str, driver: str, volume: str | None) -> Object:
    """A VolumeAttachment."""
    source = {} if volume is None else {"persistentVolumeName": volume}
    spec = {"attacher": driver, "nodeName": node, "source": source}
    return {"metadata": {"name": name}, "spec": spec}


def uses(*claims: str) -> list[Object]:
    """A pod's volumes: one a claim."""
    return [
        {"name": f"v{number}", "persistentVolumeClaim": {"claimName": name}}
        for number, name in enumerate(claims)
    ]


def fill(
    cluster: snapshot.Snapshot,
    *,
    claims: Iterable[Object] = (),
    volumes: Iterable[Object] = (),
    classes: Iterable[Object] = (),
    csi_nodes: Iterable[Object] = (),
    drivers: Iterable[Object] = (),
    capacities: Iterable[Object] = (),
    attachments: Iterable[Object] = (),
) -> snapshot.Snapshot:
    """The same snapshot, with these in its storage."""
    known = cluster.storage
    for put, objects in (
        (known.put_class, classes),
        (known.put_driver, drivers),
        (known.put_csi_node, csi_nodes),
        (known.put_capacity, capacities),
        (known.put_attachment, attachments),
        (known.put_volume, volumes),
        (known.put_claim, claims),
    ):
        for raw in objects:
            put(raw)
    return cluster
