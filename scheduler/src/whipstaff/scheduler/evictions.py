"""Evicts pods so that another one fits: what DefaultPreemption decided, carried out.

Its loop: one task a preemptor. It takes the promise of the node back from pods of a lower priority
that wait for it, then evicts the victims: each gets a condition in its status that says why, is
deleted, and an event tells of it. The last victim goes last and alone, so that the preemptor can be
tried again as soon as that one is seen to go, whether or not the answer has come yet. Until then
`is_preempting` keeps it out of the active queue: also if the answer comes first, where upstream
lets the preemptor be tried, and evict more, while the watch still shows a victim in its way. If
something fails, the preemptor is tried again at once, and finds out anew what would help.

A victim that is only on its way to the node, held back by Permit or with PreBind at work, isn't
deleted: its way ends there, and it is tried again.

No pod is evicted for nothing: a deletion carries the victim's uid, for its name may be somebody
else's by now, and nothing more is evicted for a preemptor that is gone or has a node.

Answers to `pkg/scheduler/framework/preemption/executor.go` with asynchronous preemption on, as 1.36
has it.
"""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from whipstaff.runtime import client, errors, events, logs, objects, resources
from whipstaff.scheduler import metrics, nominator, pod_conditions, pods
from whipstaff.scheduler.plugins import defaultpreemption

Object = dict[str, Any]

CONCURRENCY = 16
"""Victims of one preemptor that are evicted at the same time."""

_TRIES = 5
_FIRST_PAUSE = 0.05

_log = logs.get("scheduler.evictions")


@dataclasses.dataclass(slots=True, eq=False)
class _Preemption:
    """Who makes room for whom, and where."""

    preemptor: pods.PodInfo
    node: str
    victims: Sequence[pods.PodInfo]
    last: pods.PodInfo | None = None
    """The last victim, once it is its turn."""
    deleted: list[pods.PodInfo] = dataclasses.field(default_factory=list)
    """The victims that the API server knows to be gone, or on their way out."""


class Evictor:
    """Carries preemptions out.

    `latest` gives the pod of a key as the watch last showed it; `activate` has some pods tried
    again at once; `call_off` has the pod of a uid give up its way to a node, for the
    plugin of a name, and says whether it does; `clock` is any, in seconds, `now` in seconds since
    the epoch.
    """

    def __init__(
        self,
        api: client.Client,
        *,
        latest: Callable[[str], Object | None],
        promises: nominator.Nominator,
        conditions: pod_conditions.ConditionWriter,
        recorders: Mapping[str, events.Recorder],
        activate: Callable[[Iterable[pods.PodInfo]], None],
        call_off: Callable[[str, str], bool],
        measured: metrics.Metrics,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._api = api
        self._latest = latest
        self._promises = promises
        self._conditions = conditions
        self._recorders = recorders
        self._activate = activate
        self._call_off = call_off
        self._measured = measured
        self._clock = clock
        self._now = now
        self._under_way: dict[str, _Preemption] = {}  # by the preemptor's uid
        # Those whose deletion the watch has yet to show, by the uid of the pod they went for.
        self._unseen: dict[str, list[pods.PodInfo]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """The number of pods that room is being made for."""
        return len(self._under_way)

    def is_preempting(self, uid: str) -> bool:
        """Whether evictions for the pod of that uid still have to be waited for."""
        preemption = self._under_way.get(uid)
        if preemption is not None:
            return preemption.last is None or self._is_there(preemption.last)
        return any(map(self._is_there, self._unseen.get(uid, ())))

    def start(
        self, preemptor: pods.PodInfo, node_name: str, victims: Sequence[pods.PodInfo]
    ) -> None:
        """Begins to evict `victims` from a node, for a pod that waits for it. Never blocks."""
        going = [victim for victim in victims if self._is_there(victim)]
        if not going:
            return
        self._measured.preemption_victims.observe(len(victims))
        preemption = self._under_way[preemptor.uid] = _Preemption(preemptor, node_name, going)
        _log.info(
            "preempting",
            pod=preemptor.key,
            node=node_name,
            victims=", ".join(victim.key for victim in going),
        )
        task = asyncio.create_task(self._run(preemption))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float) -> None:
        """Waits until everything is evicted, but no longer than `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _is_there(self, pod: pods.PodInfo) -> bool:
        """Whether the pod is there and not on its way out."""
        raw = self._latest(pod.key)
        return raw is not None and objects.uid(raw) == pod.uid and not objects.is_terminating(raw)

    def _still_waits(self, preemptor: pods.PodInfo) -> bool:
        raw = self._latest(preemptor.key)
        return self._is_there(preemptor) and raw is not None and not raw["spec"].get("nodeName")

    async def _run(self, preemption: _Preemption) -> None:
        started = self._clock()
        preemptor = preemption.preemptor
        worked = False
        try:
            self._take_promises_back(preemption)
            worked = await self._evict_all(preemption)
        finally:
            if self._under_way.get(preemptor.uid) is preemption:
                del self._under_way[preemptor.uid]
                self._wait_for_the_watch(preemption, worked)
        result = metrics.SUCCEEDED if worked else metrics.ERROR
        self._measured.preemption_runs[result,] += 1
        self._measured.preemption_duration.observe(self._clock() - started, result)
        if not worked or not any(self._is_counted(victim) for victim in preemption.victims):
            # Nothing will be seen to go any more that could have it tried again.
            self._activate([preemptor])

    def _wait_for_the_watch(self, preemption: _Preemption, worked: bool) -> None:
        """Until it shows the last deletion a try would find a victim that is gone in the way."""
        if worked:
            self._unseen[preemption.preemptor.uid] = preemption.deleted
        self._unseen = {
            uid: deleted
            for uid, deleted in self._unseen.items()
            if any(map(self._is_there, deleted))
        }

    def _is_counted(self, pod: pods.PodInfo) -> bool:
        """Whether the watch still has to show that the pod is gone."""
        raw = self._latest(pod.key)
        return raw is not None and objects.uid(raw) == pod.uid

    def _take_promises_back(self, preemption: _Preemption) -> None:
        """Pods of a lower priority may not fit on the node any more: they look for another."""
        for other in list(self._promises.pods_on(preemption.node)):
            if other.priority < preemption.preemptor.priority:
                self._promises.add(other, "")
                self._conditions.nominate(other, "")

    async def _evict_all(self, preemption: _Preemption) -> bool:
        """Evicts the victims, the last one when all others are; whether it worked."""
        *others, last = preemption.victims
        remaining = iter(others)
        failures: list[errors.WhipstaffError] = []

        async def work() -> None:
            for victim in remaining:
                if failures:
                    return
                await self._try_to_evict(preemption, victim, failures)

        await asyncio.gather(*(work() for _ in range(min(CONCURRENCY, len(others)))))
        if not failures:
            preemption.last = last
            await self._try_to_evict(preemption, last, failures)
        return not failures

    async def _try_to_evict(
        self,
        preemption: _Preemption,
        victim: pods.PodInfo,
        failures: list[errors.WhipstaffError],
    ) -> None:
        preemptor = preemption.preemptor
        if not self._still_waits(preemptor):
            _log.info("nothing is evicted for a pod that waits no more", pod=preemptor.key)
            return
        try:
            called_off = self._call_off(victim.uid, defaultpreemption.DefaultPreemption.name)
            evicted = called_off or await self._evict(preemptor, victim)
        except errors.WhipstaffError as error:
            failures.append(error)
            _log.warning("eviction failed", pod=preemptor.key, victim=victim.key, error=str(error))
            return
        if not called_off:
            preemption.deleted.append(victim)
        if evicted:
            _log.debug("evicted", pod=preemptor.key, victim=victim.key, node=preemption.node)
            note = f"Preempted by pod {preemptor.uid} on node {preemption.node}"
            note += " (in kube-scheduler memory)." if called_off else ""
            self._recorders[preemptor.scheduler_name].event(
                victim.raw, "Normal", "Preempted", "Preempting", note, preemptor.raw
            )

    async def _evict(self, preemptor: pods.PodInfo, victim: pods.PodInfo) -> bool:
        """Marks and deletes a pod; False if it was gone already."""
        raw = self._latest(victim.key)
        if raw is None or objects.uid(raw) != victim.uid:
            return False
        body = disruption_patch(raw, preemptor.scheduler_name, self._now())
        try:
            if body is not None:
                await _persist(
                    lambda: self._api.patch(
                        resources.PODS,
                        victim.name,
                        body,
                        victim.namespace,
                        kind="strategic",
                        subresource="status",
                    )
                )
            await _persist(
                lambda: self._api.delete(
                    resources.PODS, victim.name, victim.namespace, uid=victim.uid
                )
            )
        except (errors.NotFound, errors.Conflict):
            # Of the conditions that both requests carry only the uid can fail: another pod has the
            # name by now.
            return False
        return True


def disruption_patch(raw: Object, scheduler_name: str, now: float) -> Object | None:
    """The strategic-merge patch that says in `raw` who evicts it; None if it is said already.

    `now` is in seconds since the epoch. Source: `PreemptPod`, `UpdatePodCondition`.
    """
    condition: Object = {
        "type": defaultpreemption.DISRUPTION_TARGET,
        "status": "True",
        "reason": defaultpreemption.PREEMPTION_BY_SCHEDULER,
        "message": f"{scheduler_name}: preempting to accommodate a higher priority pod",
    }
    if generation := raw["metadata"].get("generation"):
        condition["observedGeneration"] = generation
    old = objects.condition(raw, defaultpreemption.DISRUPTION_TARGET)
    since = None
    if old is not None and old["status"] == "True":
        if {**old, **condition} == old:
            return None
        since = old.get("lastTransitionTime")
    condition["lastTransitionTime"] = since or objects.format_time(now)
    return {"metadata": {"uid": raw["metadata"]["uid"]}, "status": {"conditions": [condition]}}


async def _persist(request: Callable[[], Any]) -> None:
    """Makes a request; some times, if the API server can't be reached or is busy."""
    pause = _FIRST_PAUSE
    for _ in range(_TRIES - 1):
        try:
            await request()
        except (errors.ServerError, errors.TooManyRequests, errors.Unreachable):
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause *= 2
        else:
            return
    await request()
