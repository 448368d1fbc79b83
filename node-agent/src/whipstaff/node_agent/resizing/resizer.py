"""Resizing the pods of one node: when they get what they ask for, and how it comes to them.

A pod is handled as what it was allocated (`Resizer.allocated`), whatever its spec says by now. A
spec that asks for something else waits in a queue until the node has room, the least demanding and
the most important first; once allocated, it is actuated by `Resizer.resize`, step by step, and what
is done is noted, so that an agent that died goes on where it was.

Runs no loop; owns the two checkpoint files, the queue, the conditions and one timer. Answers to
``pkg/kubelet/allocation/allocation_manager.go``, doPodResizeAction in ``pkg/kubelet/kuberuntime``
and the resize conditions of ``pkg/kubelet/status/status_manager.go``. Leaves out swap and exclusive
CPUs and memory, which are what makes a resize infeasible, and UpdatePodSandboxResources.
"""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from whipstaff.node_agent import admission, conditions, containers, provider, requirements, timeline
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.resizing import allocations, metrics, plans, reports
from whipstaff.runtime import events, logs, objects

Object = objects.Object
Report = Callable[[Object, events.EventType, str, str], None]

_RETRY_PENDING = 180.0
_RETRY_FAILED = 10.0

_log = logs.get("node_agent.resizing")


class Groups(Protocol):
    """What a resize needs of `cgroups.Manager`. Everything blocks."""

    def numbers(self, pod: Object) -> cgroup_numbers.Numbers:
        """What the pod's resources are to the kernel."""

    def read(self, pod: Object) -> cgroup_numbers.Numbers:
        """What its group has."""

    def write(self, pod: Object, numbers: cgroup_numbers.Numbers) -> None:
        """Set what isn't None."""

    def update(self, pod: Object) -> None:
        """Set all, and count it in its class."""

    def usage(self, uid: str) -> provider.Usage | None:
        """What it uses."""


class Place(Protocol):
    """The pods of the node, as their workers know them."""

    def desired(self, uid: str) -> Object | None:
        """The pod as the API has it; None for one that isn't there, or has ended."""

    def refusal(self, pod: Object) -> admission.Rejection | None:
        """Why the node has no room for what this pod's spec says, its present claim left out."""

    def claim(self, pod: Object) -> None:
        """The pod holds from now on what its spec says here."""

    def resized(self, uid: str) -> None:
        """There is news of the pod's resize: its worker is to decide again."""


class Resizer:
    """Resizes pods.

    Args:
        root: the agent's directory, for the checkpoint files.
        runtime: the provider.
        groups: the pods' control groups.
        line: the clock, for retries.
        report: called with pod, type, reason and note of each event.
    """

    def __init__(
        self,
        root: pathlib.Path,
        runtime: provider.Provider,
        groups: Groups,
        line: timeline.Timeline,
        report: Report,
    ) -> None:
        self._runtime = runtime
        self._groups = groups
        self._line = line
        self._report = report
        self._place: Place = _Nowhere()
        self._allocated = allocations.Checkpoint(root / allocations.ALLOCATED)
        self._actuated = allocations.Checkpoint(root / allocations.ACTUATED)
        self._asked: dict[str, allocations.Resources] = {}
        self._pending: list[str] = []
        self._conditions: dict[str, dict[str, Object]] = {}
        self._retry_at: dict[str, float] = {}
        self._stale: set[str] = set()
        self._group_numbers: dict[str, cgroup_numbers.Numbers] = {}
        self._timer: timeline.Entry | None = None

    def attach(self, place: Place) -> None:
        """Say where the pods are; to be called once, before anything else."""
        self._place = place

    def load(self) -> None:
        """Read what an earlier life of the agent noted.

        Raises:
            allocations.CheckpointError: that isn't possible.
        """
        self._allocated.load()
        self._actuated.load()

    async def close(self) -> None:
        """Note what hasn't been noted yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for checkpoint in (self._allocated, self._actuated):
            try:
                await checkpoint.save()
            except OSError as error:
                _log.error("resources of pods can't be noted", error=str(error))

    # What pods have.

    def allocated(self, pod: Object) -> Object:
        """The pod with what it was allocated in the place of what its spec asks for."""
        return allocations.applied(pod, self._allocated.get(pod["metadata"]["uid"]))

    def admitted(self, pod: Object) -> None:
        """A pod was let in with what its spec asks for."""
        uid = pod["metadata"]["uid"]
        self._asked[uid] = allocations.of_spec(pod["spec"])
        self._allocated.put(uid, self._asked[uid])

    def found(self, pod: Object, runtime: provider.RuntimePod) -> None:
        """A pod runs here since before this agent did; the argument is as the API has it."""
        uid = pod["metadata"]["uid"]
        self._asked[uid] = allocations.of_spec(pod["spec"])
        if self._allocated.get(uid) is None:
            self._allocated.put(uid, self._asked[uid])
        self._conditions[uid] = {
            one["type"]: one
            for one in (pod.get("status") or {}).get("conditions") or ()
            if one["type"] in reports.CONDITIONS
        }
        if reports.IN_PROGRESS in self._conditions[uid]:
            self._stale.add(uid)
        given = self.allocated(pod)
        known = self._actuated.get(uid)
        for definition in containers.init(given["spec"]) + containers.regular(given["spec"]):
            name = definition["name"]
            run = runtime.latest(name)
            if run is None or (known is not None and name in known.containers):
                continue
            if run.resources is None or plans.is_given(run, definition, given["spec"]):
                self.started(given, definition)
            else:
                self._actuated.put_container(uid, name, dict(run.resources))
        if known is None or known.pod is None:
            self.grouped(given)
        if given is not pod:
            self._push(uid)
            # Not before all pods are here, or what they hold would be given away.
            self._line.after(1.0, self.retry, "pods_added")

    def started(self, pod: Object, definition: Object) -> None:
        """A container was started with what it was allocated."""
        own = definition.get("resources") or {}
        limits = dict(own.get("limits") or {})
        for name, quantity in ((pod["spec"].get("resources") or {}).get("limits") or {}).items():
            if name in {"cpu", "memory"}:
                limits.setdefault(name, quantity)
        resources = {**own, "limits": limits} if limits else own
        self._actuated.put_container(pod["metadata"]["uid"], definition["name"], resources)

    def grouped(self, pod: Object) -> None:
        """A pod's control group was made with what it was allocated."""
        if pod["spec"].get("resources"):
            self._actuated.put_pod(pod["metadata"]["uid"], pod["spec"]["resources"])

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._allocated.discard(uid)
        self._actuated.discard(uid)
        for known in (self._asked, self._conditions, self._retry_at, self._group_numbers):
            known.pop(uid, None)
        self._stale.discard(uid)
        if uid in self._pending:
            self._pending.remove(uid)
        self._gauge()

    def retain(self, uids: Iterable[str]) -> None:
        """Forget what is noted of all pods but these."""
        kept = set(uids)
        self._allocated.retain(kept)
        self._actuated.retain(kept)

    # Getting room.

    def noticed(self, pod: Object) -> None:
        """The spec of an admitted pod may have changed; the argument is as the API has it."""
        uid = pod["metadata"]["uid"]
        asked = allocations.of_spec(pod["spec"])
        before = self._asked.get(uid)
        self._asked[uid] = asked
        if before is None or before == asked:
            return
        metrics.count_requested(before, pod["spec"])
        if self.allocated(pod) is pod:
            # Asked for, and taken back before there was room.
            if uid in self._pending:
                self._pending.remove(uid)
            self._clear(uid, reports.PENDING)
            return
        self._push(uid)
        self.retry("pod_updated")

    def retry(self, trigger: str) -> None:
        """Allocate what there is room for by now.

        Args:
            trigger: what may have made room, for the metrics.
        """
        if not self._pending:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._line.after(_RETRY_PENDING, self.retry, "periodic_retry")
        waiting, self._pending = self._sorted(), []
        for uid, pod in waiting:
            known = self._conditions.get(uid, {})
            before = dict(known)
            was_deferred = (known.get(reports.PENDING) or {}).get("reason") == reports.DEFERRED
            if self._allocate(uid, pod):
                if was_deferred:
                    metrics.deferred_accepted.labels(trigger).inc()
            else:
                self._pending.append(uid)
            if self._conditions.get(uid, {}) != before:
                self._place.resized(uid)
        self._gauge()

    def _push(self, uid: str) -> None:
        if uid not in self._pending:
            self._pending.append(uid)

    def _sorted(self) -> list[tuple[str, Object]]:
        found = [(uid, self._place.desired(uid)) for uid in self._pending]
        waiting = [(uid, pod) for uid, pod in found if pod is not None]
        return sorted(waiting, key=lambda item: self._rank(*item))

    def _rank(self, uid: str, pod: Object) -> tuple[bool, int, bool, str]:
        """What doesn't ask for more comes first; then priority, class, and how long it waits."""
        had = requirements.requests(self.allocated(pod)["spec"])
        asked = requirements.requests(pod["spec"])
        grows = any(asked.get(name, 0) > had.get(name, 0) for name in plans.RESOURCES)
        pending = self._conditions.get(uid, {}).get(reports.PENDING)
        return (
            grows,
            -int(pod["spec"].get("priority") or 0),
            cgroup_numbers.qos_class(pod) != "Guaranteed",
            pending["lastTransitionTime"] if pending else "~",
        )

    def _allocate(self, uid: str, pod: Object) -> bool:
        """Allocate what a pod asks for; False if there is no room."""
        if self.allocated(pod) is pod:
            self._clear(uid, reports.PENDING)
            return True
        generation = pod["metadata"].get("generation", 0)
        refusal = self._place.refusal(pod)
        if refusal is None:
            self._allocated.put(uid, allocations.of_spec(pod["spec"]))
            self._place.claim(pod)
            self._clear(uid, reports.PENDING)
            self._clear(uid, reports.IN_PROGRESS)
            self._retry_at.pop(uid, None)
            self._stale.add(uid)
            self._set(uid, reports.IN_PROGRESS, "", "", generation)
            note = reports.summary("Pod resize started", pod, generation)
            self._report(pod, "Normal", "ResizeStarted", note)
            return True
        before = self._conditions.get(uid, {}).get(reports.PENDING) or {}
        self._set(uid, reports.PENDING, reports.DEFERRED, refusal.message, generation)
        if (before.get("reason"), before.get("observedGeneration", 0)) != (
            reports.DEFERRED,
            generation,
        ):
            title = f"Pod resize {refusal.reason}"
            note = reports.summary(title, pod, generation, refusal.message)
            self._report(pod, "Warning", "ResizeDeferred", note)
        return False

    # Making it true.

    def plan(self, pod: Object, runtime: provider.RuntimePod) -> plans.Plan:
        """What is to be done now for a pod to have what it was allocated.

        Args:
            pod: the pod with what it was allocated.
            runtime: what runs.
        """
        uid = pod["metadata"]["uid"]
        if self._retry_at.get(uid, 0.0) > self._line.clock():
            return plans.Plan()
        self._retry_at.pop(uid, None)
        return plans.plan(pod, runtime, self._actuated.get(uid), group=uid in self._stale)

    def retry_at(self, uid: str) -> float | None:
        """When a resize that failed is tried again, in seconds since the epoch."""
        return self._retry_at.get(uid)

    async def resize(self, pod: Object, runtime: provider.RuntimePod, todo: plans.Plan) -> None:
        """Carry a plan out, but for its restarts; what fails is told and tried again later.

        The pod's group isn't made smaller before what is to restart has restarted: the next plan
        does that.
        """
        uid = pod["metadata"]["uid"]
        began = time.perf_counter()
        success = True
        self._stale.discard(uid)
        try:
            await self._resize(pod, runtime, todo)
        except (_UnfitError, OSError, provider.ProviderError) as error:
            success = False
            self._stale.add(uid)
            self._failed(pod, str(error))
        taken = (time.perf_counter() - began) * 1000
        metrics.duration.labels(str(success).lower()).observe(taken)
        self._group_numbers.pop(uid, None)

    async def _resize(self, pod: Object, runtime: provider.RuntimePod, todo: plans.Plan) -> None:
        # Should the agent die now, the next one must know what was allowed.
        await self._allocated.save()
        current = await asyncio.to_thread(self._groups.read, pod)
        wanted = await asyncio.to_thread(self._groups.numbers, pod)
        await self._check(pod, runtime, todo, current, wanted)
        for resource in plans.RESOURCES:
            if not todo.touches(resource):
                continue
            before, after = plans.group_writes(resource, current, wanted)
            for numbers in before:
                await asyncio.to_thread(self._groups.write, pod, numbers)
            for update in todo.updates(resource):
                await self._update(pod, update, resource)
            for numbers in after if not todo.restarts else ():
                await asyncio.to_thread(self._groups.write, pod, numbers)
        uid = pod["metadata"]["uid"]
        if todo.restarts:
            # What is to restart may still hold more than the group is to have.
            self._stale.add(uid)
        else:
            await asyncio.to_thread(self._groups.update, pod)
        if todo.pod_level:
            self._actuated.put_pod(uid, pod["spec"].get("resources"))

    async def _check(
        self,
        pod: Object,
        runtime: provider.RuntimePod,
        todo: plans.Plan,
        current: cgroup_numbers.Numbers,
        wanted: cgroup_numbers.Numbers,
    ) -> None:
        """Refuse to lower a memory limit below what is used: that would kill what it bounds."""
        pod_limit, container_limits = plans.shrinking(todo, current, wanted)
        if todo.restarts:
            pod_limit = 0
        if not (pod_limit or container_limits):
            return
        uid = pod["metadata"]["uid"]
        used = await asyncio.to_thread(self._groups.usage, uid)
        usages = await self._runtime.stats(uid)
        text = plans.complaint(pod_limit, container_limits, used, usages, runtime.containers)
        if text:
            raise _UnfitError(text)

    async def _update(self, pod: Object, update: plans.Update, resource: plans.Resource) -> None:
        definition = update.definition_for(resource)
        await self._runtime.update_resources(pod, update.run, definition)
        self._actuated.put_container(
            pod["metadata"]["uid"], update.run.name, plans.resources_of(update.after(resource))
        )

    def _failed(self, pod: Object, text: str) -> None:
        uid = pod["metadata"]["uid"]
        self._retry_at[uid] = self._line.clock() + _RETRY_FAILED
        generation = pod["metadata"].get("generation", 0)
        before = self._conditions.get(uid, {}).get(reports.IN_PROGRESS) or {}
        self._set(uid, reports.IN_PROGRESS, reports.ERROR, text, generation)
        if (before.get("reason"), before.get("message")) != (reports.ERROR, text):
            generation = before.get("observedGeneration", generation)
            note = reports.summary("Pod resize error", pod, generation, text)
            self._report(pod, "Warning", "ResizeError", note)

    # Telling.

    def complete(self, pod: Object, runtime: provider.RuntimePod, status: Object) -> Object:
        """A status with what there is to say of resizes: conditions, and the pod's own resources.

        Args:
            pod: the pod with what it was allocated.
            runtime: what runs.
            status: the status without that; it isn't changed.
        """
        uid = pod["metadata"]["uid"]
        self._look(pod, runtime, over=conditions.is_terminal(status))
        completed = dict(status)
        known = self._conditions.get(uid, {})
        told = [known[kind] for kind in (reports.PENDING, reports.IN_PROGRESS) if kind in known]
        others = [c for c in status.get("conditions") or () if c["type"] not in reports.CONDITIONS]
        if told or len(others) != len(status.get("conditions") or ()):
            completed["conditions"] = [*told, *others]
        resources, allocated = reports.of_pod(
            pod, self._numbers_of(pod, status), pod.get("status") or {}
        )
        found = {"resources": resources, "allocatedResources": allocated}
        return completed | {name: amounts for name, amounts in found.items() if amounts}

    def _look(self, pod: Object, runtime: provider.RuntimePod, *, over: bool) -> None:
        """Note whether a resize is under way, and tell when it is done."""
        uid = pod["metadata"]["uid"]
        if over:
            self._clear(uid, reports.PENDING)
            self._clear(uid, reports.IN_PROGRESS)
            return
        waits = uid in self._stale and runtime.sandbox is not None and runtime.sandbox.ready
        if waits or plans.in_progress(pod, runtime, self._actuated.get(uid)):
            self._set(uid, reports.IN_PROGRESS, "", "", pod["metadata"].get("generation", 0))
            return
        done = self._clear(uid, reports.IN_PROGRESS)
        if done is not None:
            generation = done.get("observedGeneration", 0)
            note = reports.summary("Pod resize completed", pod, generation)
            self._report(pod, "Normal", "ResizeCompleted", note)

    def _numbers_of(self, pod: Object, status: Object) -> cgroup_numbers.Numbers | None:
        """What a running pod's group has, read once and after each resize."""
        if status.get("phase") != "Running":
            return None
        uid = pod["metadata"]["uid"]
        if uid not in self._group_numbers:
            try:
                self._group_numbers[uid] = self._groups.read(pod)
            except OSError as error:
                _log.warning("a pod's group can't be read", uid=uid, error=str(error))
                return None
        return self._group_numbers[uid]

    def _set(self, uid: str, kind: str, reason: str, message: str, generation: int) -> None:
        """Set a condition. One in progress keeps its generation, and its error unless another."""
        known = self._conditions.setdefault(uid, {})
        old = known.get(kind)
        if kind == reports.IN_PROGRESS and old is not None:
            if not (reason or message):
                return
            generation = old.get("observedGeneration", 0)
        unchanged = old is not None and (
            old.get("reason", ""),
            old.get("message", ""),
            old.get("observedGeneration", 0),
        ) == (reason, message, generation)
        if not unchanged:
            now = self._line.clock()
            known[kind] = reports.condition(kind, reason, message, generation, old, now)
        self._gauge()

    def _clear(self, uid: str, kind: str) -> Object | None:
        cleared = self._conditions.get(uid, {}).pop(kind, None)
        if cleared is not None:
            self._gauge()
        return cleared

    def _gauge(self) -> None:
        told = [one for known in self._conditions.values() for one in known.values()]
        deferred = sum(one.get("reason") == reports.DEFERRED for one in told)
        metrics.pending.labels("deferred").set(deferred)
        metrics.in_progress.set(sum(one["type"] == reports.IN_PROGRESS for one in told))


class _Nowhere:
    """No pods at all."""

    def desired(self, uid: str) -> Object | None:
        del uid
        return None

    def refusal(self, pod: Object) -> admission.Rejection | None:
        raise NotImplementedError(pod["metadata"]["uid"])

    def claim(self, pod: Object) -> None:
        raise NotImplementedError(pod["metadata"]["uid"])

    def resized(self, uid: str) -> None:
        raise NotImplementedError(uid)


class _UnfitError(Exception):
    """A resize would harm what runs."""
