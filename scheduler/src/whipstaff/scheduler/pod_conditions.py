"""Says in a pod's status why it has no node: the PodScheduled condition, False.

Its loop: up to ten writers, started when there is something to write and gone when there isn't. It
owns what is still to be written, the newest for each pod: of a pod that is refused three times
while the API server is slow, only the third reason is written.

A write carries the pod's uid and resourceVersion, so that a reason that comes too late can't
overwrite the PodScheduled=True that a binding sets, nor reach another pod of the same name. If the
pod changed in between, what to write is worked out again from what the watch shows by then.
Cluster autoscalers act on this condition, so it is written even when events are suppressed.

Answers to `updatePod` in `pkg/scheduler/schedule_one.go` and `PatchPodStatus` in
`pkg/scheduler/util/utils.go`. Left out: nominatedNodeName, which comes with preemption.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from whipstaff.runtime import client, errors, logs, objects, resources
from whipstaff.scheduler import pods

Object = dict[str, Any]

UNSCHEDULABLE = "Unschedulable"
SCHEDULER_ERROR = "SchedulerError"
"""Values of the condition's reason."""

POD_SCHEDULED = "PodScheduled"

_TRIES = 6
_FIRST_PAUSE = 0.1
_log = logs.get("scheduler.pod_conditions")


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    pod: pods.PodInfo
    reason: str
    message: str


def patch(raw: Object, reason: str, message: str, now: float) -> Object | None:
    """The strategic-merge patch that sets PodScheduled=False on `raw`; None if it says so already.

    `now` is in seconds since the epoch.
    """
    old = objects.condition(raw, POD_SCHEDULED)
    since = None
    if old is not None and old["status"] == "False":
        if old.get("reason") == reason and old.get("message") == message:
            return None
        since = old.get("lastTransitionTime")
    condition: Object = {
        "type": POD_SCHEDULED,
        "status": "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": since or objects.format_time(now),
    }
    metadata = raw["metadata"]
    if generation := metadata.get("generation"):
        condition["observedGeneration"] = generation
    return {
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": {"conditions": [condition]},
    }


class ConditionWriter:
    """Writes the reasons. `latest` gives the pod of a key as the watch last showed it."""

    def __init__(
        self,
        api: client.Client,
        latest: Callable[[str], Object | None],
        *,
        now: Callable[[], float],
        writers: int = 10,
    ) -> None:
        self._api = api
        self._latest = latest
        self._now = now
        self._writers = writers
        self._wanted: dict[str, _Wanted] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def set(self, pod: pods.PodInfo, reason: str, message: str) -> None:
        """Has the condition of `pod` say why it got no node. Never blocks."""
        if pod.uid not in self._wanted and patch(pod.raw, reason, message, 0) is None:
            return
        self._wanted[pod.uid] = _Wanted(pod, reason, message)
        if len(self._tasks) < self._writers:
            task = asyncio.create_task(self._write_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def drop(self, uid: str) -> None:
        """Forgets what was still to be written: the pod got a node, or is gone."""
        self._wanted.pop(uid, None)

    async def drain(self, timeout: float) -> None:
        """Waits until everything is written, but no longer than `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _write_all(self) -> None:
        while self._wanted:
            uid = next(iter(self._wanted))
            await self._write(self._wanted.pop(uid))

    async def _write(self, wanted: _Wanted) -> None:
        pause = _FIRST_PAUSE
        for _ in range(_TRIES):
            try:
                await self._try(wanted)
            except errors.NotFound:
                return
            except (
                errors.Conflict,
                errors.ServerError,
                errors.TooManyRequests,
                errors.Unreachable,
            ) as error:
                problem = str(error)
            except errors.ApiError as error:
                _log.error("pod condition refused", pod=wanted.pod.key, error=str(error))
                return
            else:
                return
            await asyncio.sleep(pause)
            pause *= 2
            if wanted.pod.uid in self._wanted:
                return  # a newer reason is on its way
        _log.warning("pod condition not written", pod=wanted.pod.key, error=problem)

    async def _try(self, wanted: _Wanted) -> None:
        raw = self._latest(wanted.pod.key)
        if raw is None or objects.uid(raw) != wanted.pod.uid or raw["spec"].get("nodeName"):
            return
        body = patch(raw, wanted.reason, wanted.message, self._now())
        if body is not None:
            await self._api.patch(
                resources.PODS,
                wanted.pod.name,
                body,
                wanted.pod.namespace,
                kind="strategic",
                subresource="status",
            )
