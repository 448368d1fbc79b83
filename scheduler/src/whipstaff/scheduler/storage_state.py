"""Keeps the picture of storage true to what the API server says, and tells the queue of changes.

Its loops are those of the informers made here, one for each of seven resources. They are watched
only if somebody may look at storage, and of each object only what such a plugin
reads is kept: in a cluster without volumes they cost a quiet connection each.

Answers to the part of `pkg/scheduler/eventhandlers.go` that is about storage.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from whipstaff.runtime import client, informer, logs, objects, resources
from whipstaff.scheduler import cluster_events, pruning, queue, storage

Object = dict[str, Any]

PLUGINS = frozenset({"VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone"})
"""The plugins that look at storage."""

_log = logs.get("scheduler.storage_state")


class Kind(NamedTuple):
    """A resource, what it is called in events, and what is done with its objects."""

    resource: resources.Resource
    event: str
    prune: Callable[[Object], Object]
    put: Callable[[storage.Storage, Object], None]
    drop: Callable[[storage.Storage, Object], None]


KINDS = (
    Kind(
        resources.STORAGECLASSES,
        cluster_events.STORAGE_CLASS,
        pruning.storage_class,
        storage.Storage.put_class,
        storage.Storage.drop_class,
    ),
    Kind(
        resources.CSIDRIVERS,
        cluster_events.CSI_DRIVER,
        pruning.bare,
        storage.Storage.put_driver,
        storage.Storage.drop_driver,
    ),
    Kind(
        resources.CSINODES,
        cluster_events.CSI_NODE,
        pruning.csi_node,
        storage.Storage.put_csi_node,
        storage.Storage.drop_csi_node,
    ),
    Kind(
        resources.CSISTORAGECAPACITIES,
        cluster_events.CSI_STORAGE_CAPACITY,
        pruning.bare,
        storage.Storage.put_capacity,
        storage.Storage.drop_capacity,
    ),
    Kind(
        resources.VOLUMEATTACHMENTS,
        cluster_events.VOLUME_ATTACHMENT,
        pruning.bare,
        storage.Storage.put_attachment,
        storage.Storage.drop_attachment,
    ),
    Kind(
        resources.PERSISTENTVOLUMES,
        cluster_events.PERSISTENT_VOLUME,
        pruning.volume,
        storage.Storage.put_volume,
        storage.Storage.drop_volume,
    ),
    Kind(
        resources.PERSISTENTVOLUMECLAIMS,
        cluster_events.PERSISTENT_VOLUME_CLAIM,
        pruning.claim,
        storage.Storage.put_claim,
        storage.Storage.drop_claim,
    ),
)
"""What is read of storage, and how it gets into a `storage.Storage`."""

RESOURCES = tuple(kind.resource for kind in KINDS)
"""What is watched."""


class Handler:
    """What happens when an object of one resource appears, changes or goes."""

    def __init__(self, kind: Kind, known: storage.Storage, waiting: queue.SchedulingQueue) -> None:
        self._kind = kind
        self._known = known
        self._waiting = waiting
        add, update, delete = (
            cluster_events.event(kind.event, action)
            for action in (
                cluster_events.Action.ADD,
                cluster_events.Action.UPDATE,
                cluster_events.Action.DELETE,
            )
        )
        self._add, self._update, self._delete = add, update, delete

    def on_add(self, obj: Object) -> None:
        """An object is new to us."""
        if self._take(obj):
            self._waiting.move_all(self._add, None, obj)

    def on_update(self, old: Object, new: Object) -> None:
        """An object changed."""
        if self._take(new):
            self._waiting.move_all(self._update, old, new)

    def on_delete(self, obj: Object) -> None:
        """An object is gone."""
        self._kind.drop(self._known, obj)
        self._waiting.move_all(self._delete, obj, None)

    def _take(self, obj: Object) -> bool:
        try:
            self._kind.put(self._known, obj)
        except ValueError as error:
            kind, key = self._kind.resource.kind, objects.key(obj)
            _log.error("unreadable object is left out", kind=kind, key=key, error=str(error))
            self._kind.drop(self._known, obj)
            return False
        return True


def is_needed(plugins: Iterable[str], *, extenders: bool) -> bool:
    """Whether anybody wants to know of storage: a plugin of these names, or an extender.

    An extender may look at anything, so a pod that it refused is tried again when anything changes.
    """
    return extenders or not PLUGINS.isdisjoint(plugins)


def informers(
    api: client.Client,
    known: storage.Storage,
    waiting: queue.SchedulingQueue,
) -> list[informer.Informer]:
    """The informers that keep `known` up to date, not started."""
    made = []
    for kind in KINDS:
        watched = informer.Informer(api, kind.resource, transform=kind.prune)
        watched.add_handler(Handler(kind, known, waiting))
        made.append(watched)
    return made
