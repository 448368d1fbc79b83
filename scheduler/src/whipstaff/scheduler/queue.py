"""The scheduling queue: which pod is tried next, and when one that was refused is tried again.

No loop runs here, and no time passes but what the caller's clock says: the cycle pops, the event
handlers of `cluster_state` add, update, delete and move, and a ticker calls the two flushes.
A waiting pod is in exactly one of four places, or in flight between `pop` and `done`:

- active: ready to be tried, a heap in the order of the profile's QueueSort;
- backoff: ready but for its backoff (1 s, doubled at each refusal, at most 10 s), a heap by the
  second in which that ends. A pod whose last attempt ended in an error waits in a heap of its own;
- unschedulable: refused by plugins, until an event that one of these plugins says may help;
- gated: never tried, because a PreEnqueue plugin holds it.

Events that arrive while a pod is in flight are kept and replayed when it is refused, so none is
missed. When nothing is active, pods are popped from backoff ahead of time, but not those that
failed with an error.

The queue also keeps its `promises` true: which waiting pod is nominated to which node.

Answers to `pkg/scheduler/backend/queue`. Left out: pod groups.
"""

import collections
import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from whipstaff.scheduler import cluster_events, nominator, pods, queueing_hints

Object = dict[str, Any]

ACTIVE, BACKOFF, UNSCHEDULABLE, GATED = "active", "backoff", "unschedulable", "gated"
POD_POPPED = "PodPopped"

INITIAL_BACKOFF = 1.0
MAX_BACKOFF = 10.0
MAX_IN_UNSCHEDULABLE = 300.0
BACKOFF_WINDOW = 1.0
"""Backoffs end at whole seconds, so that pods of one second leave in the order of QueueSort."""


@dataclasses.dataclass(slots=True, eq=False)
class QueuedPod:
    """A pod that waits, and what its attempts so far have taught. Times are the queue's clock."""

    pod: pods.PodInfo
    timestamp: float
    """When it was last put in the queue, not when it was created."""
    first_active: float | None = None
    """When it could be tried for the first time: gates don't count as the scheduler's time."""
    attempts: int = 0
    unschedulable_count: int = 0
    consecutive_errors: int = 0
    rejected_by: frozenset[str] = frozenset()
    """Plugins that refused it; empty when the last attempt ended in an error."""
    pending_on: frozenset[str] = frozenset()
    """Plugins that wait for something: their event moves the pod without backoff."""
    gated_by: str = ""
    flushed: bool = False
    place: str = ""
    backoff_ends: float | None = None
    heap_entry: "_Entry | None" = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self.pod.key

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.pod.uid

    @property
    def profile(self) -> str:
        """The scheduler name that the pod asks for."""
        return self.pod.scheduler_name

    @property
    def rejectors(self) -> frozenset[str]:
        """Every plugin that has a say in when the pod is tried again."""
        return self.rejected_by | self.pending_on


_Entry: TypeAlias = tuple[Any, int, QueuedPod]


@dataclasses.dataclass(slots=True, eq=False)
class _Event:
    event: cluster_events.ClusterEvent
    old: Object | None
    new: Object | None
    concerns: dict[str, queueing_hints.Concern] = dataclasses.field(default_factory=dict)
    """Who wants to hear of it, by profile, as far as that was asked."""


class _Heap:
    """Pods by a key taken when they are put in; removal is lazy."""

    def __init__(self, sort_key: Callable[[QueuedPod], Any]) -> None:
        self._sort_key = sort_key
        self._entries: list[_Entry] = []
        self._counter = itertools.count()
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, pod: QueuedPod) -> None:
        entry = (self._sort_key(pod), next(self._counter), pod)
        pod.heap_entry = entry
        heapq.heappush(self._entries, entry)
        self._live += 1

    def discard(self, pod: QueuedPod) -> None:
        pod.heap_entry = None
        self._live -= 1
        if len(self._entries) > 64 and self._live < len(self._entries) // 2:
            self._entries = [entry for entry in self._entries if entry[2].heap_entry is entry]
            heapq.heapify(self._entries)

    def sort(self, pod: QueuedPod) -> None:
        """Moves a pod that is in it already, if its key has changed."""
        if pod.heap_entry is not None and pod.heap_entry[0] != self._sort_key(pod):
            self.discard(pod)
            self.push(pod)

    def peek(self) -> QueuedPod | None:
        while self._entries:
            entry = self._entries[0]
            if entry[2].heap_entry is entry:
                return entry[2]
            heapq.heappop(self._entries)
        return None

    def pop(self) -> QueuedPod | None:
        pod = self.peek()
        if pod is not None:
            heapq.heappop(self._entries)
            pod.heap_entry = None
            self._live -= 1
        return pod


class SchedulingQueue:
    """The pods that wait for a node. Not for threads: everything happens on one loop.

    `now` is the clock, in seconds from anywhere; `sort_key` is the profiles' QueueSort; `gate` is
    PreEnqueue: the name of the plugin that holds a pod, or an empty text; `holds` asks one plugin
    alone, which held the pod until now; `interests` says for each profile which plugin wants to
    hear of which events; `wake` is called whenever `pop` may have something after it had nothing.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        sort_key: Callable[[QueuedPod], Any],
        gate: Callable[[pods.PodInfo], str] = lambda _: "",
        holds: Callable[[pods.PodInfo, str], bool] | None = None,
        interests: Mapping[str, queueing_hints.Interests] | None = None,
        initial_backoff: float = INITIAL_BACKOFF,
        max_backoff: float = MAX_BACKOFF,
        max_in_unschedulable: float = MAX_IN_UNSCHEDULABLE,
        wake: Callable[[], None] = lambda: None,
        promises: nominator.Nominator | None = None,
    ) -> None:
        self._now = now
        self._gate = gate
        self._holds = holds or (lambda pod, plugin: gate(pod) == plugin)
        self._interests = dict(interests or {})
        self._initial_backoff = initial_backoff
        self._max_backoff = max_backoff
        self._max_in_unschedulable = max_in_unschedulable
        self._wake = wake
        self.promises = nominator.Nominator() if promises is None else promises
        self._pods: dict[str, QueuedPod] = {}
        self._unschedulable: dict[str, QueuedPod] = {}
        self._active = _Heap(sort_key)
        self._backoff = _Heap(lambda pod: (self._backoff_end(pod), sort_key(pod)))
        self._error_backoff = _Heap(self._backoff_end)
        self._in_flight: dict[str, int] = {}
        self._events: collections.deque[tuple[int, _Event]] = collections.deque()
        self._event_counter = 0
        self._interesting: dict[cluster_events.ClusterEvent, Sequence[tuple[str, str]]] = {}
        self._concerns: dict[tuple[str, cluster_events.ClusterEvent], queueing_hints.Concern] = {}
        self.incoming: collections.Counter[tuple[str, str]] = collections.Counter()
        """Pods that entered a queue, by (queue, event): scheduler_queue_incoming_pods_total."""
        self.rejections: collections.Counter[tuple[str, str]] = collections.Counter()
        """Pods that now wait because of (plugin, profile): scheduler_unschedulable_pods."""

    # Reading.

    def __contains__(self, key: str) -> bool:
        return key in self._pods

    def get(self, key: str) -> QueuedPod | None:
        """The waiting pod of that `namespace/name`; None also while it is in flight."""
        return self._pods.get(key)

    def waiting(self) -> Collection[QueuedPod]:
        """Every waiting pod but those in flight."""
        return self._pods.values()

    def lengths(self) -> dict[str, int]:
        """How many pods wait in each place: scheduler_pending_pods."""
        gated = sum(1 for pod in self._unschedulable.values() if pod.gated_by)
        return {
            ACTIVE: len(self._active),
            BACKOFF: len(self._backoff) + len(self._error_backoff),
            UNSCHEDULABLE: len(self._unschedulable) - gated,
            GATED: gated,
        }

    def in_flight(self, uid: str) -> bool:
        """Whether the pod of that uid was popped and isn't done."""
        return uid in self._in_flight

    def in_flight_events(self) -> collections.Counter[str]:
        """How many events are kept for pods in flight, by label: scheduler_inflight_events.

        And under `POD_POPPED` how many such pods there are.
        """
        counts = collections.Counter(happened.event.label for _, happened in self._events)
        counts[POD_POPPED] = len(self._in_flight)
        return counts

    # Pods come, change and go.

    def add(self, pod: pods.PodInfo) -> None:
        """A pod that waits and wasn't known before."""
        self._enter(pod, cluster_events.UNSCHEDULABLE_POD_ADD.label)

    def update(self, old: Object, new: pods.PodInfo) -> None:
        """A waiting pod changed: it may move if a plugin that refused it says this may help.

        `old` is the raw pod before.
        """
        queued = self._pods.get(new.key)
        if new.uid in self._in_flight:
            for change in cluster_events.pod_changes(old, new.raw):
                self._remember(_Event(change, old, new.raw))
        elif queued is None or queued.uid != new.uid:
            self._enter(new, cluster_events.UNSCHEDULABLE_POD_UPDATE.label)
        else:
            queued.pod = new
            self.promises.update(old, new)
            self._updated(queued, old)

    def _updated(self, queued: QueuedPod, old: Object) -> None:
        """Puts a pod that has changed where it belongs by now."""
        if queued.place == UNSCHEDULABLE:
            for change in cluster_events.pod_changes(old, queued.pod.raw):
                verdict = self._verdict(queued, _Event(change, old, queued.pod.raw))
                if self._follow(queued, verdict, change.label):
                    break
        else:
            self._heap_of(queued).sort(queued)

    def delete(self, key: str) -> None:
        """A pod no longer waits: it is gone, or bound."""
        queued = self._pods.get(key)
        if queued is None:
            return
        self._take_out(queued)
        self._count_rejections(queued, -1)
        self.promises.remove(queued.uid)

    def _enter(self, pod: pods.PodInfo, event: str) -> None:
        if pod.key in self._pods:
            self.delete(pod.key)
        queued = QueuedPod(pod, self._now())
        self._to_active(queued, event)
        self.promises.remove(pod.uid)
        if queued.place == ACTIVE:
            self.promises.add(pod)

    # Attempts.

    def pop(self) -> QueuedPod | None:
        """The pod to try next, now in flight; None when there is none to try yet."""
        queued = self._active.pop()
        if queued is None:
            queued = self._backoff.pop()
            if queued is None:
                return None
            self.incoming[ACTIVE, cluster_events.POP_FROM_BACKOFF] += 1
        queued.place = ""
        del self._pods[queued.key]
        queued.attempts += 1
        self._in_flight[queued.uid] = self._event_counter
        self._count_rejections(queued, -1)
        return queued

    def done(self, uid: str) -> None:
        """The attempt on that pod is over: events kept for it alone are forgotten."""
        self._in_flight.pop(uid, None)
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is None:
            self._events.clear()
            return
        while self._events and self._events[0][0] < oldest:
            self._events.popleft()

    def add_unschedulable(self, queued: QueuedPod) -> None:
        """Puts back a popped pod that got no node: `rejected_by` and `pending_on` say why.

        With neither it failed by an error and waits its error backoff. Otherwise it waits for an
        event, unless one that may help came while it was in flight.
        """
        events = self._events_since(queued.uid)
        self.done(queued.uid)
        if queued.key in self._pods:
            return
        if queued.rejectors:
            queued.unschedulable_count += 1
            queued.consecutive_errors = 0
        else:
            queued.consecutive_errors += 1
        queued.timestamp = self._now()
        queued.backoff_ends = None
        queued.flushed = False
        self._count_rejections(queued, +1)
        event = cluster_events.SCHEDULE_ATTEMPT_FAILURE
        if not queued.rejectors:
            self._requeue(queued, event)
            return
        verdicts = {self._verdict(queued, happened) for happened in events}
        if queueing_hints.IMMEDIATELY in verdicts:
            self._requeue(queued, event, immediately=True)
        elif queueing_hints.AFTER_BACKOFF in verdicts:
            self._requeue(queued, event)
        else:
            self._to_unschedulable(queued, event)

    # Events.

    def move_all(
        self,
        event: cluster_events.ClusterEvent,
        old: Object | None,
        new: Object | None,
        *,
        but: str = "",
        up_to: int | None = None,
    ) -> None:
        """Something happened in the cluster: moves the pods that it may help.

        `old` and `new` are the object before and after; `but` is the uid of a pod to leave alone,
        `up_to` the highest priority of a pod that it helps.
        """
        interested = self._of_interest(event)
        if not interested:
            return
        happened = _Event(event, old, new)
        if any(map(self.rejections.get, interested)) or event.is_wildcard:
            for queued in list(self._unschedulable.values()):
                if queued.uid != but and (up_to is None or queued.pod.priority <= up_to):
                    self._move(queued, happened)
        if self._in_flight:
            self._remember(happened)

    def activate(self, activated: Iterable[pods.PodInfo]) -> None:
        """Moves these pods to the active queue, whatever they wait for.

        One that is in flight is tried again after its backoff if it gets no node now.
        """
        for pod in activated:
            queued = self._pods.get(pod.key)
            if queued is not None and queued.place in (UNSCHEDULABLE, BACKOFF):
                was_gated = queued.place == UNSCHEDULABLE
                self._take_out(queued)
                self._to_active(queued, cluster_events.FORCE_ACTIVATE.label, gate=was_gated)
            elif pod.uid in self._in_flight:
                self._remember(_Event(cluster_events.FORCE_ACTIVATE, None, pod.raw))

    def flush_backoff(self) -> None:
        """Moves the pods whose backoff is over to the active queue. Wanted once a second."""
        for heap in (self._backoff, self._error_backoff):
            while (queued := heap.peek()) is not None and not self._backing_off(queued):
                self._take_out(queued)
                self._to_active(queued, cluster_events.BACKOFF_COMPLETE, gate=False)

    def flush_unschedulable(self) -> None:
        """Moves the pods that were left alone for five minutes. Wanted every thirty seconds."""
        limit = self._now() - self._max_in_unschedulable
        event = _Event(cluster_events.UNSCHEDULABLE_TIMEOUT, None, None)
        for queued in list(self._unschedulable.values()):
            if queued.timestamp < limit and self._move(queued, event):
                queued.flushed = True

    def _of_interest(self, event: cluster_events.ClusterEvent) -> Sequence[tuple[str, str]]:
        """The plugins, with their profiles, that ever move a pod for such an event."""
        known = self._interesting.get(event)
        if known is None:
            known = self._interesting[event] = tuple(
                (plugin, profile)
                for profile, interests in self._interests.items()
                for plugin, wanted in interests.items()
                if event.is_wildcard or any(each.event.matches(event) for each in wanted)
            )
        return known

    def _remember(self, happened: _Event) -> None:
        self._events.append((self._event_counter, happened))
        self._event_counter += 1

    def _events_since(self, uid: str) -> Sequence[_Event]:
        start = self._in_flight.get(uid)
        if start is None or not self._events:
            return ()
        return [happened for number, happened in self._events if number >= start]

    def _move(self, queued: QueuedPod, happened: _Event) -> bool:
        """Moves `queued` out of unschedulable if the event may help; whether it did."""
        if queued.gated_by:
            concerned = self._concern(queued.profile, happened)
            if not concerned.by_plugin.get(queued.gated_by):
                return False
            if self._holds(queued.pod, queued.gated_by):
                return False
        return self._follow(queued, self._verdict(queued, happened), happened.event.label)

    def _follow(self, queued: QueuedPod, verdict: str, label: str) -> bool:
        """Moves `queued` out of unschedulable as `verdict` says; whether it did."""
        if verdict == queueing_hints.SKIP:
            return False
        self._requeue(queued, label, immediately=verdict == queueing_hints.IMMEDIATELY)
        return queued.place != UNSCHEDULABLE

    def _verdict(self, queued: QueuedPod, happened: _Event) -> str:
        if not queued.rejectors:
            return queueing_hints.AFTER_BACKOFF
        if happened.event.is_wildcard:
            # With a pod it is for that pod alone.
            if happened.new is not None and happened.new["metadata"]["uid"] != queued.uid:
                return queueing_hints.SKIP
            return queueing_hints.AFTER_BACKOFF
        return queueing_hints.verdict(
            self._concern(queued.profile, happened),
            queued.rejected_by,
            queued.pending_on,
            queued.pod,
            happened.old,
            happened.new,
        )

    def _concern(self, profile: str, happened: _Event) -> queueing_hints.Concern:
        found = happened.concerns.get(profile)
        if found is None:
            key = profile, happened.event
            found = self._concerns.get(key)
            if found is None:
                wanted = self._interests.get(profile, {})
                found = self._concerns[key] = queueing_hints.concern(wanted, happened.event)
            happened.concerns[profile] = found
        return found

    # From place to place.

    def _requeue(self, queued: QueuedPod, event: str, *, immediately: bool = False) -> None:
        if not immediately and self._backing_off(queued):
            self._to_backoff(queued, event)
        else:
            self._to_active(queued, event)

    def _to_active(self, queued: QueuedPod, event: str, *, gate: bool = True) -> None:
        if gate and self._is_gated(queued, event):
            return
        if queued.first_active is None:
            queued.first_active = self._now()
        self._take_out(queued)
        self._put(queued, ACTIVE, event)
        self._active.push(queued)
        self._wake()

    def _to_backoff(self, queued: QueuedPod, event: str) -> None:
        if self._is_gated(queued, event):
            return
        self._take_out(queued)
        self._put(queued, BACKOFF, event)
        heap = self._heap_of(queued)
        heap.push(queued)
        if heap is self._backoff:
            self._wake()

    def _heap_of(self, queued: QueuedPod) -> _Heap:
        if queued.place == ACTIVE:
            return self._active
        return self._backoff if queued.rejectors else self._error_backoff

    def _to_unschedulable(self, queued: QueuedPod, event: str) -> None:
        if queued.place != UNSCHEDULABLE:
            self._put(queued, UNSCHEDULABLE, event)
        self._unschedulable[queued.key] = queued

    def _is_gated(self, queued: QueuedPod, event: str) -> bool:
        """Runs PreEnqueue; a pod that is held goes to unschedulable."""
        queued.gated_by = self._gate(queued.pod)
        if not queued.gated_by:
            return False
        if queued.gated_by not in queued.rejectors:
            queued.rejected_by |= {queued.gated_by}
            self.rejections[queued.gated_by, queued.profile] += 1
        self._to_unschedulable(queued, event)
        return True

    def _put(self, queued: QueuedPod, place: str, event: str) -> None:
        queued.place = place
        self._pods[queued.key] = queued
        self.incoming[place, event] += 1

    def _take_out(self, queued: QueuedPod) -> None:
        if queued.place in (ACTIVE, BACKOFF):
            self._heap_of(queued).discard(queued)
        elif queued.place == UNSCHEDULABLE:
            del self._unschedulable[queued.key]
        else:
            return
        queued.place = ""
        del self._pods[queued.key]

    def _count_rejections(self, queued: QueuedPod, change: int) -> None:
        for plugin in queued.rejectors:
            self.rejections[plugin, queued.profile] += change

    # Backoff.

    def _backoff_end(self, queued: QueuedPod) -> float:
        """When the backoff is over, a whole second; minus infinity where there is none."""
        count = queued.consecutive_errors or queued.unschedulable_count
        if not count or not self._max_backoff:
            return -math.inf
        if queued.backoff_ends is None:
            length = min(self._initial_backoff * 2.0 ** min(count - 1, 60), self._max_backoff)
            queued.backoff_ends = _window(queued.timestamp + length)
        return queued.backoff_ends

    def _backing_off(self, queued: QueuedPod) -> bool:
        return self._backoff_end(queued) >= _window(self._now())


def _window(time: float) -> float:
    return math.floor(time / BACKOFF_WINDOW) * BACKOFF_WINDOW
