"""Who plays scheduler and kubelet for a differential run: what becomes of a pod is in its image.

- ``bad:...`` never becomes ready;
- ``flaky-N:...`` fails in the first N pods of each ReplicaSet, and serves in the others;
- every other image serves at once.

Nothing depends on a pod's name. Pods that are deleted end soon. The nodes are kept ready.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from whipstaff.runtime import client, errors, objects, resources

Object: TypeAlias = dict[str, Any]

NODES = ("node-a", "node-b", "node-c")
_FLAKY = re.compile(r"flaky-(\d+):")
_AT_ONCE = 32
_HEARTBEAT = 10.0
_LEAVING = 0.2
"""Seconds that a pod takes to end: long enough to be seen."""
_GONE = (errors.NotFound, errors.Conflict)
"""A pod that is gone, or another one by now."""


class Cluster(Protocol):
    """What the kubelet needs of a side."""

    api: client.Client

    def watch(self, kind: resources.Resource, handler: object) -> None: ...


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[None]:
    """Look after nodes and pods."""
    found = _Kubelet(cluster.api)
    for name in NODES:
        await cluster.api.create(resources.NODES, {"metadata": {"name": name}})
    await found.beat()
    heart = asyncio.create_task(found.keep_beating())
    cluster.watch(resources.PODS, found)
    try:
        yield
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)
        await found.stop()


class _Kubelet:
    def __init__(self, api: client.Client) -> None:
        self._api = api
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[str] = set()
        self._seen: collections.Counter[str] = collections.Counter()
        self._errors: list[BaseException] = []

    async def stop(self) -> None:
        """End; raises what went wrong with a pod."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._errors:
            raise self._errors[0]

    async def keep_beating(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT)
            await self.beat()

    async def beat(self) -> None:
        """Say that the nodes are well: nobody is to take the pods off them."""
        now = objects.format_time(time.time())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "is well",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"status": {"conditions": [ready], "capacity": {"pods": "1000"}}}
        for name in NODES:
            await self._api.patch(
                resources.NODES, name, status, kind="strategic", subresource="status"
            )

    # ---- the watch ---------------------------------------------------------------------------

    def on_add(self, pod: Object) -> None:
        if objects.is_terminating(pod):
            self.on_update(pod, pod)
        elif not objects.is_finished(pod) and not pod["spec"].get("nodeName"):
            owner = objects.owner(pod)
            number = self._seen[owner["uid"] if owner else ""]
            self._seen[owner["uid"] if owner else ""] += 1
            self._do(functools.partial(self._start, pod, number))

    def on_update(self, _: Object, pod: Object) -> None:
        if objects.is_terminating(pod) and objects.uid(pod) not in self._ending:
            self._ending.add(objects.uid(pod))
            self._do(functools.partial(self._end, pod), after=_LEAVING)

    def _do(self, work: Callable[[], Awaitable[None]], after: float = 0.0) -> None:
        async def in_turn() -> None:
            await asyncio.sleep(after)
            async with self._turn:
                await work()

        task = asyncio.create_task(in_turn())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    # ---- pods --------------------------------------------------------------------------------

    async def _start(self, pod: Object, number: int) -> None:
        name, namespace = objects.name(pod), objects.namespace(pod)
        target = {"apiVersion": "v1", "kind": "Node", "name": NODES[number % len(NODES)]}
        binding = {"metadata": {"name": name, "uid": objects.uid(pod)}, "target": target}
        with contextlib.suppress(*_GONE):
            await self._api.create(
                resources.PODS, binding, namespace, name=name, subresource="binding"
            )
            status = _status(pod["spec"]["containers"][0]["image"], number)
            await self._api.patch(
                *(resources.PODS, name, {"metadata": {"uid": objects.uid(pod)}, **status}),
                namespace,
                kind="strategic",
                subresource="status",
            )

    async def _end(self, pod: Object) -> None:
        with contextlib.suppress(*_GONE):
            await self._api.delete(
                *(resources.PODS, objects.name(pod), objects.namespace(pod)),
                uid=objects.uid(pod),
                grace_period_seconds=0,
            )


def _status(image: str, number: int) -> Object:
    flaky = _FLAKY.match(image)
    if flaky and number < int(flaky[1]):
        return {"status": {"phase": "Failed", "reason": "Flaky"}}
    serves = not image.startswith("bad:")
    ready = {
        "type": "Ready",
        "status": "True" if serves else "False",
        "lastTransitionTime": objects.format_time(time.time()),
    }
    return {"status": {"phase": "Running" if serves else "Pending", "conditions": [ready]}}
