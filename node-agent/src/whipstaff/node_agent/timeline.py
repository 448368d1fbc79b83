"""What happens later, in one heap: restarts after a back-off, deadlines, heartbeats, pod scripts.

A fleet of simulated nodes waits for thousands of things at once, so a wait is an entry here (a
tuple in a heap) and neither a task nor a timer of the event loop: the loop has one timer, for the
earliest entry. Runs that one timer; owns the heap. Times are seconds since the epoch, as statuses
carry them, so a container's end survives the agent's restart. When the system's clock jumps ahead,
that is noticed within a minute; when it is put back, what waits is put back with it, or heartbeats
would be silent until the old time has come again. Answers to
``pkg/kubelet/util/queue/work_queue.go``.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

from whipstaff.runtime import logs

_LONGEST_SLEEP = 60.0
# The event loop's timers count in milliseconds: one that is early finds nothing due.
_GRAIN = 0.001
# Seconds by which a clock that is only adjusted, and not put back, may be behind at most.
_LEEWAY = 1.0

_COMPACT_ABOVE = 1000

_log = logs.get("node_agent.timeline")


class Entry:
    """Something that is going to happen, unless it is cancelled before."""

    __slots__ = ("args", "callback", "timeline")

    def __init__(
        self, timeline: Timeline, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.timeline = timeline
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""
        if self.callback is not None:
            self.callback = None
            self.args = ()
            self.timeline.forget_one()


class Timeline:
    """Calls back at given times, in order; entries of the same time in the order they were made.

    Args:
        clock: seconds since the epoch.
        steady: seconds that only ever grow, to tell when the clock was put back; by default the
            system's with the system's clock, and with another one nothing, as that never is.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self.clock = clock
        self._steady = time.monotonic if steady is None and clock is time.time else steady
        self._ahead = clock() - self._steady() if self._steady is not None else 0.0
        self._heap: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Entry:
        """Call back at a time, or as soon as possible if it has passed; never from within `at`."""
        self._follow_clock()
        entry = Entry(self, callback, args)
        heapq.heappush(self._heap, (when, next(self._numbers), entry))
        if self._timer is None or when < self._armed_for:
            self._arm()
        return entry

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Entry:
        """Call back after some seconds."""
        return self.at(self.clock() + seconds, callback, *args)

    async def sleep(self, seconds: float) -> None:
        """Wait; for no time at all without letting others run."""
        if seconds <= 0:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = self.after(seconds, _resolve, done)
        try:
            await done
        finally:
            entry.cancel()

    def run_due(self) -> None:
        """Call back everything whose time has come."""
        now = self.clock()
        while self._heap and self._heap[0][0] <= now:
            _, _, entry = heapq.heappop(self._heap)
            callback, args = entry.callback, entry.args
            if callback is None:
                self._cancelled -= 1
                continue
            entry.callback, entry.args = None, ()
            try:
                callback(*args)
            except Exception:  # noqa: BLE001
                # One entry's mistake must not stop everybody else's clock.
                _log.exception("a timed call failed", callback=repr(callback))

    def forget_one(self) -> None:
        """Note that an entry was cancelled; drop such entries when they are the greater part.

        Otherwise a pod that was deleted early would be remembered until it would have ended.
        """
        self._cancelled += 1
        if self._cancelled > max(_COMPACT_ABOVE, len(self._heap) // 2):
            self._heap = [item for item in self._heap if item[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Let nothing happen any more."""
        self._heap.clear()
        self._cancelled = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        if not self._heap:
            self._timer = None
            return
        self._armed_for = self._heap[0][0]
        delay = min(max(self._armed_for - self.clock(), 0.0) + _GRAIN, _LONGEST_SLEEP)
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _follow_clock(self) -> None:
        """Put everything back if the clock was."""
        if self._steady is None:
            return
        ahead = self.clock() - self._steady()
        back = self._ahead - ahead
        self._ahead = ahead
        if back > _LEEWAY and self._heap:
            _log.warning("the clock was put back", seconds=round(back, 1))
            self._heap = [(when - back, number, entry) for when, number, entry in self._heap]
            self._armed_for -= back

    def _wake(self) -> None:
        self._timer = None
        self._follow_clock()
        self.run_due()
        self._arm()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
