"""What keeps a node in order while pods come and go: full disks, long logs, leftovers.

Puts the loops together that look after the machine rather than after one pod: log rotation, image
collection, eviction, and what pods that are gone have left on the disk. A loop that fails in a way
that nobody foresaw is logged and begins anew. Runs these loops; owns nothing. Answers to the
modules that ``pkg/kubelet/kubelet.go`` starts in initializeModules and StartGarbageCollection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from whipstaff.node_agent import (
    agent,
    hosting,
    lifecycle,
    log_rotation,
    orphans,
    pod_events,
    pod_worker,
    provider,
    shutdown,
    statuses,
    upkeep_configuration,
)
from whipstaff.node_agent.eviction import evictor
from whipstaff.node_agent.eviction import summary as eviction_summary
from whipstaff.node_agent.images import collection as image_gc
from whipstaff.node_agent.server import statistics
from whipstaff.runtime import events, logs, objects

Object = objects.Object
Worker = pod_worker.Worker

_AGAIN = 10.0
_STRAYS = 60.0

_log = logs.get("node_agent.upkeep")


class Upkeep:
    """The upkeep of one node.

    Args:
        parts: the agent.
        host: how its pods live on this machine.
        figures: what the node and its pods use.
        recorder: takes events.
        policies: when something is done.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        parts: agent.Agent,
        host: hosting.Host,
        figures: statistics.Statistics,
        recorder: pod_events.Recorder,
        policies: upkeep_configuration.Policies,
        clock: Callable[[], float],
    ) -> None:
        (self._node,) = parts.nodes.values()
        self._parts = parts
        self._host = host
        self._figures = figures
        self._recorder = recorder
        self._dedicated: bool | None = None
        runtime = parts.runtime
        self._rotator = log_rotation.Rotator(runtime, self._running, policies.logs, clock)
        self._collector = image_gc.Collector(
            runtime,
            self._report,
            clock,
            policies.images,
            also_used=self._mounted_images,
            collected=parts.pulls.prune if parts.pulls is not None else _forget_nothing,
        )
        self._evictor = evictor.Evictor(policies.eviction, self._hands(), clock)
        self._orphans = orphans.Orphans(host.places(), self._known, self._running_ids)
        self._shutdown = shutdown.Shutdown(
            policies.shutdown, self._shutdown_hands(), host.root, clock
        )
        parts.crew.refusals += [self._evictor.admit, self._shutdown.admit]

    async def run(self) -> None:
        """Look after the node, until cancelled."""
        await self._parts.taken_over.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(_keep_up("log rotation", self._rotator.run))
            group.create_task(_keep_up("image collection", self._collector.run))
            group.create_task(_keep_up("eviction", self._evictor.run))
            group.create_task(_keep_up("orphans", self._orphans.run))
            group.create_task(_keep_up("strays", self._stop_strays))
            group.create_task(_keep_up("shutdown", self._shutdown.run))

    async def _stop_strays(self) -> None:
        """Stop what runs here, and has for a minute, without a pod that anybody knows of."""
        suspects: set[str] = set()
        while True:
            await asyncio.sleep(_STRAYS)
            found = {pod.uid: pod for pod in await self._parts.runtime.list()}
            unknown = found.keys() - self._known()
            for uid in unknown & suspects:
                _log.warning("something runs without a pod", uid=uid)
                self._parts.crew.orphan(self._node, found[uid])
            suspects = unknown

    def _hands(self) -> evictor.Hands:
        return evictor.Hands(
            measure=self._measure,
            active=lambda: [worker.load() for worker in self._active()],
            kill=self._kill,
            is_gone=self._is_gone,
            delete_containers=_nothing,
            delete_images=self._collector.delete_unused,
            report=self._report,
            report_pod=pod_events.PodEvents(self._recorder).report,
            changed=self._press,
        )

    def _shutdown_hands(self) -> shutdown.Hands:
        crew = self._parts.crew
        return shutdown.Hands(
            active=lambda: [worker.load() for worker in self._not_over()],
            kill=lambda pod, verdict: crew.end(objects.uid(pod), verdict),
            is_gone=self._is_cleaned_up,
            report=self._report,
            changed=self._go_down,
        )

    async def _measure(self) -> evictor.Measurement:
        if self._dedicated is None:
            images = await self._parts.runtime.image_filesystem()
            self._dedicated = await asyncio.to_thread(
                eviction_summary.has_own_disk, images, str(self._host.root)
            )
        summary = await self._figures.node_summary(self._node.name)
        return eviction_summary.measurement(summary, dedicated=self._dedicated)

    def _kill(self, pod: Object, verdict: statuses.Verdict) -> None:
        worker = self._parts.crew.get(objects.uid(pod))
        if worker is not None and worker.life.verdict is None:
            worker.life.verdict = verdict
            self._parts.crew.wake(worker)

    def _is_gone(self, uid: str) -> bool:
        worker = self._parts.crew.get(uid)
        return worker is None or worker.life.stage is lifecycle.Stage.TERMINATED

    def _is_cleaned_up(self, uid: str) -> bool:
        worker = self._parts.crew.get(uid)
        return worker is None or (self._is_gone(uid) and worker.cleaned)

    def _go_down(self, down: bool) -> None:
        self._node.shutting_down = down
        self._parts.heartbeats.check()

    def _press(self, conditions: frozenset[str]) -> None:
        self._node.pressures = conditions
        self._parts.heartbeats.check()

    def _report(self, kind: events.EventType, reason: str, note: str) -> None:
        if self._node.object is not None:
            metadata = self._node.object["metadata"]
            regarding = {"apiVersion": "v1", "kind": "Node"}
            regarding |= {key: metadata[key] for key in ("name", "uid")}
            self._recorder.event(regarding, kind, reason, "Upkeep", note)

    # The pods.

    def _active(self) -> Iterator[Worker]:
        for worker in self._parts.crew:
            if worker.life.stage is lifecycle.Stage.SYNC and not worker.life.orphaned:
                yield worker

    def _not_over(self) -> Iterator[Worker]:
        for worker in self._parts.crew:
            if worker.admitted and not self._is_cleaned_up(worker.uid):
                yield worker

    def _running(self) -> Iterator[tuple[Object, provider.RuntimeContainer]]:
        for worker in self._parts.crew:
            runs = worker.life.runtime.running()
            if runs:
                pod = worker.load()
                yield from ((pod, run) for run in runs)

    def _running_ids(self) -> set[str]:
        return {run.id for worker in self._parts.crew for run in worker.life.runtime.running()}

    def _mounted_images(self) -> Iterator[str]:
        for worker in self._parts.crew:
            for volume in worker.load()["spec"].get("volumes") or ():
                if "image" in volume:
                    yield volume["image"].get("reference", "")

    def _known(self) -> set[str]:
        return {worker.uid for worker in self._parts.crew}


async def _keep_up(what: str, run: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 (the node goes on, and so does the rest of its upkeep)
            _log.exception("a part of the node's upkeep failed", part=what)
        else:
            return
        await asyncio.sleep(_AGAIN)


async def _nothing() -> None:
    """Containers that nobody needs any more are removed when they end, not when disks are full."""


def _forget_nothing(_: Iterable[str], __: float) -> None:
    """Where no record is kept of who pulled an image, none is to be forgotten."""
