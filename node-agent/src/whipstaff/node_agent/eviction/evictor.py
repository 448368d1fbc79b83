"""Evicting pods: the loop that measures, decides and sees to it that something is won back.

Every ten seconds the node is measured. If something has run out, unused containers and images are
deleted first, where that helps; if it isn't enough, one pod is evicted, and the next round waits
until it is gone (30 s at most). What the node has too little of shows in its conditions, and pods
that come then are turned away.

Runs one loop; owns the state that `eviction.decide` goes on. Answers to Start in
``pkg/kubelet/eviction/eviction_manager.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import admission, metrics, provider, statuses
from whipstaff.node_agent.eviction import decisions as eviction
from whipstaff.node_agent.eviction import ranking as eviction_ranking
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.runtime import events, logs, objects

Object = objects.Object

INTERVAL = 10.0
_PATIENCE = 30.0
_LOOK_AGAIN = 1.0

_log = logs.get("node_agent.evictor")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What there is on a node, and who uses it.

    Attributes:
        observations: by signal.
        usage: by pod UID.
        dedicated: whether images have a file system of their own.
    """

    observations: Mapping[str, eviction_signals.Observation]
    usage: Mapping[str, eviction_ranking.PodUsage] = field(default_factory=dict)
    dedicated: bool = False


@dataclass(frozen=True, slots=True)
class Hands:
    """What the evictor does things with.

    Attributes:
        measure: measures the node.
        active: the pods that are neither over nor being ended.
        kill: ends a pod with a verdict; its worker does that, some time.
        is_gone: whether nothing of a pod runs any more, by UID.
        delete_containers, delete_images: delete what is unused.
        report: takes events about the node: type, reason and note.
        report_pod: takes events about a pod.
        changed: called with the pressure conditions that are true, when they change.
    """

    measure: Callable[[], Awaitable[Measurement]]
    active: Callable[[], Iterable[Object]]
    kill: Callable[[Object, statuses.Verdict], None]
    is_gone: Callable[[str], bool]
    delete_containers: Callable[[], Awaitable[None]]
    delete_images: Callable[[], Awaitable[None]]
    report: Callable[[events.EventType, str, str], None]
    report_pod: Callable[[Object, events.EventType, str, str], None]
    changed: Callable[[frozenset[str]], None]


class Evictor:
    """Keeps a node from running out of things.

    Args:
        policy: when pods are evicted.
        hands: what it does things with.
        clock: seconds since the epoch.
    """

    def __init__(self, policy: eviction.Policy, hands: Hands, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._hands = hands
        self._clock = clock
        self._state = eviction.State()
        self.conditions: tuple[str, ...] = ()

    def admit(self, pod: Object) -> admission.Rejection | None:
        """Why the node doesn't take a pod now; None if it does."""
        return eviction.admit(pod, self.conditions)

    async def run(self) -> None:
        """Measure and act every ten seconds, until cancelled."""
        while True:
            try:
                evicted = await self.act()
            except (provider.ProviderError, OSError) as error:
                _log.warning("the node can't be measured", error=str(error))
                evicted = []
            if evicted:
                await self._wait_for(evicted)
            else:
                await asyncio.sleep(INTERVAL)

    async def act(self) -> Sequence[str]:
        """One round; returns the UIDs of the pods that were evicted.

        Raises:
            provider.ProviderError, OSError: the node can't be measured.
        """
        found = await self._hands.measure()
        pods = self._pods(found)
        now = self._clock()
        decision = eviction.decide(
            self._state, self._policy, found.observations, pods, now, dedicated=found.dedicated
        )
        self._state = decision.state
        if decision.conditions != self.conditions:
            self.conditions = decision.conditions
            self._hands.changed(frozenset(decision.conditions))
        if decision.evictions:
            for one in decision.evictions:
                self._evict(one)
            return [one.pod["metadata"]["uid"] for one in decision.evictions]
        if decision.reclaim is None:
            return []
        return await self._reclaim(decision, decision.reclaim, found, pods)

    async def _reclaim(
        self,
        decision: eviction.Decision,
        threshold: eviction_signals.Threshold,
        found: Measurement,
        pods: Sequence[eviction.Pod],
    ) -> Sequence[str]:
        resource = eviction_signals.RESOURCES[threshold.signal]
        note = f"Attempting to reclaim {resource}"
        _log.warning("something runs out", signal=threshold.signal, resource=resource)
        self._hands.report("Warning", "EvictionThresholdMet", note)
        if await self._clean_up(threshold.signal, dedicated=found.dedicated):
            return []
        chosen = eviction.choose(
            decision, self._policy, found.observations, pods, dedicated=found.dedicated
        )
        if chosen is None:
            _log.error("there is no pod to evict", resource=resource)
            return []
        self._evict(chosen)
        return [chosen.pod["metadata"]["uid"]]

    async def _clean_up(self, signal: str, *, dedicated: bool) -> bool:
        """Delete what nobody uses; returns whether that was enough."""
        if not helps(signal, dedicated=dedicated):
            return False
        for delete in (self._hands.delete_containers, self._hands.delete_images):
            try:
                await delete()
            except Exception as error:  # noqa: BLE001 (whatever it is, pods can still be evicted)
                _log.warning("unused things can't be deleted", error=str(error))
        again = await self._hands.measure()
        return eviction.satisfied(self._policy, again.observations)

    def _evict(self, one: eviction.Eviction) -> None:
        metadata = one.pod["metadata"]
        _log.warning(
            "evicting a pod",
            pod=f"{metadata['namespace']}/{metadata['name']}",
            signal=one.signal,
            why=one.verdict.message,
        )
        self._hands.report_pod(one.pod, "Warning", eviction.REASON, one.verdict.message)
        metrics.evictions.labels(one.signal).inc()
        self._hands.kill(one.pod, one.verdict)

    def _pods(self, found: Measurement) -> list[eviction.Pod]:
        return [
            eviction.Pod(pod, found.usage.get(pod["metadata"]["uid"]))
            for pod in self._hands.active()
        ]

    async def _wait_for(self, uids: Iterable[str]) -> None:
        left = set(uids)
        deadline = self._clock() + _PATIENCE
        while left and self._clock() < deadline:
            await asyncio.sleep(_LOOK_AGAIN)
            left = {uid for uid in left if not self._hands.is_gone(uid)}
        if left:
            _log.warning("evicted pods are still there", uids=sorted(left))


def helps(signal: str, *, dedicated: bool) -> bool:
    """Whether deleting unused containers and images wins back what a signal is about."""
    of_images = {eviction_signals.IMAGE_DISK, eviction_signals.IMAGE_INODES}
    of_node = {eviction_signals.NODE_DISK, eviction_signals.NODE_INODES}
    return signal in of_images or (signal in of_node and not dedicated)
