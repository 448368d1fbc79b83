"""What the scheduler keeps of an object that it watches, and what it throws away at once.

No loop runs here: the informers call these on each object as it comes in. A pod's environment,
probes and managed fields never matter to placement and are most of its size; without them ten
thousand pods take a tenth of the memory, and two versions of an object that differ in nothing that
matters compare equal, which is how a heartbeat costs next to nothing.

Answers to the informer transforms of `cmd/kube-scheduler/app/options` (managedFields only). Kept:
everything that a plugin of upstream's reads, and annotations, for plugins of one's own.
"""

from typing import Any

from whipstaff.scheduler import csi_migration

Object = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_CONTAINER_FIELDS = (
    "name",
    "image",
    "resources",
    "ports",
    "restartPolicy",
    "restartPolicyRules",
)
_CONTAINER_STATUS_FIELDS = ("name", "allocatedResources", "resources")
_POD_STATUS_FIELDS = (
    "phase",
    "nominatedNodeName",
    "startTime",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "allocatedResources",
    "resources",
)
_POD_CONDITIONS = frozenset(["PodScheduled", "PodResizePending", "DisruptionTarget"])
_NODE_STATUS_FIELDS = ("allocatable", "capacity", "images", "declaredFeatures", "features")


def pod(raw: Object) -> Object:
    """`raw` without what no scheduling plugin reads. Changes it in place and returns it."""
    _prune_metadata(raw["metadata"])
    spec = raw["spec"]
    for field in ("containers", "initContainers"):
        if containers := spec.get(field):
            spec[field] = [_only(container, _CONTAINER_FIELDS) for container in containers]
    spec.pop("ephemeralContainers", None)
    status = raw.get("status")
    if status:
        raw["status"] = _pod_status(status)
    return raw


def lightly(raw: Object) -> Object:
    """`raw` as others are to see it: all but what only the API server needs; in place."""
    raw["metadata"].pop("managedFields", None)
    return raw


def node(raw: Object) -> Object:
    """`raw` without what no scheduling plugin reads. Changes it in place and returns it."""
    _prune_metadata(raw["metadata"])
    status = raw.get("status") or {}
    kept = _only(status, _NODE_STATUS_FIELDS)
    kept["conditions"] = [
        {"type": condition["type"], "status": condition["status"]}
        for condition in status.get("conditions") or ()
    ]
    raw["status"] = kept
    return raw


def claim(raw: Object) -> Object:
    """A PersistentVolumeClaim without what no scheduling plugin reads; in place."""
    _prune_metadata(raw["metadata"])
    raw["status"] = _only(raw.get("status") or {}, ("phase",))
    return raw


def volume(raw: Object) -> Object:
    """A PersistentVolume without what no scheduling plugin reads; in place."""
    _prune_metadata(raw["metadata"])
    spec = raw["spec"]
    spec.pop("mountOptions", None)
    if csi := spec.get("csi"):
        spec["csi"] = _only(csi, ("driver", "volumeHandle"))
    raw["status"] = _only(raw.get("status") or {}, ("phase",))
    return raw


def storage_class(raw: Object) -> Object:
    """A StorageClass without what no scheduling plugin reads; in place."""
    _prune_metadata(raw["metadata"])
    for field in ("parameters", "mountOptions"):
        raw.pop(field, None)
    return raw


def csi_node(raw: Object) -> Object:
    """A CSINode without what no scheduling plugin reads: there is one for each node; in place."""
    annotations = raw["metadata"].get("annotations") or {}
    metadata = _only(raw["metadata"], ("name", "uid", "resourceVersion"))
    metadata["annotations"] = _only(annotations, (csi_migration.MIGRATED_PLUGINS,))
    drivers = [
        _only(driver, ("name", "allocatable")) for driver in raw["spec"].get("drivers") or ()
    ]
    return {"metadata": metadata, "spec": {"drivers": drivers}}


def bare(raw: Object) -> Object:
    """An object of another kind without its managed fields and its status; in place."""
    _prune_metadata(raw["metadata"])
    raw.pop("status", None)
    return raw


def _prune_metadata(metadata: Object) -> None:
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if annotations:
        annotations.pop(LAST_APPLIED, None)


def _pod_status(status: Object) -> Object:
    kept = _only(status, _POD_STATUS_FIELDS)
    conditions = status.get("conditions")
    if conditions:
        kept["conditions"] = [item for item in conditions if item["type"] in _POD_CONDITIONS]
    for field in ("containerStatuses", "initContainerStatuses"):
        if statuses := status.get(field):
            kept[field] = [_only(item, _CONTAINER_STATUS_FIELDS) for item in statuses]
    return kept


def _only(mapping: Object, fields: tuple[str, ...]) -> Object:
    return {field: mapping[field] for field in fields if field in mapping}
