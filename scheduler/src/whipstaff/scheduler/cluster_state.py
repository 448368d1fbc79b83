"""Keeps snapshot and queue true to what the API server says of pods and nodes.

No loop runs here: the two informers call the handlers below, in the order of the watch. It owns no
data of its own. Nodes and pods that have a node, whichever scheduler gave it to them, go to the
snapshot; pods without one go to the queue if they ask for one of our scheduler names; and every
change is told to the queue as a `ClusterEvent`, because it may be what a waiting pod waits for.

A pod that the cycle has assumed is confirmed by the watch when it shows the pod on its node, and
forgotten when the pod is deleted before that.

Answers to `pkg/scheduler/eventhandlers.go`. Services, owners and namespaces, which no pod waits
for, are read by `workloads` and `namespaces`, volumes and what belongs to them by `storage_state`.
"""

import time
from collections.abc import Callable, Collection
from typing import Any

from whipstaff.runtime import logs, objects
from whipstaff.scheduler import cluster_events, pods, queue, snapshot

Object = dict[str, Any]

POD_FIELD_SELECTOR = "status.phase!=Succeeded,status.phase!=Failed"
"""Pods that have ended hold nothing: the watch reports their end as a deletion."""

_log = logs.get("scheduler.cluster_state")


class PodHandler:
    """What happens when a pod appears, changes or goes."""

    def __init__(
        self,
        cluster: snapshot.Snapshot,
        waiting: queue.SchedulingQueue,
        scheduler_names: Collection[str],
        gone: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`gone` is told the uid of each pod that will not be bound any more."""
        self._cluster = cluster
        self._waiting = waiting
        self._scheduler_names = frozenset(scheduler_names)
        self._gone = gone

    def on_add(self, obj: Object) -> None:
        """A pod is new to us."""
        if obj["spec"].get("nodeName"):
            self._assigned(obj)
        elif self._is_ours(obj) and (info := read(obj)) is not None:
            self._waiting.add(info)

    def on_update(self, old: Object, new: Object) -> None:
        """A pod changed, or was replaced by another of its name while nobody watched."""
        if objects.uid(old) != objects.uid(new):
            self.on_delete(old)
            self.on_add(new)
            return
        if _started(old) != _started(new):
            self._cluster.pod_started(new["spec"].get("nodeName") or "")
        if old["spec"].get("nodeName"):
            self._assigned_changed(old, new)
        elif new["spec"].get("nodeName"):
            self._assigned(new)
            self._waits_no_more(new)
        elif self._is_ours(new):
            self._waiting_changed(old, new)

    def on_delete(self, obj: Object) -> None:
        """A pod is gone, or has ended.

        What was last seen of it may be old, so both places are cleared.
        """
        self._waits_no_more(obj)
        self._gone(objects.uid(obj))
        removed = self._cluster.remove_pod(objects.uid(obj))
        if removed is not None:
            self._freed(removed.raw, removed.node_name)
        elif not obj["spec"].get("nodeName"):
            self._unpromised(obj)

    def _is_ours(self, obj: Object) -> bool:
        return (obj["spec"].get("schedulerName") or pods.DEFAULT_SCHEDULER_NAME) in (
            self._scheduler_names
        )

    def _assigned(self, obj: Object) -> None:
        info = read(obj)
        if info is not None:
            self._cluster.add_pod(info)
            self._waiting.move_all(cluster_events.ASSIGNED_POD_ADD, None, obj)

    def _assigned_changed(self, old: Object, new: Object) -> None:
        """A pod on a node changed: mostly its status, which concerns nobody here."""
        if _same(old, new):
            return
        info = read(new)
        if info is None:
            return
        self._cluster.update_pod(info)
        for event in cluster_events.pod_changes(old, new):
            self._waiting.move_all(event, old, new)

    def _waiting_changed(self, old: Object, new: Object) -> None:
        if objects.resource_version(old) == objects.resource_version(new):
            return
        if self._cluster.is_assumed(objects.uid(new)):
            if objects.is_terminating(new) and not objects.is_terminating(old):
                # It will not be bound any more, so it holds nothing. Its binding is about to fail.
                self._gone(objects.uid(new))
                assumed = self._cluster.get_pod(objects.uid(new))
                self._cluster.forget(objects.uid(new))
                self._freed(new, assumed.node_name if assumed else "")
            return
        info = read(new)
        if info is not None:
            self._waiting.update(old, info)
            if _promised(old) != info.nominated_node_name:
                self._unpromised(old)

    def _waits_no_more(self, obj: Object) -> None:
        self._waiting.delete(objects.key(obj))
        # A pod that is being tried just now isn't in the queue, and may be promised a node.
        self._waiting.promises.remove(objects.uid(obj))

    def _unpromised(self, obj: Object) -> None:
        """Tells those that had to leave room for a pod on the node it waited for."""
        if _promised(obj) and self._is_ours(obj):
            self._freed(obj, _promised(obj), up_to=obj["spec"].get("priority") or 0)

    def _freed(self, obj: Object, node_name: str, up_to: int | None = None) -> None:
        """Tells the queue that a pod no longer holds part of its node."""
        held = {**obj, "spec": {**obj["spec"], "nodeName": node_name}}
        self._waiting.move_all(cluster_events.ASSIGNED_POD_DELETE, held, None, up_to=up_to)


class NodeHandler:
    """What happens when a node appears, changes or goes."""

    def __init__(self, cluster: snapshot.Snapshot, waiting: queue.SchedulingQueue) -> None:
        self._cluster = cluster
        self._waiting = waiting

    def on_add(self, obj: Object) -> None:
        """A node is new to us."""
        if self._take(obj):
            self._waiting.move_all(cluster_events.NODE_ADD, None, obj)

    def on_update(self, old: Object, new: Object) -> None:
        """A node changed; a heartbeat ends in the first comparison."""
        if self._take(new):
            for event in cluster_events.node_changes(old, new):
                self._waiting.move_all(event, old, new)

    def on_delete(self, obj: Object) -> None:
        """A node is gone; its pods are still counted, for the node may come back."""
        self._cluster.remove_node(objects.name(obj))
        self._waiting.move_all(cluster_events.NODE_DELETE, obj, None)

    def _take(self, obj: Object) -> bool:
        try:
            return self._cluster.upsert_node(obj)
        except ValueError as error:
            _log.error("unreadable node is left out", node=objects.name(obj), error=str(error))
            self._cluster.remove_node(objects.name(obj))
            return False


def read(obj: Object) -> pods.PodInfo | None:
    """The pod, read; None, with a log line, for one that no API server should have stored."""
    try:
        return pods.PodInfo.from_object(obj)
    except ValueError as error:
        _log.error("unreadable pod is left out", pod=objects.key(obj), error=str(error))
        return None


def _started(obj: Object) -> Any:
    """Since when the pod runs, as its status has it."""
    return (obj.get("status") or {}).get("startTime")


def _promised(obj: Object) -> str:
    """The node that the pod's status says it waits for."""
    return (obj.get("status") or {}).get("nominatedNodeName") or ""


def _same(old: Object, new: Object) -> bool:
    """Whether nothing changed that a plugin could read (both are pruned already)."""
    return bool(
        old["spec"] == new["spec"]
        and old["metadata"].get("labels") == new["metadata"].get("labels")
        and old["metadata"].get("annotations") == new["metadata"].get("annotations")
        and old["metadata"].get("deletionTimestamp") == new["metadata"].get("deletionTimestamp")
        and _resizes(old) == _resizes(new)
    )


def _resizes(obj: Object) -> tuple[Any, ...]:
    status = obj.get("status") or {}
    return (
        status.get("containerStatuses"),
        status.get("initContainerStatuses"),
        status.get("resources"),
        status.get("allocatedResources"),
        status.get("conditions"),
    )


class TimedHandler:
    """A handler of pods or nodes, timed by kind of event: `event_handling_duration_seconds`."""

    def __init__(
        self,
        handler: PodHandler | NodeHandler,
        observe: Callable[[float, str], None],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`observe` is told seconds and the event's label."""
        self._handler = handler
        self._observe = observe
        self._now = now

    def on_add(self, obj: Object) -> None:
        """See there."""
        started = self._now()
        self._handler.on_add(obj)
        self._observe(self._now() - started, self._label(obj, "Add"))

    def on_update(self, old: Object, new: Object) -> None:
        """See there. A heartbeat is no event."""
        started = self._now()
        self._handler.on_update(old, new)
        took = self._now() - started
        if isinstance(self._handler, PodHandler):
            self._observe(took, self._label(new, "Update"))
            return
        for event in cluster_events.node_changes(old, new):
            self._observe(took, event.label)

    def on_delete(self, obj: Object) -> None:
        """See there."""
        started = self._now()
        self._handler.on_delete(obj)
        self._observe(self._now() - started, self._label(obj, "Delete"))

    def _label(self, obj: Object, action: str) -> str:
        if isinstance(self._handler, NodeHandler):
            return f"{cluster_events.NODE}{action}"
        assigned = obj["spec"].get("nodeName")
        kind = cluster_events.ASSIGNED_POD if assigned else cluster_events.UNSCHEDULABLE_POD
        return f"{kind}{action}"
