"""What happened in the cluster, in the terms in which a waiting pod may be helped by it.

No loop runs here: these are values and pure functions. A watch event becomes a `ClusterEvent`, a
resource and an action as fine as "a node's taints changed"; the queue asks the plugins that
rejected a pod whether such an event may help it.

Answers to `pkg/scheduler/framework/events.go` and to `ClusterEvent` and `ActionType` in
`k8s.io/kube-scheduler/framework/types.go`. What the scheduler itself writes into a waiting pod's
status is no event here: it would try the pod again for having told why it was refused. Left out:
resources of plugins that don't exist here yet (resource claims, pod groups).
"""

import dataclasses
import enum
from collections.abc import Collection
from typing import Any

from whipstaff.scheduler import requests

Object = dict[str, Any]

NODE = "Node"
POD = "Pod"
ASSIGNED_POD = "AssignedPod"
UNSCHEDULABLE_POD = "UnschedulablePod"
PERSISTENT_VOLUME = "PersistentVolume"
PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"
STORAGE_CLASS = "storage.k8s.io/StorageClass"
CSI_NODE = "storage.k8s.io/CSINode"
CSI_DRIVER = "storage.k8s.io/CSIDriver"
CSI_STORAGE_CAPACITY = "storage.k8s.io/CSIStorageCapacity"
VOLUME_ATTACHMENT = "storage.k8s.io/VolumeAttachment"
WILDCARD = "*"
RESOURCES = frozenset(
    (
        NODE,
        POD,
        PERSISTENT_VOLUME,
        PERSISTENT_VOLUME_CLAIM,
        STORAGE_CLASS,
        CSI_NODE,
        CSI_DRIVER,
        CSI_STORAGE_CAPACITY,
        VOLUME_ATTACHMENT,
        WILDCARD,
    )
)
"""What a plugin can ask for by these names; any other is a custom resource."""


class Action(enum.IntFlag):
    """What was done to a resource; the updates say which of its properties changed."""

    ADD = enum.auto()
    DELETE = enum.auto()
    UPDATE_NODE_ALLOCATABLE = enum.auto()
    UPDATE_NODE_LABEL = enum.auto()
    UPDATE_NODE_TAINT = enum.auto()
    UPDATE_NODE_CONDITION = enum.auto()
    UPDATE_NODE_ANNOTATION = enum.auto()
    UPDATE_NODE_DECLARED_FEATURE = enum.auto()
    UPDATE_POD_LABEL = enum.auto()
    UPDATE_POD_SCALE_DOWN = enum.auto()
    UPDATE_POD_TOLERATION = enum.auto()
    UPDATE_POD_SCHEDULING_GATES_ELIMINATED = enum.auto()
    UPDATE_POD_GENERATED_RESOURCE_CLAIM = enum.auto()
    UPDATE = (
        UPDATE_NODE_ALLOCATABLE
        | UPDATE_NODE_LABEL
        | UPDATE_NODE_TAINT
        | UPDATE_NODE_CONDITION
        | UPDATE_NODE_ANNOTATION
        | UPDATE_NODE_DECLARED_FEATURE
        | UPDATE_POD_LABEL
        | UPDATE_POD_SCALE_DOWN
        | UPDATE_POD_TOLERATION
        | UPDATE_POD_SCHEDULING_GATES_ELIMINATED
        | UPDATE_POD_GENERATED_RESOURCE_CLAIM
    )
    ALL = ADD | DELETE | UPDATE


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterEvent:
    """An action on a resource. `label` is upstream's name for it in metrics."""

    resource: str
    action: Action
    label: str

    def matches(self, incoming: "ClusterEvent") -> bool:
        """Whether a plugin that asked for this event wants to hear of `incoming`.

        A plugin that asks for `Pod` hears of assigned and of waiting pods. One that asks for a
        particular update doesn't hear of an update that no plugin could name (`UPDATE`).
        """
        return (
            self.resource in (WILDCARD, incoming.resource)
            or (self.resource == POD and incoming.resource in (ASSIGNED_POD, UNSCHEDULABLE_POD))
        ) and incoming.action & self.action == incoming.action

    @property
    def is_wildcard(self) -> bool:
        """Whether it moves every pod, whatever rejected it."""
        return self.resource == WILDCARD and self.action == Action.ALL


def event(resource: str, action: Action) -> ClusterEvent:
    """The event of `action` on `resource`, labelled as upstream does (`NodeUpdateNodeTaint`)."""
    name = action.name or "All"
    return ClusterEvent(resource, action, resource + name.title().replace("_", ""))


NODE_ADD = event(NODE, Action.ADD)
NODE_DELETE = event(NODE, Action.DELETE)
ASSIGNED_POD_ADD = event(ASSIGNED_POD, Action.ADD)
ASSIGNED_POD_UPDATE = event(ASSIGNED_POD, Action.UPDATE)
ASSIGNED_POD_DELETE = event(ASSIGNED_POD, Action.DELETE)
UNSCHEDULABLE_POD_ADD = event(UNSCHEDULABLE_POD, Action.ADD)
UNSCHEDULABLE_POD_UPDATE = event(UNSCHEDULABLE_POD, Action.UPDATE)
UNSCHEDULABLE_TIMEOUT = ClusterEvent(WILDCARD, Action.ALL, "UnschedulableTimeout")
FORCE_ACTIVATE = ClusterEvent(WILDCARD, Action.ALL, "ForceActivate")

SCHEDULE_ATTEMPT_FAILURE = "ScheduleAttemptFailure"
BACKOFF_COMPLETE = "BackoffComplete"
POP_FROM_BACKOFF = "PopFromBackoffQ"

_NODE_EVENTS = {
    action: event(NODE, action)
    for action in (
        Action.UPDATE_NODE_TAINT,
        Action.UPDATE_NODE_ALLOCATABLE,
        Action.UPDATE_NODE_LABEL,
        Action.UPDATE_NODE_CONDITION,
        Action.UPDATE_NODE_ANNOTATION,
        Action.UPDATE_NODE_DECLARED_FEATURE,
    )
}
_POD_EVENTS = {
    (resource, action): event(resource, action)
    for resource in (ASSIGNED_POD, UNSCHEDULABLE_POD)
    for action in (
        Action.UPDATE_POD_LABEL,
        Action.UPDATE_POD_SCALE_DOWN,
        Action.UPDATE_POD_SCHEDULING_GATES_ELIMINATED,
        Action.UPDATE_POD_TOLERATION,
        Action.UPDATE,
    )
}


def node_changes(old: Object, new: Object) -> list[ClusterEvent]:
    """What changed from `old` to `new` that may matter to a pod: a heartbeat gives nothing."""
    old_meta, new_meta = old["metadata"], new["metadata"]
    old_spec, new_spec = old.get("spec") or {}, new.get("spec") or {}
    old_status, new_status = old.get("status") or {}, new.get("status") or {}
    changes = []
    freed = bool(old_spec.get("unschedulable")) and not new_spec.get("unschedulable")
    if freed or (old_spec.get("taints") or []) != (new_spec.get("taints") or []):
        changes.append(Action.UPDATE_NODE_TAINT)
    if old_status.get("allocatable") != new_status.get("allocatable"):
        changes.append(Action.UPDATE_NODE_ALLOCATABLE)
    if (old_meta.get("labels") or {}) != (new_meta.get("labels") or {}):
        changes.append(Action.UPDATE_NODE_LABEL)
    if _condition_statuses(old_status) != _condition_statuses(new_status):
        changes.append(Action.UPDATE_NODE_CONDITION)
    if (old_meta.get("annotations") or {}) != (new_meta.get("annotations") or {}):
        changes.append(Action.UPDATE_NODE_ANNOTATION)
    if (old_status.get("declaredFeatures") or []) != (new_status.get("declaredFeatures") or []):
        changes.append(Action.UPDATE_NODE_DECLARED_FEATURE)
    return [_NODE_EVENTS[action] for action in changes]


def _condition_statuses(status: Object) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}


def pod_changes(old: Object, new: Object) -> list[ClusterEvent]:
    """What changed from `old` to `new`; the general update where it is nothing with a name.

    Nothing where only what the scheduler itself writes of a waiting pod changed.
    """
    old_spec, new_spec = old["spec"], new["spec"]
    resource = ASSIGNED_POD if new_spec.get("nodeName") else UNSCHEDULABLE_POD
    changes = []
    if (old["metadata"].get("labels") or {}) != (new["metadata"].get("labels") or {}):
        changes.append(Action.UPDATE_POD_LABEL)
    if _scaled_down(old, new):
        changes.append(Action.UPDATE_POD_SCALE_DOWN)
    if old_spec.get("schedulingGates") and not new_spec.get("schedulingGates"):
        changes.append(Action.UPDATE_POD_SCHEDULING_GATES_ELIMINATED)
    if len(old_spec.get("tolerations") or ()) != len(new_spec.get("tolerations") or ()):
        # The API lets tolerations be added and nothing else, so their number tells.
        changes.append(Action.UPDATE_POD_TOLERATION)
    if not changes and not (resource == UNSCHEDULABLE_POD and _only_we_wrote(old, new)):
        changes.append(Action.UPDATE)
    return [_POD_EVENTS[resource, action] for action in changes]


def _only_we_wrote(old: Object, new: Object) -> bool:
    return (
        old["spec"] == new["spec"]
        and _but(old["metadata"], _VERSIONS) == _but(new["metadata"], _VERSIONS)
        and _others_words(old.get("status") or {}) == _others_words(new.get("status") or {})
    )


_VERSIONS = ("resourceVersion", "generation", "managedFields")


def _but(fields: Object, names: Collection[str]) -> Object:
    return {name: value for name, value in fields.items() if name not in names}


def _others_words(status: Object) -> Object:
    """The status without the condition PodScheduled and the promised node."""
    conditions = [
        condition
        for condition in status.get("conditions") or ()
        if condition["type"] != "PodScheduled"
    ]
    words = _but(status, ("conditions", "nominatedNodeName", "observedGeneration"))
    return {**words, "conditions": conditions}


def _scaled_down(old: Object, new: Object) -> bool:
    """Whether `new` holds less of anything than `old` did, what it was given counted as well."""
    if _amounts_said(old) == _amounts_said(new):
        return False
    before, after = (requests.pod_amounts(pod, use_status=True) for pod in (old, new))
    return any(nanos > after.get(name, -1) for name, nanos in before.items())


def _amounts_said(pod: Object) -> list[Any]:
    """Wherever the pod says what it asks for or was given: equal where nothing changed."""
    spec, status = pod["spec"], pod.get("status") or {}
    said = [spec.get("resources"), status.get("resources"), status.get("allocatedResources")]
    for field in ("containers", "initContainers"):
        said += [container.get("resources") for container in spec.get(field) or ()]
    for field in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(field) or ():
            said += [container.get("allocatedResources"), container.get("resources")]
    return said
