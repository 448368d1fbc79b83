"""The scheduler's attempts in thought: pods from a queue, each to its best node, or somebody goes.

No loop runs here but the one over the pods. They are decided about in the order of the queue, one
after the other, by the engine of the running scheduler, and each counts on its node for the next.
Where none fits, PostFilter is asked; its victims go at once, and those that have an owner come back
and are decided about after the others. In the end, pods that stayed pending are tried once more as
long as something happened since, as events wake them in a cluster.

Answers to `pkg/scheduler/schedule_one.go` in the order of things. Left out: backoff, and time as
such; Permit and PreBind plugins, which wait for something; extenders, which would have to be asked.
"""

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

from whipstaff.runtime import client, objects
from whipstaff.scheduler import (
    binding_cycle,
    decision,
    framework,
    offline,
    plugins,
    pods,
    profile,
    queue,
    unsupported,
)
from whipstaff.scheduler.simulation import budgets, results

Choose = Callable[[pods.PodInfo], profile.Profile | None]
Report = Callable[[int, int], None]
"""Told how many of how many are done."""

_RESERVE = 'running Reserve plugin "{}"'
_OURS = frozenset({*plugins.BUILT.values(), unsupported.Unsupported})


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A pod that is to be placed.

    `was_on` is the node that it was evicted from, `charged` are the budgets that its eviction drew
    on, which have it back once it is placed.
    """

    pod: pods.PodInfo
    workload: str
    was_on: str = ""
    charged: tuple[str, ...] = ()


class _NoServer:
    """Stands where plugins may look for the API server."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"a simulation has no API server ({name})")


def silent(_done: int, _total: int) -> None:
    """Reports to nobody."""


class Attempts:
    """Places pods in a cluster that stands still, and keeps what became of them.

    Attributes:
        evictions: whom preemption evicted, in order.
    """

    def __init__(
        self,
        there: offline.Offline,
        choose: Choose,
        kept: budgets.Budgets,
        *,
        preempt: bool = True,
        report: Report = silent,
    ) -> None:
        self._there = there
        self._choose = choose
        self._budgets = kept
        self._preempt = preempt
        self._report = report
        self._handle = binding_cycle.Handle(
            cast("client.Client", _NoServer()), there.cluster, there.latest
        )
        self._numbers = itertools.count()
        self._changes = 0
        self._failed: dict[object, tuple[int, str]] = {}
        self._outcomes: dict[str, results.Outcome] = {}
        self.evictions: list[results.Eviction] = []

    @property
    def outcomes(self) -> tuple[results.Outcome, ...]:
        """What became of each pod, as of its last attempt; in the order of the first ones."""
        return tuple(self._outcomes.values())

    def place(self, wanted: Sequence[Wanted]) -> None:
        """Decides about pods, and about those that are evicted for them."""
        waiting: list[tuple[Any, int, Wanted]] = []
        self._enqueue(waiting, wanted)
        total, done = len(wanted), 0
        pending: list[Wanted] = []
        before = self._changes
        while waiting:
            _, _, each = heapq.heappop(waiting)
            returning = self._attempt(each)
            if not self._outcomes[each.pod.key].node:
                pending.append(each)
            if returning:
                total += len(returning)
                self._enqueue(waiting, returning)
            done += 1
            self._report(done, total)
            if not waiting and pending and self._changes != before:
                before = self._changes
                total += len(pending)
                self._enqueue(waiting, pending)
                pending = []

    def _enqueue(self, waiting: list[tuple[Any, int, Wanted]], more: Sequence[Wanted]) -> None:
        for each in more:
            number = next(self._numbers)
            chosen = self._choose(each.pod)
            queued = queue.QueuedPod(each.pod, float(number))
            key = chosen.queue_sort.sort_key(queued) if chosen else (-each.pod.priority, number)
            heapq.heappush(waiting, (key, number, each))

    def _attempt(self, wanted: Wanted) -> list[Wanted]:
        """One attempt; the pods that come back because they were evicted for it."""
        pod, plugins_of = wanted.pod, self._choose(wanted.pod)
        if plugins_of is None:
            self._note(wanted, f"no profile is called {pod.scheduler_name}")
            return []
        alike = self._alike(pod, plugins_of)
        known = self._failed.get(alike) if alike is not None else None
        if known is not None and known[0] == self._changes:
            self._note(wanted, known[1])
            return []
        try:
            message, returning = self._decide(wanted, plugins_of)
        except framework.PluginError as error:
            message, returning = str(error), []
        if message:
            self._note(wanted, message)
            if alike is not None:
                self._failed[alike] = (self._changes, message)
        return returning

    def _decide(self, wanted: Wanted, plugins_of: profile.Profile) -> tuple[str, list[Wanted]]:
        """Why the pod stays pending, or "", and who comes back."""
        pod = wanted.pod
        for plugin in plugins_of.pre_enqueue:
            status = plugin.pre_enqueue(pod)
            if not status.is_success:
                return status.message, []
        decided = self._there.decide(pod, plugins_of)
        returning: list[Wanted] = []
        evicts: tuple[str, ...] = ()
        if decided.failure is not None and self._preempt:
            evicts, returning = self._make_room(pod, plugins_of, decided)
            if evicts:
                decided = self._there.decide(pod, plugins_of)
        if decided.node is None:
            return str(decided.failure), returning
        refused = self._take(wanted, plugins_of, decided)
        if not refused:
            self._note(wanted, "", decided, evicts)
        return refused, returning

    def _make_room(
        self, pod: pods.PodInfo, plugins_of: profile.Profile, decided: decision.Decision
    ) -> tuple[tuple[str, ...], list[Wanted]]:
        assert decided.failure is not None
        answer = self._there.make_room(pod, decided.failure, plugins_of)
        if answer is None or not answer.outcome.status.is_success or not answer.outcome.victims:
            return (), []
        victims = answer.outcome.victims
        returning = [
            found
            for victim in victims
            if (found := self.evict(victim, preemptor=pod.key)) is not None
        ]
        self._there.promises.add(pod, answer.outcome.nominated)
        return tuple(victim.key for victim in victims), returning

    def evict(
        self,
        victim: pods.PodInfo,
        *,
        preemptor: str = "",
        overriding: bool = True,
        wave: int = 1,
    ) -> Wanted | None:
        """Takes a pod off its node; what its owner would create in its place, if it has one.

        The budgets that cover it are drawn on; those that don't allow it are named if `overriding`.
        """
        blocking = self._budgets.blocking(victim) if overriding else ()
        charged = self._budgets.draw(victim)
        raw = self._there.latest(victim.key) or victim.raw
        self._there.remove(raw)
        self._there.cluster.remove_pod(victim.uid)
        self._changes += 1
        # An owner has replaced a pod already that is on its way out.
        returns = objects.owner(victim.raw) is not None and not victim.is_terminating
        self.evictions.append(
            results.Eviction(
                victim.key,
                victim.node_name,
                victim.priority,
                preemptor,
                blocking,
                returns,
                wave,
            )
        )
        before = self._outcomes.get(victim.key)
        if not returns:
            if before is not None:
                self._outcomes[victim.key] = dataclasses.replace(
                    before, node="", score=0, scores={}, message=f"evicted for {preemptor}"
                )
            return None
        # Where it was first is where a drain or a preemption took it from.
        was_on = before.was_on if before is not None else victim.node_name
        return Wanted(successor(victim), workload_of(victim.raw), was_on, charged)

    def _take(self, wanted: Wanted, plugins_of: profile.Profile, decided: decision.Decision) -> str:
        """Has the pod count on its node; why not, if a Reserve plugin refuses it."""
        pod = wanted.pod
        assert decided.node is not None
        if (raw := self._there.latest(pod.key)) is not None and objects.uid(raw) == pod.uid:
            self._there.remove(raw)
        self._there.promises.remove(pod.uid)
        placed = self._there.cluster.assume(pod, decided.node)
        asked: list[framework.ReservePlugin] = []
        for plugin in plugins_of.reserves:
            asked.append(plugin)
            try:
                answer = plugin.reserve(decided.state, placed, placed.node_name, self._handle)
                text = "" if answer is None or answer.is_success else answer.message
            except Exception as error:  # noqa: BLE001 - a plugin's own code
                text = f"{_RESERVE.format(plugin.name)}: {error}"
            if text:
                for undone in reversed(asked):
                    undone.unreserve(decided.state, placed, placed.node_name, self._handle)
                self._there.cluster.forget(pod.uid)
                return text
        self._changes += 1
        self._budgets.give_back(wanted.charged)
        return ""

    def _note(
        self,
        wanted: Wanted,
        message: str,
        decided: decision.Decision | None = None,
        evicts: tuple[str, ...] = (),
    ) -> None:
        pod = wanted.pod
        self._outcomes[pod.key] = results.Outcome(
            pod=pod.key,
            workload=wanted.workload,
            node=(decided.node or "") if decided else "",
            score=decided.score if decided else 0,
            scores=decided.scores if decided else {},
            feasible=decided.feasible if decided else 0,
            message=message,
            evicts=evicts,
            was_on=wanted.was_on,
            priority=pod.priority,
        )

    def _alike(self, pod: pods.PodInfo, plugins_of: profile.Profile) -> object | None:
        """What pods have in common of which one fails if another does; None for a pod alone.

        A plugin of somebody else's may look at anything. A claim may be named after the pod.
        """
        if not _OURS.issuperset(map(type, plugins_of.plugins.values())):
            return None
        if any("ephemeral" in volume for volume in pod.volumes) or pod.nominated_node_name:
            return None
        owner = objects.owner(pod.raw)
        return (
            id(plugins_of),
            pod.namespace,
            frozenset(pod.labels.items()),
            (owner["kind"], owner["name"]) if owner else None,
            repr(pod.raw["spec"]),
        )


def successor(pod: pods.PodInfo) -> pods.PodInfo:
    """The pod that the owner of an evicted pod creates in its place, under the same name here."""
    metadata = {
        name: value
        for name, value in pod.raw["metadata"].items()
        if name not in ("deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion")
    }
    metadata["uid"] = f"{pod.uid}+"
    raw = {**pod.raw, "metadata": metadata, "status": {"phase": "Pending"}}
    return offline.unplaced(raw)


def workload_of(raw: dict[str, Any]) -> str:
    """What the tables call a pod's owner: `ReplicaSet default/web-5c4f`; or the pod itself."""
    owner = objects.owner(raw)
    namespace = objects.namespace(raw) or "default"
    if owner is None:
        return f"Pod {namespace}/{objects.name(raw)}"
    return f"{owner['kind']} {namespace}/{owner['name']}"
