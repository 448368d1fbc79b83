"""Leader election: of several replicas, the one that holds a Lease works.

`LeaderElector.run` is the loop: it tries to take the lease every few seconds, starts the work once
it has it, renews it while the work goes on, and gives it back at the end. When renewing fails for
as long as the renew deadline, or somebody else turns out to hold the lease, the work is cancelled
and `LeaseLost` ends the process: another replica may have begun.

Clocks of different machines are never compared: a lease counts as expired when its record hasn't
changed for its duration by our own clock. What to do next is decided by `Lock`, which takes the
record that was read and the time, and does nothing; the elector reads and writes.

Answers to client-go ``tools/leaderelection`` and its ``LeaseLock``. It differs in stopping at once
when another holder is seen, where upstream goes on until the deadline. Left out: coordinated leader
election (alpha), and the heartbeat of a node, which is the node agent's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import prometheus_client

from whipstaff.runtime import client as api
from whipstaff.runtime import errors, logs, objects, resources

_log = logs.get("leases")

JITTER = 1.2
TOLERATED_EXPIRY = 20.0
"""Seconds after which a leader that can't renew is unhealthy; what upstream's components use."""

_status = prometheus_client.Gauge(
    "leader_election_master_status",
    "Gauge of if the reporting system is the leader of the relevant lease, 0 indicates backup, "
    "1 indicates leader. 'name' is the string used to identify the lease.",
    ["name"],
)
_slow_path = prometheus_client.Counter(
    "leader_election_slowpath",
    "Total number of slow path exercised in renewing leader leases. "
    "'name' is the string used to identify the lease.",
    ["name"],
)


class LeaseLost(errors.WhipstaffError):
    """We led and do no longer: the process must end (exit code 1)."""


def new_identity() -> str:
    """A holder identity that no other process has, and no restart of this one: host_uuid."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says, times as they are written; compared as a whole to see it change."""

    holder: str = ""
    duration: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0

    @classmethod
    def read(cls, lease: Mapping[str, Any]) -> Self:
        """The record in a Lease; a Lease without a spec is held by nobody."""
        spec = lease.get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            spec.get("leaseDurationSeconds") or 0,
            spec.get("acquireTime") or "",
            spec.get("renewTime") or "",
            spec.get("leaseTransitions") or 0,
        )

    def spec(self) -> dict[str, Any]:
        """The Lease's spec that says this."""
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.duration,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }


class Lock:
    """What one candidate knows of a lease, and what it may do next. Reads no clock, sends nothing.

    Args:
        identity: who we are.
        lease_duration: seconds that others wait for us; written in whole seconds, rounded up.
    """

    def __init__(self, identity: str, lease_duration: float) -> None:
        self.identity = identity
        self.duration = math.ceil(lease_duration)
        self.record = Record()
        self.since = -math.inf

    def see(self, record: Record, now: float) -> None:
        """The lease was read (or written by us) at `now`; only a change starts its time anew."""
        if record != self.record:
            self.record, self.since = record, now

    @property
    def is_leader(self) -> bool:
        """Whether the last record seen names us."""
        return self.record.holder == self.identity

    def is_valid(self, now: float) -> bool:
        """Whether the record changed within its own duration."""
        return self.since + self.record.duration > now

    def is_held_by_other(self, now: float) -> bool:
        """Whether somebody else holds the lease and has not expired."""
        return bool(self.record.holder) and not self.is_leader and self.is_valid(now)

    def next(self, wall: float) -> Record:
        """The record to write to take the lease, or to renew it where it is ours.

        Args:
            wall: seconds since the epoch, to be written down.
        """
        stamp = objects.format_micro_time(wall)
        ours = self.is_leader
        return Record(
            self.identity,
            self.duration,
            self.record.acquired if ours else stamp,
            stamp,
            self.record.transitions + (0 if ours else 1),
        )

    def released(self, wall: float) -> Record:
        """The record to write to give the lease back: nobody's, and expired in a second."""
        stamp = objects.format_micro_time(wall)
        return Record("", 1, stamp, stamp, self.record.transitions)


class LeaderElector:
    """Takes, renews and gives back one Lease.

    Args:
        client: where the Lease is.
        name: of the Lease; also the ``name`` label of the metrics.
        namespace: of the Lease.
        identity: unique among the candidates; see `new_identity`.
        lease_duration: seconds after which others may take an unrenewed lease.
        renew_deadline: seconds for which a leader tries to renew before it gives up.
        retry_period: seconds between two tries.
        clock: seconds that only ever grow.
        wall: seconds since the epoch, only written down.
        jitter: gives numbers from 0 to 1.

    Raises:
        ValueError: the durations don't leave time to renew a lease before it expires.
    """

    def __init__(
        self,
        client: api.Client,
        *,
        name: str,
        namespace: str,
        identity: str,
        lease_duration: float = 15,
        renew_deadline: float = 10,
        retry_period: float = 2,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not lease_duration > renew_deadline > JITTER * retry_period > 0:
            raise ValueError(
                f"lease_duration ({lease_duration}) must be greater than renew_deadline "
                f"({renew_deadline}), and that greater than {JITTER} times retry_period "
                f"({retry_period}), and that greater than 0"
            )
        if not identity:
            raise ValueError("a leader needs an identity")
        self._client = client
        self._name, self._namespace = name, namespace
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        # What is left of a lease when renewing it is given up: how long the work may take to stop.
        self._stop_time = max(lease_duration - renew_deadline - retry_period, 0.1)
        self._clock, self._wall, self._jitter = clock, wall, jitter
        self._lock = Lock(identity, lease_duration)
        self._lease: objects.Object | None = None
        self._reported = ""
        self._leading = False
        self._metric = _status.labels(name)
        self._metric.set(0)

    @property
    def is_leader(self) -> bool:
        """Whether we hold the lease, as far as we know."""
        return self._leading and self._lock.is_leader

    @property
    def leader(self) -> str:
        """The identity of the leader last seen; "" where there is none."""
        return self._lock.record.holder

    def check(self) -> None:
        """A health check: a leader must be able to renew, one that only waits is well.

        Raises:
            LeaseLost: the lease is ours and expired a while ago.
        """
        overdue = self._clock() - self._lock.since - self._lock.duration
        if self.is_leader and overdue > TOLERATED_EXPIRY:
            raise LeaseLost(f"failed election to renew leadership on lease {self._name}")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, work while holding it, and give it back.

        Cancelled, it cancels the work, keeps renewing while that drains, and then gives back the
        lease, so that the next one needs not wait for it to expire.

        Raises:
            LeaseLost: the lease couldn't be renewed, or is somebody else's; the work was cancelled,
                and got the time that was left of the lease to stop.
            Exception: what the work raised, once the lease is given back.
        """
        await self._acquire()
        self._leading = True
        self._metric.set(1)
        work = asyncio.ensure_future(lead())
        renewing = asyncio.create_task(self._renew())
        stopped: asyncio.CancelledError | None = None
        try:
            await self._until_one_ends(work, renewing)
        except asyncio.CancelledError as error:
            stopped = error
        self._leading = False
        self._metric.set(0)
        lost = await _ended(renewing)
        # Work that goes on in spite of all keeps the lease until it expires.
        if lost is None and work.done():
            await self._release()
        if lost is not None:
            if stopped is None:
                raise lost
            _log.warning("while stopping", error=lost)
        if work.done() and not work.cancelled():
            work.result()
        if stopped is not None:
            raise stopped
        if work.cancelled():
            raise asyncio.CancelledError

    async def _until_one_ends(
        self, work: asyncio.Future[None], renewing: asyncio.Task[None]
    ) -> None:
        """Wait for the end of the work; cancel it when the lease is lost or we are cancelled."""
        try:
            await asyncio.wait([work, renewing], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            # While it drains it still works, so the lease must still be ours.
            try:
                await asyncio.wait([work, renewing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self._stop(work)
            raise
        await self._stop(work)

    async def _stop(self, work: asyncio.Future[None]) -> None:
        """End work that may not go on, within what is left of the lease."""
        for _ in range(2):
            if not work.done():
                work.cancel()
                await asyncio.wait([work], timeout=self._stop_time / 2)

    async def _acquire(self) -> None:
        _log.info("attempting to acquire leader lease", lease=f"{self._namespace}/{self._name}")
        while not await self._attempt(self._renew_deadline / 2):  # noqa: ASYNC110 (it's remote)
            await asyncio.sleep(self._retry_period * (1 + JITTER * self._jitter()))
        _log.info("successfully acquired lease", lease=f"{self._namespace}/{self._name}")

    async def _renew(self) -> None:
        """Renew until that fails for the renew deadline.

        Raises:
            LeaseLost: it failed.
        """
        while True:
            await asyncio.sleep(self._retry_period)
            deadline = self._clock() + self._renew_deadline
            while not await self._attempt(min(self._renew_deadline / 2, deadline - self._clock())):
                if self._lock.is_held_by_other(self._clock()):
                    raise LeaseLost(
                        f"lost the lease {self._namespace}/{self._name} to {self.leader}"
                    )
                left = deadline - self._clock()
                if left <= self._retry_period:
                    await asyncio.sleep(max(left, 0))
                    raise LeaseLost(
                        f"lost the lease {self._namespace}/{self._name}: "
                        f"it could not be renewed for {self._renew_deadline:g}s"
                    )
                await asyncio.sleep(self._retry_period)

    async def _attempt(self, timeout: float) -> bool:
        """Try once to take or renew the lease."""
        try:
            async with asyncio.timeout(timeout):
                won = await self._take_or_renew()
        except (errors.WhipstaffError, TimeoutError) as error:
            _log.warning(
                "lease could not be read or written",
                lease=f"{self._namespace}/{self._name}",
                error=error or "no answer in time",
            )
            won = False
        if self.leader != self._reported:
            self._reported = self.leader
            _log.info("leader", lease=f"{self._namespace}/{self._name}", identity=self.leader)
        return won

    async def _take_or_renew(self) -> bool:
        if self._lease is not None and self._lock.is_leader and self._lock.is_valid(self._clock()):
            try:
                await self._write(self._lease, self._lock.next(self._wall()))
            except errors.ApiError:
                # Our own write whose answer was lost, somebody else's, a deletion: reading tells.
                _slow_path.labels(self._name).inc()
            else:
                return True
        started = self._clock()
        try:
            self._lease = await self._client.get(resources.LEASES, self._name, self._namespace)
        except errors.NotFound:
            return await self._create()
        self._lock.see(Record.read(self._lease), started)
        if self._lock.is_held_by_other(self._clock()):
            return False
        try:
            await self._write(self._lease, self._lock.next(self._wall()))
        except errors.Conflict:
            _log.debug("another candidate was faster", lease=f"{self._namespace}/{self._name}")
            return False
        return True

    async def _create(self) -> bool:
        # What was known is of a lease that is gone: this one starts anew.
        fresh = Lock(self._lock.identity, self._lock.duration).next(self._wall())
        record = dataclasses.replace(fresh, transitions=0)
        started = self._clock()
        body = {
            "apiVersion": resources.LEASES.api_version,
            "kind": resources.LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": record.spec(),
        }
        try:
            self._lease = await self._client.create(resources.LEASES, body, self._namespace)
        except errors.AlreadyExists:
            return False
        self._lock.see(record, started)
        return True

    async def _write(self, lease: objects.Object, record: Record) -> None:
        """Replace the lease, if it is still as it was read."""
        # The time before asking: the lease can't be older than we believe.
        started = self._clock()
        self._lease = await self._client.update(resources.LEASES, {**lease, "spec": record.spec()})
        self._lock.see(record, started)

    async def _release(self) -> None:
        """Give the lease back; if that fails, it expires by itself."""
        if not self._lock.is_leader:
            return
        try:
            async with asyncio.timeout(self._renew_deadline):
                lease = await self._client.get(resources.LEASES, self._name, self._namespace)
                self._lock.see(Record.read(lease), self._clock())
                if self._lock.is_leader:
                    await self._write(lease, self._lock.released(self._wall()))
        except (errors.WhipstaffError, TimeoutError) as error:
            _log.warning(
                "lease could not be given back",
                lease=f"{self._namespace}/{self._name}",
                error=error or "no answer in time",
            )


async def _ended(renewing: asyncio.Task[None]) -> BaseException | None:
    """Stop renewing where it goes on; where it had ended by itself, why."""
    if renewing.done():
        return renewing.exception()
    renewing.cancel()
    await asyncio.wait([renewing])
    return None
