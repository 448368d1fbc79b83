"""Reporting: statuses become patches, and pods that are over become deletions.

Each pod that has something to report stands in a queue once, however often its status changed
meanwhile; a bounded number of writers takes from it. A writer sends the difference to what the API
last showed, with the pod's UID as a precondition, and puts what comes back into the pod's worker.
Only where the API shows a terminal phase and the worker is finished is the pod deleted from it, by
UID again. What fails is tried again later with growing pauses (a conflict, too: another pod of the
name shows soon in the watch); when the API server can't be reached, all writers pause together.

Runs the writers; owns the queue. Answers to ``pkg/kubelet/status/status_manager.go`` (syncBatch,
syncPod, canBeDeleted). Unlike there, a pod isn't read before it is patched: the watch tells what
the API has, and the patch touches nothing that isn't the node's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Protocol

from whipstaff.node_agent import conditions, metrics, patches, timeline
from whipstaff.runtime import client, errors, logs, objects, resources

Object = objects.Object

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_RESULTS: Mapping[type[BaseException], str] = {
    errors.NotFound: "gone",
    errors.Conflict: "conflict",
    errors.Unreachable: "unreachable",
}

_log = logs.get("node_agent.reports")


class Reporting(Protocol):
    """What a writer needs of a pod's worker."""

    status_since: float
    failures: int

    @property
    def uid(self) -> str:
        """The pod's UID."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def status_due(self) -> Object | None:
        """The status to be written, None where the API has the last one."""

    def written(self, status: Object) -> None:
        """Take note that the API has this status."""

    def give_up(self) -> None:
        """Take note that there is nothing to write to any more."""

    def load(self) -> Object:
        """The pod as the API last showed it."""

    def may_be_deleted(self) -> bool:
        """Whether the worker is finished with a pod that was deleted."""

    def saw(self, pod: Object) -> None:
        """Take what the API answered."""


class Reporter:
    """Writes the statuses of pods.

    Args:
        api: the client.
        line: for later tries.
        writers: requests in flight at most.
    """

    def __init__(self, api: client.Client, line: timeline.Timeline, writers: int = 64) -> None:
        self._api = api
        self._line = line
        self._writers = writers
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[str, Reporting] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def put(self, worker: Reporting) -> None:
        """Have a pod's news written, soon."""
        uid = worker.uid
        self._idle.clear()
        if uid in self._busy:
            self._again.add(uid)
            self._waiting[uid] = worker
        elif uid not in self._waiting:
            self._waiting[uid] = worker
            self._queue.put_nowait(uid)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._writers):
                group.create_task(self._write_all())

    async def drain(self, timeout: float) -> bool:
        """Wait until everything is written; False if that takes longer than `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        return self._idle.is_set()

    async def _write_all(self) -> None:
        while True:
            uid = await self._queue.get()
            await self._reachable.wait()
            worker = self._waiting.pop(uid, None)
            if worker is None:
                continue
            self._busy.add(uid)
            try:
                await self._write(worker)
            finally:
                self._done(uid)

    def _done(self, uid: str) -> None:
        self._busy.discard(uid)
        if uid in self._again:
            self._again.discard(uid)
            self._queue.put_nowait(uid)
        if not self._busy and not self._waiting:
            self._idle.set()

    async def _write(self, worker: Reporting) -> None:
        try:
            await self._patch(worker)
            await self._delete(worker)
        except errors.NotFound as error:
            # The watch says so, or is about to.
            worker.give_up()
            _log.debug("a pod is gone", pod=f"{worker.namespace}/{worker.name}", error=str(error))
        except errors.Unreachable as error:
            self._wait_for_server(error)
            self._later(worker)
        except errors.ApiError as error:
            _log.warning(
                "a status could not be written",
                pod=f"{worker.namespace}/{worker.name}",
                error=str(error),
            )
            self._later(worker)
        except Exception:  # noqa: BLE001 (one pod's trouble must not become another's)
            _log.exception("a report failed", pod=f"{worker.namespace}/{worker.name}")
            self._later(worker)
        else:
            worker.failures = 0

    async def _patch(self, worker: Reporting) -> None:
        status = worker.status_due
        if status is None:
            return
        patch = patches.pod_status(worker.uid, worker.load().get("status") or {}, status)
        if patch is not None:
            with _counted("patch"):
                answer = await self._api.patch(
                    resources.PODS,
                    worker.name,
                    patch,
                    worker.namespace,
                    kind="strategic",
                    subresource="status",
                )
            metrics.pod_status_sync_duration.observe(self._line.clock() - worker.status_since)
            worker.saw(answer)
        worker.written(status)

    async def _delete(self, worker: Reporting) -> None:
        if worker.status_due is not None or not worker.may_be_deleted():
            return
        if not conditions.is_terminal(worker.load().get("status") or {}):
            return
        with _counted("delete"):
            await self._api.delete(
                resources.PODS,
                worker.name,
                worker.namespace,
                uid=worker.uid,
                grace_period_seconds=0,
            )

    def _later(self, worker: Reporting) -> None:
        worker.failures += 1
        pause = min(_FIRST_PAUSE * 2 ** min(worker.failures, 10), _LONGEST_PAUSE)
        self._line.after(pause * random.uniform(0.5, 1.0), self.put, worker)

    def _wait_for_server(self, error: errors.Unreachable) -> None:
        if self._reachable.is_set():
            _log.warning("the API server can't be reached; statuses wait", error=str(error))
            self._reachable.clear()
            self._line.after(_FIRST_PAUSE, self._reachable.set)


class _counted(contextlib.AbstractContextManager[None]):  # noqa: N801 (reads as a statement)
    """Count a request by its result."""

    def __init__(self, verb: str) -> None:
        self.verb = verb

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        result = "success" if kind is None else _RESULTS.get(kind, "error")
        metrics.status_writes.labels(self.verb, result).inc()
