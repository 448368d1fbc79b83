"""Which cluster events may help a pod that a plugin rejected.

No loop runs here: pure functions. A plugin says what it wants to hear of by an attribute
`queueing_hints`, a sequence of `Interest`: an event and, where the event alone says too little, a
function that looks at the objects and answers whether the pod may be schedulable now. A plugin
without that attribute is asked about every event, so its pods never wait in vain.

Answers to `EventsToRegister`, `isPodWorthRequeuing` in
`pkg/scheduler/backend/queue/scheduling_queue.go`, and `UnrollWildCardResource` and
`buildQueueingHintMap`. Left out: that upstream, where a plugin asks for new nodes, also asks for
changed taints in its name (to make up for node events that it drops, and none is dropped here).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from whipstaff.runtime import logs
from whipstaff.scheduler import cluster_events, pods
from whipstaff.scheduler.cluster_events import Action

Object = dict[str, Any]

SKIP, AFTER_BACKOFF, IMMEDIATELY = "skip", "after-backoff", "immediately"

Hint = Callable[[Object, Object | None, Object | None], bool]
"""(the waiting pod, the object before, the object after) -> may the pod be schedulable now."""

InfoHint = Callable[[pods.PodInfo, Object | None, Object | None], bool]
"""The same of a pod that is read already: what many pods are asked about a node is to be quick."""

_Read = TypeVar("_Read")

_log = logs.get("scheduler.queueing_hints")


@dataclasses.dataclass(frozen=True, slots=True)
class Interest:
    """An event that a plugin wants to hear of; without hints it always may help."""

    event: cluster_events.ClusterEvent
    hint: Hint | None = None
    info_hint: InfoHint | None = None

    def may_help(self, pod: pods.PodInfo, old: Object | None, new: Object | None) -> bool:
        """Whether `pod` may be schedulable now. Raises what the plugin's hint raises."""
        if self.info_hint is not None:
            return self.info_hint(pod, old, new)
        return self.hint is None or self.hint(pod.raw, old, new)


Interests = Mapping[str, Sequence[Interest]]
"""A profile's interests, by the name of the plugin."""


def on(resource: str, action: Action, hint: Hint | None = None) -> Interest:
    """An interest in `action` on `resource`."""
    return Interest(cluster_events.event(resource, action), hint)


def on_info(resource: str, action: Action, hint: InfoHint) -> Interest:
    """As `on`, for a hint that is given the waiting pod as a `PodInfo`."""
    return Interest(cluster_events.event(resource, action), info_hint=hint)


def remembering(read: Callable[[Object], _Read]) -> Callable[[Object], _Read]:
    """`read` that knows the two objects that it was asked about last, an event's old and new one.

    One event is looked at for every waiting pod, so its objects would be read as often.
    """
    known: list[tuple[Object, _Read]] = []

    def remembered(obj: Object) -> _Read:
        for before, result in known:
            if before is obj:
                return result
        result = read(obj)
        known[:] = [*known[-1:], (obj, result)]
        return result

    return remembered


def of_itself(pod: Object, _: Object | None, new: Object | None) -> bool:
    """Whether the pod that changed is the one that waits."""
    return new is not None and bool(new["metadata"]["uid"] == pod["metadata"]["uid"])


def held_a_node(pod: Object | None) -> bool:
    """Whether that pod was on a node, or promised to one."""
    if pod is None:
        return False
    nominated = (pod.get("status") or {}).get("nominatedNodeName")
    return bool(pod["spec"].get("nodeName") or nominated)


ANYTHING: Sequence[Interest] = tuple(
    on(resource, Action.ALL)
    for resource in (
        cluster_events.POD,
        cluster_events.NODE,
        cluster_events.PERSISTENT_VOLUME,
        cluster_events.PERSISTENT_VOLUME_CLAIM,
        cluster_events.CSI_NODE,
        cluster_events.CSI_DRIVER,
        cluster_events.CSI_STORAGE_CAPACITY,
        cluster_events.STORAGE_CLASS,
    )
)
"""What a plugin hears of that doesn't say what it wants, and an extender, which can't."""


def interests(plugins: Mapping[str, object]) -> dict[str, Sequence[Interest]]:
    """The interests of a profile's plugins, given by name: theirs, or all."""
    wanted = {}
    for name, plugin in plugins.items():
        own = getattr(plugin, "queueing_hints", None)
        wanted[name] = ANYTHING if own is None else own
    return wanted


@dataclasses.dataclass(frozen=True, slots=True)
class Concern:
    """Who wants to hear of one event: what is left to ask a plugin are its hints."""

    event: cluster_events.ClusterEvent
    by_plugin: Interests
    of_others: Sequence[Interest]
    """For a plugin that isn't among those of the profile."""


def concern(wanted: Interests, event: cluster_events.ClusterEvent) -> Concern:
    """The interests of a profile's plugins that `event` is about."""

    def about(interests: Sequence[Interest]) -> tuple[Interest, ...]:
        return tuple(each for each in interests if each.event.matches(event))

    by_plugin = {plugin: about(interests) for plugin, interests in wanted.items()}
    return Concern(event, by_plugin, about(ANYTHING))


def verdict(
    concerned: Concern,
    rejected_by: frozenset[str],
    pending_on: frozenset[str],
    pod: pods.PodInfo,
    old: Object | None,
    new: Object | None,
) -> str:
    """`SKIP`, `AFTER_BACKOFF` or `IMMEDIATELY`: only plugins that have refused the pod are asked.

    A plugin whose hint fails counts as one that says yes: better one attempt too many than a pod
    that waits for nothing.
    """
    for plugin in pending_on:
        if _may_help(concerned, plugin, pod, old, new):
            return IMMEDIATELY
    for plugin in rejected_by:
        if _may_help(concerned, plugin, pod, old, new):
            return AFTER_BACKOFF
    return SKIP


def _may_help(
    concerned: Concern, plugin: str, pod: pods.PodInfo, old: Object | None, new: Object | None
) -> bool:
    for interest in concerned.by_plugin.get(plugin, concerned.of_others):
        try:
            if interest.may_help(pod, old, new):
                return True
        except Exception:  # noqa: BLE001 - a plugin's own code
            _log.exception("queueing hint failed", plugin=plugin, event=concerned.event.label)
            return True
    return False
