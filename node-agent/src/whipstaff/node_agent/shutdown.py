"""Shutting the machine down gracefully: its pods end in good order before it does.

An inhibitor keeps systemd-logind from going on with a shutdown until the pods have ended, group
after group (`shutdown_plan`), or their time is over. Meanwhile the node isn't ready and takes no
more pods. Where there is no logind a log line says so, and machines go down as they always did.

Runs the loop that waits for shutdowns; owns the inhibitor, and the file that says when the last
shutdown began and ended, for metrics. Answers to
``pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go``; leaves out Windows.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import orjson

from whipstaff.node_agent import admission, metrics, shutdown_plan, statuses, texts
from whipstaff.runtime import events, logs, objects

Object = objects.Object

STATE = "graceful_node_shutdown_state"
REASON = "NodeShutdown"

_NEVER = "0001-01-01T00:00:00Z"
_RECONNECT = 1.0
_LOOK_AGAIN = 0.1

_log = logs.get("node_agent.shutdown")


class LogindError(Exception):
    """logind isn't there, or doesn't do what it is asked for; the text says which."""


class Lock(Protocol):
    """What holds a shutdown up."""

    def release(self) -> None:
        """Let it go on; twice is once."""


class Logind(Protocol):
    """What knows of shutdowns; see `logind.Logind`."""

    async def longest_delay(self) -> float:
        """Seconds that a shutdown waits at most."""

    async def allow_delay(self, seconds: float) -> None:
        """Have it wait longer."""

    async def inhibit(self) -> Lock:
        """Hold shutdowns up."""

    def shutdowns(self) -> AsyncIterator[bool]:
        """Whether one begins (True) or was called off, each time."""

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What a shutdown does things with.

    Attributes:
        active: the pods of which something may run.
        kill: ends a pod with a verdict; its worker does that, some time.
        is_gone: whether nothing of a pod is left, mounts neither, by UID.
        report: takes events about the node: type, reason and note.
        changed: called with whether the node is being shut down, when that changes.
    """

    active: Callable[[], Iterable[Object]]
    kill: Callable[[Object, statuses.Verdict], None]
    is_gone: Callable[[str], bool]
    report: Callable[[events.EventType, str, str], None]
    changed: Callable[[bool], None]


async def _find_logind() -> Logind:
    """The machine's; imported only where somebody wants it, as it takes 2 MB."""
    from whipstaff.node_agent import logind  # noqa: PLC0415

    return await logind.Logind.connect()


class Shutdown:
    """Sees to it that pods end before the machine does.

    Args:
        policy: how much time they get.
        hands: what it does things with.
        folder: where the state is kept.
        clock: seconds since the epoch.
        connect: finds logind.
    """

    def __init__(
        self,
        policy: shutdown_plan.Policy,
        hands: Hands,
        folder: pathlib.Path,
        clock: Callable[[], float],
        connect: Callable[[], Awaitable[Logind]] = _find_logind,
    ) -> None:
        self._periods = policy.periods
        self._seconds = policy.seconds
        self._hands = hands
        self._state = folder / STATE
        self._clock = clock
        self._connect = connect
        self._lock: Lock | None = None
        self._followed = False
        self.active = False

    def admit(self, _: Object) -> admission.Rejection | None:
        """Why the node takes no pod now; None if it does."""
        return shutdown_plan.REJECTION if self.active else None

    async def run(self) -> None:
        """Wait for shutdowns, until cancelled; returns at once where nobody wants to, or can."""
        if not self._periods:
            return
        self._remember()
        trouble = ""
        try:
            while True:
                try:
                    await self._follow()
                    trouble = ""
                except LogindError as error:
                    if not self._followed:
                        _log.error("shutdowns of the machine aren't waited for", error=str(error))
                        return
                    if str(error) != trouble:
                        _log.error("shutdowns can't be watched for", error=str(error))
                    trouble = str(error)
                await asyncio.sleep(_RECONNECT)
        finally:
            self._release()

    async def _follow(self) -> None:
        """Wait for shutdowns as long as the connection lasts."""
        found = await self._connect()
        try:
            if self._seconds > await found.longest_delay():
                await found.allow_delay(self._seconds)
            await self._inhibit(found)
            self._followed = True
            _log.info("waiting for shutdowns", seconds=self._seconds)
            async for begins in found.shutdowns():
                await self._take(found, begins=begins)
        finally:
            found.close()

    async def _take(self, found: Logind, *, begins: bool) -> None:
        _log.info("a shutdown", event="begins" if begins else "was cancelled")
        what = "event" if begins else "cancellation"
        self._hands.report("Normal", REASON, f"Shutdown manager detected shutdown {what}")
        self.active = begins
        self._hands.changed(begins)
        if not begins:
            await self._inhibit(found)
            return
        try:
            await self._end_pods()
        finally:
            self._release()
            _log.info("the pods are done, the node will shut down shortly")

    async def _inhibit(self, found: Logind) -> None:
        lock = await found.inhibit()
        self._release()
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # The pods.

    async def _end_pods(self) -> None:
        began = self._clock()
        metrics.shutdown_start.set(began)
        metrics.shutdown_end.set(0)
        await asyncio.to_thread(self._store, began, None)
        for group in shutdown_plan.groups(self._periods, self._hands.active()):
            await self._end(group)
        ended = self._clock()
        metrics.shutdown_end.set(ended)
        await asyncio.to_thread(self._store, began, ended)

    async def _end(self, group: shutdown_plan.Group) -> None:
        """End the pods of a group, and wait for them for as long as the group has."""
        period = group.period
        for pod in group.pods:
            verdict = shutdown_plan.verdict(pod, period)
            _log.info("ending a pod", pod=objects.key(pod), grace=verdict.grace)
            self._hands.kill(pod, verdict)
        left = {objects.uid(pod): objects.key(pod) for pod in group.pods}
        try:
            async with asyncio.timeout(period.seconds):
                while left:
                    await asyncio.sleep(_LOOK_AGAIN)
                    left = {u: key for u, key in left.items() if not self._hands.is_gone(u)}
        except TimeoutError:
            _log.warning(
                "pods haven't ended in time", priority=period.priority, pods=sorted(left.values())
            )

    # The state, for metrics.

    def _store(self, began: float, ended: float | None) -> None:
        state = {
            "startTime": texts.timestamp(began),
            "endTime": _NEVER if ended is None else texts.timestamp(ended),
        }
        temporary = self._state.with_name(f".tmp-{self._state.name}")
        try:
            with temporary.open("wb") as file:
                file.write(orjson.dumps(state))
                file.flush()
                # What isn't on the disk now will never be.
                os.fsync(file.fileno())
            temporary.replace(self._state)
        except OSError as error:
            _log.warning("a shutdown's state can't be stored", error=str(error))

    def _remember(self) -> None:
        """Set the metrics to the last shutdown, before which somebody else lived here."""
        try:
            state = orjson.loads(self._state.read_bytes())
            for gauge, key in (
                (metrics.shutdown_start, "startTime"),
                (metrics.shutdown_end, "endTime"),
            ):
                moment = datetime.datetime.fromisoformat(state.get(key, _NEVER))
                gauge.set(max(moment.timestamp(), 0.0))
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            _log.warning("a shutdown's state can't be read", error=str(error))
