"""The scheduling cycle: a pod from the queue, a node for it, and on to the next.

Its loop: pop, decide, assume, start to bind, without waiting for anything in between. Decisions run
in slices of a few milliseconds; between two slices the event loop takes in watch events and answers
of bindings, so a decision never rests on a picture of the cluster much older than a slice. It owns
what becomes of an attempt: metrics, events, the pod's condition, and its way back into the queue.

While the binder is full the cycle rests: a decision made long before its binding can be sent would
only be made on an older picture. If the watch shows until then that somebody else has put a pod on
the node, or that the node has changed, the binder asks once more (`second_look`); a pod that would
overfill the node isn't bound, and is tried again at once.

A pod that fits nowhere may have others evicted for it (PostFilter): who goes is decided in the same
step, over the same picture, and carried out by `evictions` meanwhile. A pod on its way to a node is
nominated to it where plugins have something to wait for first, so that others know where it goes.

Answers to `pkg/scheduler/schedule_one.go`; what plugins do once a node is chosen is in
`binding_cycle`. Left out: pod groups.
"""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from whipstaff.runtime import events, logs, objects
from whipstaff.scheduler import (
    binder,
    binding_cycle,
    cluster_events,
    cluster_state,
    consultation,
    decision,
    decisions,
    diagnosis,
    evictions,
    extenders,
    framework,
    metrics,
    pod_conditions,
    pods,
    post_filters,
    profile,
    queue,
    second_look,
    snapshot,
)
from whipstaff.scheduler.plugins import defaultpreemption

Object = dict[str, Any]

SLICE = 0.005
"""Seconds of deciding before the event loop gets its turn."""

CONSULTING = 16
"""How many pods that extenders have a say in may be taken out of the queue ahead of their turn: so
many of them the others can overtake."""

_log = logs.get("scheduler.cycle")


@dataclasses.dataclass(slots=True)
class _Attempt:
    """A try to place a pod that has got as far as binding."""

    queued: queue.QueuedPod
    placement: binding_cycle.Placement
    started: float
    sent: float

    async def prepare(self, now: Callable[[], float]) -> framework.Status:
        """Waits for what plugins have to do before anything is sent."""
        status = await self.placement.prepare()
        self.sent = now()
        return status


class Cycle:
    """Schedules pods. Everything that it works with is handed in, and made by `app`.

    `ready` is set whenever `waiting` may have something to pop; `latest` gives the pod of a key as
    the watch last showed it, `seen` how far that has come; `recorders` has one for each profile.
    """

    def __init__(
        self,
        *,
        waiting: queue.SchedulingQueue,
        ready: asyncio.Event,
        cluster: snapshot.Snapshot,
        decider: decision.Decider,
        profiles: Mapping[str, profile.Profile],
        latest: Callable[[str], Object | None],
        handle: binding_cycle.Handle,
        recorders: Mapping[str, events.Recorder],
        conditions: pod_conditions.ConditionWriter,
        ring: decisions.Decisions,
        measured: metrics.Metrics,
        evictor: evictions.Evictor,
        asked: extenders.Extenders | None = None,
        seen: Callable[[], str] = str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._cluster = cluster
        self._decider = decider
        self._profiles = profiles
        self._latest = latest
        self._handle = handle
        self._recorders = recorders
        self._conditions = conditions
        self._ring = ring
        self._measured = measured
        self._evictor = evictor
        self._seen = seen
        self._now = now
        self._ready = ready
        self._extenders = asked
        self._consultation = (
            None if asked is None else consultation.Consultation(asked, decider, cluster)
        )
        self._consulting: asyncio.Queue[queue.QueuedPod] = asyncio.Queue(CONSULTING)
        self._consulted = asyncio.Event()
        self._consulted.set()

    async def run(self, bindings: binder.Binder) -> None:
        """Schedules until cancelled. What is in flight then is for `bindings.drain`."""
        while True:
            await self._ready.wait()
            await bindings.room()
            if self._consultation is not None:
                await self._consulted.wait()
            self._slice(bindings)
            await asyncio.sleep(0)

    async def tick(self) -> None:
        """Lets backoffs end, on whole seconds, and looks after forgotten pods, until cancelled."""
        ticks = 0
        while True:
            await asyncio.sleep(queue.BACKOFF_WINDOW - self._now() % queue.BACKOFF_WINDOW)
            ticks += 1
            self._waiting.flush_backoff()
            if ticks % 30 == 0:
                self._waiting.flush_unschedulable()

    def _slice(self, bindings: binder.Binder) -> None:
        """Decides for some milliseconds, while there are pods and room to bind them."""
        end = self._now() + SLICE
        while bindings.has_room and not self._consulting.full():
            queued = self._waiting.pop()
            if queued is None:
                self._ready.clear()
                return
            binding = self.schedule(queued)
            if binding is not None:
                bindings.start(binding)
            if self._now() >= end:
                return

    def schedule(self, queued: queue.QueuedPod) -> binder.Binding | None:
        """One attempt at a popped pod; the binding to start, or None when it got no node."""
        started = self._now()
        pod = queued.pod
        chosen_profile = self._profiles.get(pod.scheduler_name)
        if chosen_profile is None or self._skip(pod):
            self._waiting.done(pod.uid)
            return None
        if self._consultation is not None and self._consultation.is_needed(pod):
            self._consulting.put_nowait(queued)
            if self._consulting.full():
                self._consulted.clear()
            return None
        since = self._cluster.version
        try:
            decided = self._decider.decide(pod, chosen_profile)
        except Exception as error:  # noqa: BLE001 - a plugin's own code, and one pod of many
            self._crashed(queued, error, started)
            return None
        return self._place(queued, chosen_profile, decided, started, since)

    async def run_consulting(self, bindings: binder.Binder) -> None:
        """Schedules the pods that extenders have a say in, one after the other, until cancelled."""
        while True:
            queued = await self._consulting.get()
            self._consulted.set()
            await bindings.room()
            binding = await self._consult(queued)
            if binding is not None:
                bindings.start(binding)

    async def _consult(self, queued: queue.QueuedPod) -> binder.Binding | None:
        """As `schedule`, with extenders."""
        assert self._consultation is not None
        started = self._now()
        chosen_profile = self._profiles[queued.profile]
        since = self._cluster.version
        try:
            decided = await self._consultation.decide(queued.pod, chosen_profile)
        except Exception as error:  # noqa: BLE001 - a plugin's own code, and one pod of many
            self._crashed(queued, error, started)
            return None
        if self._as_it_is_by_now(queued) is None or self._skip(queued.pod):
            self._waiting.done(queued.uid)
            return None
        if decided.node is None:
            self._measured.algorithm_duration.observe(self._now() - started)
            await self._no_node_consulting(queued, decided, started)
            return None
        return self._place(queued, chosen_profile, decided, started, since)

    def _place(
        self,
        queued: queue.QueuedPod,
        chosen_profile: profile.Profile,
        decided: decision.Decision,
        started: float,
        since: int,
    ) -> binder.Binding | None:
        """Takes the place that was decided on; the binding to start, or None.

        `since` is the version of the cluster over which it was decided.
        """
        pod = queued.pod
        assumed = None
        try:
            self._measured.algorithm_duration.observe(self._now() - started)
            if decided.node is not None:
                assumed = self._cluster.assume(pod, decided.node)
                self._waiting.promises.remove(pod.uid)
        except Exception as error:  # noqa: BLE001 - one pod of many
            self._crashed(queued, error, started)
            return None
        if assumed is None:
            self._no_node(queued, decided, started)
            return None
        self._ring.record(pod.key, pod.uid, decided, scheduler=pod.scheduler_name)
        placement = binding_cycle.Placement(
            chosen_profile,
            decided.state,
            assumed,
            self._handle,
            functools.partial(self._waiting.done, pod.uid),
        )
        status = placement.reserve()
        if not status.is_success:
            self._cluster.forget(pod.uid)
            self._not_placed(queued, assumed.node_name, status, started)
            return None
        attempt = _Attempt(queued, placement, started, self._now())
        binding = binder.Binding(assumed, assumed.node_name, attempt)
        binding.objection = functools.partial(self._look_again, assumed, chosen_profile, since)
        if self._extenders is not None and self._extenders.bind_it(pod):
            binding.delegate = functools.partial(self._extenders.bind, pod, assumed.node_name)
        if placement.needs_preparing:
            self._conditions.nominate(pod, assumed.node_name)
            binding.prepare = functools.partial(attempt.prepare, self._now)
        return binding

    def _look_again(self, placed: pods.PodInfo, plugins: profile.Profile, since: int) -> str:
        """Why a pod whose binding is about to be sent shouldn't be bound, or ""."""
        reason = second_look.objection(placed, plugins, self._cluster, since)
        if not reason and logs.enabled(logs.DEBUG):
            seen = self._seen()
            _log.debug("binding", pod=placed.key, uid=placed.uid, node=placed.node_name, seen=seen)
        return reason

    def _skip(self, pod: pods.PodInfo) -> bool:
        """Whether there is nothing to do for a pod that came out of the queue."""
        if pod.is_terminating:
            note = f"skip schedule deleting pod: {pod.key}"
            self._record(pod, "Warning", "FailedScheduling", "Scheduling", note)
            return True
        return self._cluster.get_pod(pod.uid) is not None

    # What becomes of an attempt.

    def _crashed(self, queued: queue.QueuedPod, error: Exception, started: float) -> None:
        """A plugin or an extender failed; what neither should raise is logged with its place."""
        if not isinstance(error, framework.PluginError | extenders.ExtenderError):
            _log.error("scheduling failed", pod=queued.key, exc_info=error)
        self._failed(queued, str(error) or type(error).__name__, started)

    def _no_node(self, queued: queue.QueuedPod, decided: decision.Decision, started: float) -> None:
        """Plugins rejected every node."""
        failure = decided.failure
        assert failure is not None
        answer = self._look_for_room(queued, failure)
        self._no_room_yet(queued, decided, failure, answer, started)

    async def _no_node_consulting(
        self, queued: queue.QueuedPod, decided: decision.Decision, started: float
    ) -> None:
        """As `_no_node`, with extenders that have a say in who is evicted."""
        assert self._consultation is not None
        failure = decided.failure
        assert failure is not None
        answer = self._look_for_room(queued, failure)
        if answer is not None:
            answer = await self._consultation.preempt(queued.pod, answer)
            failure.post_filter_message = answer.message
        self._no_room_yet(queued, decided, failure, answer, started)

    def _no_room_yet(
        self,
        queued: queue.QueuedPod,
        decided: decision.Decision,
        failure: diagnosis.FitError,
        answer: post_filters.Answer | None,
        started: float,
    ) -> None:
        """Does what PostFilter says, and puts the pod back."""
        nominated = None
        if self._as_it_is_by_now(queued) is not None:
            nominated = self._make_room(queued.pod, answer)
        outcome = None if answer is None else answer.outcome
        message = str(failure)
        self._ring.record(
            queued.key,
            queued.uid,
            decided,
            message,
            scheduler=queued.profile,
            nominated=(outcome and outcome.nominated) or "",
            victims=[victim.key for victim in outcome.victims] if outcome else (),
        )
        self._unschedulable(queued, failure, message, nominated, started)

    def _unschedulable(
        self,
        queued: queue.QueuedPod,
        failure: diagnosis.FitError,
        message: str,
        nominated: str | None,
        started: float,
    ) -> None:
        """The pod fits nowhere for now; `message` is what `failure` comes to in words."""
        self._measured.observe_attempt(metrics.UNSCHEDULABLE, queued.profile, self._now() - started)
        queued.rejected_by = failure.unschedulable_plugins
        queued.pending_on = failure.pending_plugins
        self._put_back(queued, pod_conditions.UNSCHEDULABLE, message, nominated)

    def _look_for_room(
        self, queued: queue.QueuedPod, failure: diagnosis.FitError
    ) -> post_filters.Answer | None:
        """Runs PostFilter for a pod that still waits for a node."""
        if self._as_it_is_by_now(queued) is None:
            return None
        started = self._now()
        plugins = self._profiles[queued.profile]
        answer = self._decider.post_filter(queued.pod, plugins, failure)
        if answer is not None:
            self._measured.preemption_attempts += (
                defaultpreemption.DefaultPreemption.name in answer.asked
            )
            self._measured.extension_point_duration.observe(
                self._now() - started,
                "PostFilter",
                answer.outcome.status.code.label,
                queued.profile,
            )
        return answer

    def _make_room(self, pod: pods.PodInfo, answer: post_filters.Answer | None) -> str | None:
        """Does what PostFilter says; the node that the pod is to wait for from now on.

        "" if for none any more, None if nothing changes.
        """
        if answer is None:
            return ""
        outcome = answer.outcome
        if outcome.nominated and outcome.victims:
            self._evictor.start(pod, outcome.nominated, outcome.victims)
        return outcome.nominated

    def _not_placed(
        self, queued: queue.QueuedPod, node: str, status: framework.Status, started: float
    ) -> None:
        """Once the node was chosen, a plugin said no to it, or failed."""
        if status.is_rejected:
            failure = diagnosis.refused(node, status)
            message = str(failure)
            self._ring.record_failure(queued.key, queued.uid, message, scheduler=queued.profile)
            self._unschedulable(queued, failure, message, "", started)
        else:
            self._failed(queued, status.message, started)

    def _failed(
        self, queued: queue.QueuedPod, message: str, started: float, *, rejected: bool = False
    ) -> None:
        """Something went wrong that says nothing about the pod, whatever it is called."""
        result, reason = metrics.ERROR, pod_conditions.SCHEDULER_ERROR
        if rejected:
            result, reason = metrics.UNSCHEDULABLE, pod_conditions.UNSCHEDULABLE
        self._measured.observe_attempt(result, queued.profile, self._now() - started)
        self._ring.record_failure(queued.key, queued.uid, message, scheduler=queued.profile)
        queued.rejected_by = queued.pending_on = frozenset()
        self._put_back(queued, reason, message, "")

    def _as_it_is_by_now(self, queued: queue.QueuedPod) -> Object | None:
        """The pod as the watch last showed it; None if it doesn't wait for a node any more."""
        raw = self._latest(queued.key)
        if raw is None or objects.uid(raw) != queued.uid or raw["spec"].get("nodeName"):
            return None
        return raw

    def _put_back(
        self, queued: queue.QueuedPod, reason: str, message: str, nominated: str | None
    ) -> None:
        """Back into the queue, as the pod is by now, if it still waits for a node.

        `nominated` is the node that it waits for, "" for none, None if that stays as it was.
        """
        raw = self._as_it_is_by_now(queued)
        if raw is None:
            self._waiting.done(queued.uid)
            return
        if raw is not queued.pod.raw:
            queued.pod = cluster_state.read(raw) or queued.pod
        self._waiting.add_unschedulable(queued)
        self._waiting.promises.add(queued.pod, nominated)
        self._record(queued.pod, "Warning", "FailedScheduling", "Scheduling", message)
        self._conditions.set(queued.pod, reason, message, nominated)

    def settled(self, binding: binder.Binding, settlement: binder.Settlement) -> None:
        """A binding has ended: called by the binder."""
        attempt: _Attempt = binding.token
        queued, pod = attempt.queued, binding.pod
        bound = settlement.outcome is binder.Outcome.BOUND
        if bound:
            attempt.placement.post_bind()
        else:
            attempt.placement.unreserve()
        if settlement.outcome is binder.Outcome.UNPREPARED:
            self._unprepared(attempt, settlement.status)
            return
        if settlement.outcome is binder.Outcome.OVERTAKEN:
            self._overtaken(attempt, settlement.reason)
            return
        self._measured.extension_point_duration.observe(
            self._now() - attempt.sent, "Bind", "Success" if bound else "Error", queued.profile
        )
        match settlement.outcome:
            case binder.Outcome.BOUND:
                self._bound(queued, pod, self._now() - attempt.started)
            case binder.Outcome.REFUSED:
                _log.warning("binding refused", pod=pod.key, node=binding.node, **_why(settlement))
                self._forget(pod)
                self._failed(queued, settlement.reason, attempt.started)
            case binder.Outcome.TAKEN | binder.Outcome.GONE:
                _log.info("pod needs no node any more", pod=pod.key, **_why(settlement))
                self._conditions.drop(pod.uid)
                self._forget(pod)

    def _bound(self, queued: queue.QueuedPod, pod: pods.PodInfo, took: float) -> None:
        self._conditions.drop(pod.uid)
        self._measured.observe_attempt(metrics.SCHEDULED, queued.profile, took)
        waited = self._now() - (queued.first_active or queued.timestamp)
        self._measured.observe_scheduled(queued.attempts, waited, flushed=queued.flushed)
        _log.debug("pod bound", pod=pod.key, node=pod.node_name, attempts=queued.attempts)
        note = f"Successfully assigned {pod.key} to {pod.node_name}"
        self._record(pod, "Normal", "Scheduled", "Binding", note)

    def _unprepared(self, attempt: _Attempt, status: framework.Status) -> None:
        """A plugin stopped the pod on its way. What it held is free for others.

        A pod that was rejected is put back first, so that its own end isn't what helps it. After
        Permit nothing counts as a reason to wait for an event: it is tried again soon.
        """
        pod, node = attempt.placement.pod, attempt.placement.pod.node_name
        _log.info("pod stopped on its way", pod=pod.key, node=node, reason=status.message)
        if status.is_rejected:
            forgotten = self._cluster.forget(pod.uid)
            if attempt.placement.is_permitted:
                self._failed(attempt.queued, status.message, attempt.started, rejected=True)
            else:
                self._not_placed(attempt.queued, node, status, attempt.started)
            if forgotten:
                self._freed(pod, but=pod.uid)
        else:
            self._forget(pod)
            self._failed(attempt.queued, status.message, attempt.started)

    def _overtaken(self, attempt: _Attempt, reason: str) -> None:
        """Somebody else has the place by now: the pod is tried again at once, over what is left.

        Nobody is told, for nothing is known yet of the other nodes.
        """
        queued, pod = attempt.queued, attempt.placement.pod
        _log.info("place was taken meanwhile", pod=pod.key, node=pod.node_name, reason=reason)
        self._measured.overtaken += 1
        took = self._now() - attempt.started
        self._measured.observe_attempt(metrics.UNSCHEDULABLE, queued.profile, took)
        self._forget(pod)
        raw = self._as_it_is_by_now(queued)
        if raw is None:
            self._waiting.done(queued.uid)
            return
        queued.pod = cluster_state.read(raw) or queued.pod
        queued.rejected_by, queued.pending_on = second_look.REJECTED_BY, frozenset()
        self._waiting.add_unschedulable(queued)
        if attempt.placement.needs_preparing:  # and so was nominated to the node
            self._waiting.promises.add(queued.pod, "")
            self._conditions.nominate(queued.pod, "")
        self._waiting.activate([queued.pod])

    def _forget(self, pod: pods.PodInfo) -> None:
        """Takes the assumption back, unless the watch has replaced it, and tells the queue."""
        if self._cluster.forget(pod.uid):
            self._freed(pod)

    def _freed(self, pod: pods.PodInfo, *, but: str = "") -> None:
        held = {**pod.raw, "spec": {**pod.raw["spec"], "nodeName": pod.node_name}}
        self._waiting.move_all(cluster_events.ASSIGNED_POD_DELETE, held, None, but=but)

    def _record(
        self, pod: pods.PodInfo, kind: events.EventType, reason: str, action: str, note: str
    ) -> None:
        self._recorders[pod.scheduler_name].event(pod.raw, kind, reason, action, note)


def _why(settlement: binder.Settlement) -> dict[str, str]:
    return {"reason": settlement.reason} if settlement.reason else {}
