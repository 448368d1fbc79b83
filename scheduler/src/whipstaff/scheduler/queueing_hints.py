"""Which cluster events may help a pod that a plugin rejected.

No loop runs here: a table and pure functions. A plugin says what it wants to hear of by an
attribute `queueing_hints`, a sequence of `Interest`: an event and, where the event alone says too
little, a function that looks at the objects and answers whether the pod may be schedulable now.
A plugin without that attribute is asked about every event, so its pods never wait in vain; the
plugins that ship with the scheduler have their interests in `SHIPPED` below.

**The place for a plugin's hints is its own `queueing_hints`**; `SHIPPED` holds the simple and
correct form: it may try a pod once too often, and never leaves one waiting that could go.

Answers to `EventsToRegister` of each plugin and to `isPodWorthRequeuing` in
`pkg/scheduler/backend/queue/scheduling_queue.go`. Left out: upstream's finest distinctions (its
`TestCoreResourceEnqueue` lists 84): whether one node's new size is enough for this pod, whether the
ports of a deleted pod are the ones that were missing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whipstaff.runtime import logs
from whipstaff.scheduler import cluster_events
from whipstaff.scheduler.cluster_events import Action

Object = dict[str, Any]

SKIP, AFTER_BACKOFF, IMMEDIATELY = "skip", "after-backoff", "immediately"

Hint = Callable[[Object, Object | None, Object | None], bool]
"""(the waiting pod, the object before, the object after) -> may the pod be schedulable now."""

_log = logs.get("scheduler.queueing_hints")


@dataclasses.dataclass(frozen=True, slots=True)
class Interest:
    """An event that a plugin wants to hear of; `hint` None means that it always may help."""

    event: cluster_events.ClusterEvent
    hint: Hint | None = None


Interests = Mapping[str, Sequence[Interest]]
"""A profile's interests, by the name of the plugin."""


def on(resource: str, action: Action, hint: Hint | None = None) -> Interest:
    """An interest in `action` on `resource`."""
    return Interest(cluster_events.event(resource, action), hint)


def of_itself(pod: Object, _: Object | None, new: Object | None) -> bool:
    """Whether the pod that changed is the one that waits."""
    return new is not None and bool(new["metadata"]["uid"] == pod["metadata"]["uid"])


def of_itself_or_assigned(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the pod that changed is the one that waits, or one that holds part of a node."""
    return of_itself(pod, old, new) or bool(new and new["spec"].get("nodeName"))


def was_assigned(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the pod that is gone, or shrank, held part of a node."""
    held = (old or new or {}).get("spec") or {}
    return bool(held.get("nodeName"))


def had_host_ports(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the pod that is gone held a node's ports."""
    spec = (old or new or {}).get("spec") or {}
    return was_assigned(pod, old, new) and any(
        port.get("hostPort")
        for field in ("containers", "initContainers")
        for container in spec.get(field) or ()
        for port in container.get("ports") or ()
    )


def became_schedulable(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the node isn't cordoned, and was or wasn't there before."""
    if new is None or (new.get("spec") or {}).get("unschedulable"):
        return False
    return old is None or bool((old.get("spec") or {}).get("unschedulable"))


def never(_: Object, __: Object | None, ___: Object | None) -> bool:
    """It is for other plugins to say whether this helps."""
    return False


_ANYTHING = (
    on(cluster_events.NODE, Action.ALL),
    on(cluster_events.POD, Action.ADD | Action.DELETE | Action.UPDATE),
)

SHIPPED: Interests = {
    "SchedulingGates": (
        on(cluster_events.POD, Action.UPDATE_POD_SCHEDULING_GATES_ELIMINATED, of_itself),
    ),
    "NodeUnschedulable": (
        on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_TAINT, became_schedulable),
        on(cluster_events.POD, Action.UPDATE_POD_TOLERATION, of_itself),
    ),
    "NodeName": (on(cluster_events.NODE, Action.ADD),),
    "TaintToleration": (
        on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_TAINT),
        on(cluster_events.POD, Action.UPDATE_POD_TOLERATION, of_itself),
    ),
    "NodeAffinity": (on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_LABEL),),
    "NodePorts": (
        on(cluster_events.POD, Action.DELETE, had_host_ports),
        on(cluster_events.NODE, Action.ADD),
    ),
    "NodeResourcesFit": (
        on(cluster_events.POD, Action.DELETE, was_assigned),
        on(cluster_events.POD, Action.UPDATE_POD_SCALE_DOWN, of_itself_or_assigned),
        on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_ALLOCATABLE),
    ),
    # A pod that others are evicted for is held until they are gone. Whether it fits then, the
    # plugins see that refused it.
    "DefaultPreemption": (on(cluster_events.POD, Action.DELETE, never),),
    # What is missing here is missing until the scheduler is another one.
    "Unsupported": (),
}


def interests(plugins: Mapping[str, object]) -> dict[str, Sequence[Interest]]:
    """The interests of a profile's plugins, given by name: theirs, the shipped ones, or all."""
    return {
        name: getattr(plugin, "queueing_hints", None) or SHIPPED.get(name, _ANYTHING)
        for name, plugin in plugins.items()
    }


def verdict(
    wanted: Interests,
    rejected_by: frozenset[str],
    pending_on: frozenset[str],
    pod: Object,
    event: cluster_events.ClusterEvent,
    old: Object | None,
    new: Object | None,
) -> str:
    """`SKIP`, `AFTER_BACKOFF` or `IMMEDIATELY`: only plugins that have refused the pod are asked.

    A plugin whose hint fails counts as one that says yes: better one attempt too many than a pod
    that waits for nothing.
    """
    result = SKIP
    for plugin in pending_on | rejected_by:
        if result != SKIP and plugin not in pending_on:
            continue
        for interest in wanted.get(plugin, _ANYTHING):
            if interest.event.matches(event) and _may_help(interest, plugin, pod, old, new):
                if plugin in pending_on:
                    return IMMEDIATELY
                result = AFTER_BACKOFF
                break
    return result


def _may_help(
    interest: Interest, plugin: str, pod: Object, old: Object | None, new: Object | None
) -> bool:
    if interest.hint is None:
        return True
    try:
        return interest.hint(pod, old, new)
    except Exception:  # noqa: BLE001 - a plugin's own code
        _log.exception("queueing hint failed", plugin=plugin, event=interest.event.label)
        return True
