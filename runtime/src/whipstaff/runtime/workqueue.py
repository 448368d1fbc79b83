"""A queue of keys to work on: each key once, never twice at the same time, later after a failure.

Event handlers add keys, workers get them. A key that is added while it waits is still one; a key
that is added while it is being worked on waits until that is done, then comes again: so a worker
always sees what happened last, and two never see the same key. `run_workers` is the loop: it hands
keys to a coroutine, forgets the failures of what succeeded and backs off from what failed.

A queue owns its waiting and running keys, one heap of keys that come later and the one timer for
the first of them. It belongs to one event loop and its methods are called there; only `get` and
`drain` wait. Answers to client-go ``util/workqueue``. Left out: priorities, and the token bucket
that upstream's controllers put over all retries (the client limits its own rate).
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

import prometheus_client

from whipstaff.runtime import errors, logs

Key = TypeVar("Key", bound=Hashable)
Key_contra = TypeVar("Key_contra", bound=Hashable, contravariant=True)

_log = logs.get("workqueue")

_BUCKETS = [10.0**exponent for exponent in range(-8, 2)]
_depth = prometheus_client.Gauge("workqueue_depth", "Current depth of workqueue", ["name"])
_adds = prometheus_client.Counter(
    "workqueue_adds", "Total number of adds handled by workqueue", ["name"]
)
_queue_duration = prometheus_client.Histogram(
    "workqueue_queue_duration_seconds",
    "How long in seconds an item stays in workqueue before being requested.",
    ["name"],
    buckets=_BUCKETS,
)
_work_duration = prometheus_client.Histogram(
    "workqueue_work_duration_seconds",
    "How long in seconds processing an item from workqueue takes.",
    ["name"],
    buckets=_BUCKETS,
)
_retries = prometheus_client.Counter(
    "workqueue_retries", "Total number of retries handled by workqueue", ["name"]
)
_unfinished = prometheus_client.Gauge(
    "workqueue_unfinished_work_seconds",
    "How many seconds of work are in progress and not yet in work_duration. "
    "Large values mean stuck workers; their number is the rate at which this grows.",
    ["name"],
)
_longest = prometheus_client.Gauge(
    "workqueue_longest_running_processor_seconds",
    "How many seconds the longest running worker has been at one item.",
    ["name"],
)


class ShutDown(Exception):  # noqa: N818 (upstream's word; nothing went wrong)
    """The queue was shut down and has nothing left to hand out."""


class RateLimiter(Protocol[Key_contra]):
    """How long a key waits before its next try."""

    def when(self, key: Key_contra) -> float:
        """Count a failure of the key and give the seconds to wait."""

    def forget(self, key: Key_contra) -> None:
        """Start over with the key."""

    def requeues(self, key: Key_contra) -> int:
        """How often the key failed since it was forgotten."""


class ExponentialBackoff(Generic[Key]):
    """Waits base, 2 base, 4 base and so on, at most `maximum` seconds, for each key by itself."""

    def __init__(self, base: float = 0.005, maximum: float = 1000.0) -> None:
        self._base = base
        self._maximum = maximum
        self._failures: dict[Key, int] = {}

    def when(self, key: Key) -> float:
        """Count a failure of the key and give the seconds to wait."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return min(self._base * 2.0 ** min(failures, 64), self._maximum)

    def forget(self, key: Key) -> None:
        """Start over with the key."""
        self._failures.pop(key, None)

    def requeues(self, key: Key) -> int:
        """How often the key failed since it was forgotten."""
        return self._failures.get(key, 0)


class WorkQueue(Generic[Key]):
    """Keys to work on. Without a name it keeps no metrics.

    Args:
        name: the ``name`` label of the ``workqueue_*`` metrics.
        rate_limiter: for `add_rate_limited`; by default 5 ms doubling to 1000 s for each key.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        name: str = "",
        *,
        rate_limiter: RateLimiter[Key] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._limiter: RateLimiter[Key] = rate_limiter or ExponentialBackoff[Key]()
        self._queue: collections.deque[Key] = collections.deque()
        self._dirty: set[Key] = set()
        self._processing: dict[Key, float] = {}
        self._getters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._idle: asyncio.Future[None] | None = None
        self._later = _Later[Key]()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._metrics = _Metrics(self, name) if name else None
        self._added: dict[Key, float] = {}
        self.shutting_down = False

    def __len__(self) -> int:
        """How many keys wait to be got; not those that come later."""
        return len(self._queue)

    def add(self, key: Key) -> None:
        """Have the key worked on; a key that already waits isn't added again."""
        if self.shutting_down or key in self._dirty:
            return
        self._dirty.add(key)
        if self._metrics is not None:
            self._metrics.adds.inc()
            self._added.setdefault(key, self._clock())
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Add the key in some seconds; of two such wishes the earlier one counts."""
        if self.shutting_down:
            return
        if self._metrics is not None:
            self._metrics.retries.inc()
        if seconds <= 0:
            self.add(key)
            return
        self._later.put(key, self._clock() + seconds)
        self._set_timer()

    def add_rate_limited(self, key: Key) -> None:
        """Add the key after its back-off, which this failure makes longer."""
        self.add_after(key, self._limiter.when(key))

    def forget(self, key: Key) -> None:
        """The key succeeded, or is given up: its next failure is its first."""
        self._limiter.forget(key)

    def requeues(self, key: Key) -> int:
        """How often the key failed since it was forgotten."""
        return self._limiter.requeues(key)

    async def get(self) -> Key:
        """The next key, once there is one; whoever gets it must call `done` with it.

        Raises:
            ShutDown: there is none, and none will come.
        """
        while not self._queue:
            if self.shutting_down:
                raise ShutDown
            await self._wait()
        key = self._queue.popleft()
        now = self._clock()
        self._processing[key] = now
        self._dirty.discard(key)
        if self._metrics is not None:
            self._metrics.queue_duration.observe(now - self._added.pop(key, now))
        return key

    def done(self, key: Key) -> None:
        """The key was worked on; if it was added meanwhile, it now waits again."""
        started = self._processing.pop(key, None)
        if self._metrics is not None and started is not None:
            self._metrics.work_duration.observe(self._clock() - started)
        if key in self._dirty:
            self._push(key)
        elif not self._processing and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def shutdown(self, *, drop: bool = False) -> None:
        """Take no more keys; workers get those that wait, then `ShutDown`.

        Args:
            drop: hand out none of those that wait either; what is being worked on goes on.
        """
        self.shutting_down = True
        self._later.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if drop:
            self._dirty.clear()
            self._queue.clear()
        while self._getters:
            self._wake_one()

    async def drain(self) -> None:
        """Shut down, and wait until nothing is being worked on any more."""
        self.shutdown()
        while self._processing or self._queue:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _push(self, key: Key) -> None:
        self._queue.append(key)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    async def _wait(self) -> None:
        getter = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        try:
            await getter
        except asyncio.CancelledError:
            # Woken and cancelled in the same moment: the key is for somebody else.
            if self._queue and not getter.cancelled():
                self._wake_one()
            raise

    def _set_timer(self) -> None:
        """Wake up for the first of the keys that come later."""
        first = self._later.first()
        if self._timer is not None:
            if first == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if first is not None:
            delay = max(0.0, first - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._release)
            self._timer_at = first

    def _release(self) -> None:
        self._timer = None
        for key in self._later.due(self._clock()):
            self.add(key)
        self._set_timer()

    def running(self) -> list[float]:
        """For how many seconds each key that isn't done is being worked on."""
        now = self._clock()
        return [now - started for started in self._processing.values()]

    def depth(self) -> int:
        """How many keys are to be worked on, those added while in work included."""
        return len(self._dirty)


async def run_workers(
    queue: WorkQueue[Key], handle: Callable[[Key], Awaitable[float | None]], workers: int
) -> None:
    """Work on the queue until it is shut down, or this is cancelled: then what runs is finished.

    `handle` reconciles one key. What it returns is when to come again: None when it's told to,
    seconds to come by itself. An exception is logged and the key comes again after its back-off.

    Raises:
        asyncio.CancelledError: after the keys that were being worked on are done; cancelled a
            second time, it cancels them.
    """
    tasks = [asyncio.create_task(_work(queue, handle)) for _ in range(workers)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        queue.shutdown(drop=True)
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
    for task in tasks:
        task.result()


async def _work(queue: WorkQueue[Key], handle: Callable[[Key], Awaitable[float | None]]) -> None:
    while True:
        try:
            key = await queue.get()
        except ShutDown:
            return
        try:
            again = await handle(key)
        except errors.WhipstaffError as error:
            failures = queue.requeues(key)
            # Somebody else was faster: as often as not, and mended by looking again.
            usual = isinstance(error, errors.Conflict) and not failures
            say = _log.debug if usual else _log.warning
            say("will try again", key=key, error=error, failures=failures)
            queue.add_rate_limited(key)
        except asyncio.CancelledError:
            # Something inside was cancelled; unless it was this worker, that is just a failure.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _log.warning("will try again", key=key, error="cancelled")
            queue.add_rate_limited(key)
        except Exception:  # noqa: BLE001 (whatever fails for one key, the others go on)
            _log.exception("will try again", key=key, failures=queue.requeues(key))
            queue.add_rate_limited(key)
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)
        finally:
            queue.done(key)


class _Later(Generic[Key]):
    """Keys by the time at which they come: a heap in which a key's earlier entries count."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Key]] = []
        self._at: dict[Key, float] = {}
        self._order = itertools.count()

    def put(self, key: Key, at: float) -> None:
        known = self._at.get(key)
        if known is None or at < known:
            self._at[key] = at
            heapq.heappush(self._heap, (at, next(self._order), key))

    def first(self) -> float | None:
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Key]:
        found = []
        while (first := self.first()) is not None and first <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            found.append(key)
        return found

    def clear(self) -> None:
        self._heap.clear()
        self._at.clear()


class _Metrics:
    """The metrics of one named queue."""

    def __init__(self, queue: WorkQueue[Key], name: str) -> None:
        self.adds = _adds.labels(name)
        self.retries = _retries.labels(name)
        self.queue_duration = _queue_duration.labels(name)
        self.work_duration = _work_duration.labels(name)
        _depth.labels(name).set_function(queue.depth)
        _unfinished.labels(name).set_function(lambda: sum(queue.running()))
        _longest.labels(name).set_function(lambda: max(queue.running(), default=0.0))
