"""Events: what a component tells the users of an object, in ``kubectl describe``.

`Recorder.event` takes a note at once and never blocks or fails: it puts it in a bounded queue, or
drops it, counts it and says so once. `Recorder.run` is the loop that writes them, limited in rate,
always or while there is more important work, so that telling about the work never gets in its way.

The same thing happening again to the same object within six minutes is one series: the first event
gets a count, written when it turns two, every half hour, and when the series ends or the component
stops. `Aggregator` decides that, given the time; the recorder does the writing. What can't be sent
for want of an API server is tried again; what the API server refuses is logged and forgotten.

Answers to client-go ``tools/events``. Left out: the legacy core/v1 events and their aggregation by
message. Different: upstream's cache of events is unbounded, this one forgets the oldest.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import random
import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import prometheus_client

from whipstaff.runtime import client as api
from whipstaff.runtime import errors, logs, objects, resources, transport

EventType: TypeAlias = Literal["Normal", "Warning"]

FINISH_TIME = 6 * 60.0
"""Seconds without a repetition after which a series ends."""
REFRESH_TIME = 30 * 60.0
"""Seconds after which a series that goes on is written again, so that it doesn't expire."""
NOTE_LIMIT = 1024
"""Bytes of UTF-8 that the API takes as a note."""

_MAX_TRIES = 12
_MAX_KNOWN = 4096
_SWEEP_TIME = 60.0
_LOOK_TIME = 0.2
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_log = logs.get("events")
_dropped = prometheus_client.Counter(
    "whipstaff_events_dropped",
    "Events that were not recorded because too many were waiting already.",
    ["reporting_controller"],
)


@dataclasses.dataclass(slots=True, eq=False)
class Entry:
    """An event, and how often it has happened; times are of the monotonic clock.

    Attributes:
        body: the event as it is created, without its time and its series.
        first_wall: when it happened first, in seconds since the epoch.
        count: how often it happened.
        first: when it happened first.
        last: when it happened last.
        last_wall: the same in seconds since the epoch, to be written down.
        sent: the count that the API server has; 0 is none yet.
        sent_at: when that was written.
    """

    body: objects.Object
    first: float
    last: float
    last_wall: float
    first_wall: float
    count: int = 1
    sent: int = 0
    sent_at: float = 0.0

    def series(self) -> dict[str, Any]:
        """The series as the API has it."""
        return {
            "count": self.count,
            "lastObservedTime": objects.format_micro_time(self.last_wall),
        }


class Aggregator:
    """Which events are repetitions, and which have to be written now. Reads no clock."""

    def __init__(self, known: int = _MAX_KNOWN) -> None:
        self._known = known
        self._entries: collections.OrderedDict[tuple[Any, ...], Entry] = collections.OrderedDict()

    def record(self, body: objects.Object, now: float, wall: float) -> list[Entry]:
        """An event happened: what is to be written because of it."""
        key = _key(body)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(body, now, now, wall, wall)
            return [entry, *self._forget_oldest()]
        self._entries.move_to_end(key)
        entry.count += 1
        entry.last, entry.last_wall = now, wall
        return [entry] if entry.count == 2 else []

    def forget(self, entry: Entry) -> None:
        """The event was never written: its next occurrence is the first."""
        self._entries.pop(_key(entry.body), None)

    def sweep(self, now: float) -> list[Entry]:
        """End what is over: the series whose counts are to be written."""
        writes = []
        for key, entry in list(self._entries.items()):
            if now - entry.last > FINISH_TIME:
                del self._entries[key]
                if entry.sent != entry.count:
                    writes.append(entry)
            elif entry.count > 1 and now - max(entry.sent_at, entry.first) > REFRESH_TIME:
                writes.append(entry)
        return writes

    def unsent(self) -> list[Entry]:
        """The series that happened more often than the API server knows."""
        return [entry for entry in self._entries.values() if entry.sent != entry.count]

    def _forget_oldest(self) -> list[Entry]:
        if len(self._entries) <= self._known:
            return []
        _, oldest = self._entries.popitem(last=False)
        return [oldest] if oldest.count > 1 and oldest.sent != oldest.count else []


class Recorder:
    """Records events about objects, as one reporting controller.

    Args:
        client: where the events are written.
        reporting_controller: who reports, as a qualified name: ``default-scheduler``.
        reporting_instance: which of its processes; by default the controller and the host name.
        qps: events a second at most, on average; None is without limit.
        burst: events at once at most.
        is_busy: whether there is work that events have to stand behind: the limit in rate counts
            only then, and only for `patience` and half of the queue. None is always.
        patience: seconds that an event waits because of that; then it is written without a limit.
        queue_size: how many may wait to be written; more are dropped.
        senders: how many are written at the same time.
        retry_period: seconds before another try when the API server can't be reached.
        stop_timeout: seconds for which `run`, when it is cancelled, writes what still waits.
        clock: seconds that only ever grow.
        wall: nanoseconds since the epoch.
    """

    def __init__(
        self,
        client: api.Client,
        *,
        reporting_controller: str,
        reporting_instance: str = "",
        qps: float | None = 50,
        burst: int = 100,
        is_busy: Callable[[], bool] | None = None,
        patience: float = 60,
        queue_size: int = 1000,
        senders: int = 4,
        retry_period: float = 10,
        stop_timeout: float = 2,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._client = client
        self._controller = reporting_controller
        instance = reporting_instance or f"{reporting_controller}-{socket.gethostname()}"
        self._instance = instance[:128]
        self._bucket = transport.TokenBucket(qps, burst) if qps is not None else None
        self._is_busy = is_busy
        self._patience = patience
        self._queue: asyncio.Queue[Entry] = asyncio.Queue(queue_size)
        self._waiting: set[Entry] = set()
        self._senders = senders
        self._retry_period = retry_period
        self._stop_timeout = stop_timeout
        self._clock, self._wall = clock, wall
        self._aggregator = Aggregator()
        self._last_name = 0
        self._flushing = asyncio.Event()
        self._overflown = False
        self.dropped = 0

    def event(
        self,
        regarding: Mapping[str, Any],
        type: EventType,  # noqa: A002 (the API's word)
        reason: str,
        action: str,
        note: str,
        related: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that something happened to an object. Returns at once.

        Args:
            regarding: the object (or a reference to one), with apiVersion and kind.
            type: ``Warning`` where somebody may have to look.
            reason: why, in UpperCamelCase: ``FailedScheduling``.
            action: what was done or tried: ``Scheduling``; the API requires it.
            note: a sentence; cut at 1024 bytes.
            related: a second object.
        """
        nanos = self._wall()
        body = self._body(regarding, type, reason, action, note, related, nanos)
        for entry in self._aggregator.record(body, self._clock(), nanos / 1e9):
            self._enqueue(entry)

    async def run(self) -> None:
        """Write events until cancelled; then what still waits, as far as there is time."""
        tasks = [asyncio.create_task(self._send_all()) for _ in range(self._senders)]
        tasks.append(asyncio.create_task(self._sweep_all()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await self.flush(self._stop_timeout)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def flush(self, timeout: float) -> None:
        """Write what waits, and the counts of series that go on; at most for some seconds.

        Without regard to the limit in rate. Needs `run` to be running.
        """
        self._flushing.set()
        try:
            async with asyncio.timeout(timeout):
                for entry in self._aggregator.unsent():
                    if entry not in self._waiting:
                        self._waiting.add(entry)
                        await self._queue.put(entry)
                await self._queue.join()
        except TimeoutError:
            _log.warning("events could not be written in time", waiting=len(self._waiting))
        finally:
            self._flushing.clear()

    def _body(
        self,
        regarding: Mapping[str, Any],
        kind: EventType,
        reason: str,
        action: str,
        note: str,
        related: Mapping[str, Any] | None,
        nanos: int,
    ) -> objects.Object:
        reference = _reference(regarding)
        body: objects.Object = {
            "apiVersion": resources.EVENTS.api_version,
            "kind": resources.EVENTS.kind,
            "metadata": {
                "name": self._name(reference["name"], nanos),
                "namespace": reference.get("namespace") or "default",
            },
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "regarding": reference,
            "note": truncated(note),
            "type": kind,
        }
        if related is not None:
            body["related"] = _reference(related)
        return body

    def _name(self, regarding: str, nanos: int) -> str:
        """The object's name and the time, which no two of our events share."""
        self._last_name = max(self._last_name + 1, nanos)
        name = f"{regarding}.{self._last_name:x}"
        if len(name) > 253 or _DNS_SUBDOMAIN.fullmatch(name) is None:
            return str(uuid.uuid4())
        return name

    def _enqueue(self, entry: Entry) -> None:
        if entry in self._waiting:
            return
        try:
            self._queue.put_nowait(entry)
        except asyncio.QueueFull:
            self._drop(entry)
            return
        self._waiting.add(entry)
        self._overflown = False

    def _drop(self, entry: Entry) -> None:
        self.dropped += 1
        _dropped.labels(self._controller).inc()
        if not entry.sent:
            self._aggregator.forget(entry)
        if not self._overflown:
            self._overflown = True
            _log.warning(
                "events are dropped: too many wait to be written",
                waiting=self._queue.qsize(),
                dropped=self.dropped,
            )

    async def _send_all(self) -> None:
        while True:
            entry = await self._queue.get()
            try:
                await self._wait_for_turn(entry)
                await self._send(entry)
            finally:
                self._waiting.discard(entry)
                self._queue.task_done()
            if entry.sent == 1 < entry.count:
                # It became a series while its first event was on the way.
                self._enqueue(entry)

    async def _wait_for_turn(self, entry: Entry) -> None:
        if self._bucket is None or self._may_hurry(entry):
            return
        turn = self._clock() + self._bucket.reserve(self._clock())
        while (wait := turn - self._clock()) > 0 and not self._may_hurry(entry):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flushing.wait(), min(wait, _LOOK_TIME))

    def _may_hurry(self, entry: Entry) -> bool:
        """Whether the limit in rate doesn't count now."""
        if self._flushing.is_set():
            return True
        if self._is_busy is None:
            return False
        since = entry.last if entry.sent else entry.first
        is_late = self._clock() - since > self._patience
        return is_late or self._queue.qsize() > self._queue.maxsize // 2 or not self._is_busy()

    async def _send(self, entry: Entry) -> None:
        for _ in range(_MAX_TRIES):
            count = entry.count
            try:
                await self._write(entry)
            except errors.ApiError as error:
                _log.warning("event rejected", event=entry.body["metadata"]["name"], error=error)
            except errors.Unreachable as error:
                _log.debug("event could not be written", error=error)
                if self._flushing.is_set():
                    break
                await asyncio.sleep(self._retry_period * random.uniform(1, 1.25))
                continue
            entry.sent, entry.sent_at = count, self._clock()
            return
        _log.warning("event given up", event=entry.body["metadata"]["name"])

    async def _write(self, entry: Entry) -> None:
        metadata = entry.body["metadata"]
        if entry.sent:
            try:
                await self._client.patch(
                    resources.EVENTS,
                    metadata["name"],
                    {"series": entry.series()},
                    metadata["namespace"],
                )
            except errors.NotFound:
                # It expired while the series went on: it starts again, with its count.
                pass
            else:
                return
        body = {**entry.body, "eventTime": objects.format_micro_time(entry.first_wall)}
        if entry.count > 1:
            body["series"] = entry.series()
        try:
            await self._client.create(resources.EVENTS, body)
        except errors.AlreadyExists:
            _log.debug("event was there already", event=metadata["name"])

    async def _sweep_all(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_TIME)
            for entry in self._aggregator.sweep(self._clock()):
                self._enqueue(entry)


def truncated(note: str) -> str:
    """A note that the API takes: cut at 1024 bytes, with `` ...`` at its end where it was."""
    encoded = note.encode()
    if len(encoded) <= NOTE_LIMIT:
        return note
    suffix = " ..."
    return encoded[: NOTE_LIMIT - len(suffix)].decode(errors="ignore") + suffix


def _reference(obj: Mapping[str, Any]) -> objects.ObjectReference:
    """The reference to an object; a reference is its own."""
    if "metadata" in obj:
        return objects.reference(obj)
    reference: Any = dict(obj)
    return reference  # type: ignore[no-any-return]


def _key(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two events of one series have in common: all but the note and the time."""
    return (
        body["type"],
        body["action"],
        body["reason"],
        *sorted(body["regarding"].items()),
        None,
        *sorted(body.get("related", {}).items()),
    )
