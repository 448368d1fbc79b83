"""Pods that a Permit plugin holds back: they have a node, and wait for leave to be bound to it.

Its loop is the event loop's clock: each plugin that asked for a wait has a timer, and a pod whose
time is up is rejected. `WaitingPods` is how plugins find the pods that wait, to let them go or to
reject them: a plugin for groups lets all of them go when the last one has come.

Answers to `pkg/scheduler/framework/runtime/waiting_pods_map.go`.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping

from whipstaff.scheduler import framework, pods

LONGEST_WAIT = 900.0
"""Seconds; a plugin that asks for more gets this."""

_REMOVED = "removed"


class WaitingPod:
    """A pod that waits for every plugin that asked for it. Needs a running loop."""

    def __init__(self, pod: pods.PodInfo, waits: Mapping[str, float]) -> None:
        """`waits` are seconds by plugin."""
        self.pod = pod
        loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[framework.Status] = loop.create_future()
        self._timers = {
            plugin: loop.call_later(seconds, self._give_up, plugin, seconds)
            for plugin, seconds in waits.items()
        }

    @property
    def pending_plugins(self) -> Collection[str]:
        """The plugins that it still waits for."""
        return tuple(self._timers)

    def allow(self, plugin: str) -> None:
        """The plugin holds it back no more: it goes on when no other does."""
        timer = self._timers.pop(plugin, None)
        if timer is not None:
            timer.cancel()
        if not self._timers:
            self._end(framework.SUCCESS)

    def reject(self, plugin: str, message: str) -> bool:
        """The pod isn't to go there: it is unschedulable. False if that was decided before."""
        return self._end(framework.Status(framework.Code.UNSCHEDULABLE, (message,), plugin))

    def preempt(self, plugin: str, message: str) -> bool:
        """Its place is needed: it is tried again elsewhere. False if that was decided before."""
        return self._end(framework.Status(framework.Code.ERROR, (message,), plugin))

    async def answer(self) -> framework.Status:
        """Success, or who rejected it and why."""
        try:
            return await self._answer
        finally:
            self._stop_timers()

    def _end(self, status: framework.Status) -> bool:
        if self._answer.done():
            return False
        self._stop_timers()
        self._answer.set_result(status)
        return True

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _give_up(self, plugin: str, seconds: float) -> None:
        waited = format_duration(seconds)
        self.reject(plugin, f"rejected due to timeout after waiting {waited} at plugin {plugin}")


class WaitingPods:
    """The pods that wait, by uid."""

    def __init__(self) -> None:
        self._pods: dict[str, WaitingPod] = {}

    def __iter__(self) -> Iterator[WaitingPod]:
        return iter(tuple(self._pods.values()))

    def __len__(self) -> int:
        return len(self._pods)

    def get(self, uid: str) -> WaitingPod | None:
        """The waiting pod of that uid, if it waits."""
        return self._pods.get(uid)

    def add(self, waiting: WaitingPod) -> None:
        """A pod begins to wait."""
        self._pods[waiting.pod.uid] = waiting

    def remove(self, uid: str) -> None:
        """A pod waits no more."""
        self._pods.pop(uid, None)

    def reject_removed(self, uid: str) -> None:
        """The pod of that uid is gone: if it waits, it waits in vain."""
        waiting = self._pods.get(uid)
        if waiting is not None:
            waiting.reject("", _REMOVED)


def format_duration(seconds: float) -> str:
    """Seconds as Go writes a duration: `1h2m3.5s`, `250ms`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
