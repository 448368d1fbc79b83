"""Says in a pod's status why it has no node: the PodScheduled condition, False.

Its loop: up to ten writers, started when there is something to write and gone when there isn't. It
owns what is still to be written, the newest for each pod: of a pod that is refused three times
while the API server is slow, only the third reason is written.

A write carries the pod's uid and resourceVersion, so that a reason that comes too late can't
overwrite the PodScheduled=True that a binding sets, nor reach another pod of the same name. If the
pod changed in between, what to write is worked out again from what the watch shows by then.
Cluster autoscalers act on this condition, so it is written even when events are suppressed.

Answers to `updatePod` in `pkg/scheduler/schedule_one.go` and `PatchPodStatus` in
`pkg/scheduler/util/utils.go`. The node
that a pod is nominated to is part of the same write, as there.
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
    reason: str  # "" leaves the condition as it is
    message: str
    nominated: str | None  # None leaves the promise as it is

    def patch(self, raw: Object, now: float) -> Object | None:
        """What makes `raw` say so; None if it does already."""
        status: Object = {}
        if self.reason and (condition := _condition(raw, self.reason, self.message, now)):
            status["conditions"] = [condition]
        promised = (raw.get("status") or {}).get("nominatedNodeName") or ""
        if self.nominated is not None and self.nominated != promised:
            status["nominatedNodeName"] = self.nominated or None
        return _patch(raw, status) if status else None

    def after(self, before: "_Wanted | None") -> "_Wanted":
        """This, and of what was wanted before what this says nothing of."""
        if before is None:
            return self
        told = self if self.reason else before
        nominated = before.nominated if self.nominated is None else self.nominated
        return _Wanted(self.pod, told.reason, told.message, nominated)


def patch(raw: Object, reason: str, message: str, now: float) -> Object | None:
    """The strategic-merge patch that sets PodScheduled=False on `raw`; None if it says so already.

    `now` is in seconds since the epoch.
    """
    condition = _condition(raw, reason, message, now)
    return None if condition is None else _patch(raw, {"conditions": [condition]})


def _patch(raw: Object, status: Object) -> Object:
    metadata = raw["metadata"]
    return {
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": status,
    }


def _condition(raw: Object, reason: str, message: str, now: float) -> Object | None:
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
    if generation := raw["metadata"].get("generation"):
        condition["observedGeneration"] = generation
    return condition


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
        self._writing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def set(
        self, pod: pods.PodInfo, reason: str, message: str, nominated: str | None = None
    ) -> None:
        """Has the status of `pod` say why it got no node. Never blocks.

        `nominated` is the node that it is to wait for, "" for none; None leaves that as it is.
        """
        self._want(_Wanted(pod, reason, message, nominated))

    def nominate(self, pod: pods.PodInfo, node_name: str) -> None:
        """Has the status of `pod` name the node that it waits for; "" for none. Never blocks."""
        self._want(_Wanted(pod, "", "", node_name))

    def _want(self, wanted: _Wanted) -> None:
        uid = wanted.pod.uid
        is_open = uid in self._wanted or uid in self._writing
        if not is_open and wanted.patch(wanted.pod.raw, 0) is None:
            return
        self._wanted[uid] = wanted.after(self._wanted.get(uid))
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
        """Writes what is wanted; of one pod one thing after the other."""
        while (uid := next((uid for uid in self._wanted if uid not in self._writing), "")) != "":
            self._writing.add(uid)
            try:
                await self._write(self._wanted.pop(uid))
            finally:
                self._writing.discard(uid)

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
            newer = self._wanted.get(wanted.pod.uid)
            if newer is not None:
                self._wanted[wanted.pod.uid] = newer.after(wanted)
                return
        _log.warning("pod condition not written", pod=wanted.pod.key, error=problem)

    async def _try(self, wanted: _Wanted) -> None:
        raw = self._latest(wanted.pod.key)
        if raw is None or objects.uid(raw) != wanted.pod.uid or raw["spec"].get("nodeName"):
            return
        body = wanted.patch(raw, self._now())
        if body is not None:
            await self._api.patch(
                resources.PODS,
                wanted.pod.name,
                body,
                wanted.pod.namespace,
                kind="strategic",
                subresource="status",
            )
