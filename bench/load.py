"""Fills a control plane with nodes and pods, and watches pods being bound.

The load is the same for every scheduler: many creates in flight, no think time, one watch over the
pods that have a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from bench import templates, workloads
from whipstaff.runtime import client, errors, resources

IN_FLIGHT = 32
NAMESPACE = "default"
INIT, MEASURED = "init-", "measured-"
"""How the names of the pods begin that count."""


def init_namespace(workload: workloads.Workload, index: int) -> str:
    """Where a pod goes that is there before the measured ones."""
    if not workload.init_namespaces:
        return NAMESPACE
    return f"init-ns-{index % workload.init_namespaces}"


async def prepare(api: client.Client, workload: workloads.Workload) -> None:
    """Make the namespaces and whatever has to be there before the nodes."""
    team = {"metadata": {"labels": templates.TEAM}}
    await api.patch(resources.NAMESPACES, NAMESPACE, team)
    for index in range(workload.init_namespaces):
        name = {"name": init_namespace(workload, index), "labels": templates.TEAM}
        await api.create(resources.NAMESPACES, {"metadata": name})
    for resource, body in workload.objects:
        await api.create(resource, body)


async def churn(api: client.Client, plan: workloads.Churn) -> None:
    """Make something, and unmake it, every so often; until cancelled."""
    made: dict[resources.Resource, client.Object] = {}
    for turn in itertools.count():
        resource, make = plan.makers[turn % len(plan.makers)]
        if plan.recreate and (last := made.pop(resource, None)):
            metadata = last["metadata"]
            with contextlib.suppress(errors.NotFound):
                await api.delete(resource, metadata["name"], metadata.get("namespace"))
        made[resource] = await api.create(resource, make(turn))
        await asyncio.sleep(plan.seconds)


async def create_all(
    api: client.Client,
    resource: resources.Resource,
    count: int,
    body: Callable[[int], client.Object],
    *,
    done: Callable[[client.Object], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Create `count` objects, `IN_FLIGHT` at a time; `done` gets each answer."""
    indices = iter(range(count))
    made = 0

    async def worker() -> None:
        nonlocal made
        for index in indices:
            answer = await api.create(resource, body(index))
            made += 1
            if done is not None:
                done(answer)
            if progress is not None:
                progress(made)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(IN_FLIGHT, count)):
            group.create_task(worker())


class BindWatch:
    """Notes when each pod that counts is first seen with a node: `bound[name] = (moment, node)`."""

    def __init__(self, api: client.Client) -> None:
        self.bound: dict[str, tuple[float, str]] = {}
        self._api = api
        self._changed = asyncio.Event()

    async def wait_for(
        self, count: int, *, stalled: float, progress: Callable[[int], None]
    ) -> None:
        """Wait until `count` pods are bound.

        Raises:
            TimeoutError: nothing was bound for `stalled` seconds.
        """
        while len(self.bound) < count:
            progress(len(self.bound))
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), stalled)
            except TimeoutError:
                raise TimeoutError(
                    f"no pod was bound for {stalled:.0f} s: {len(self.bound)} of {count} are"
                ) from None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                stream = self._api.watch(
                    resources.PODS,
                    field_selector="spec.nodeName!=",
                    resource_version="0",
                )
                async for event in stream:
                    self._note(event.object)
            except errors.Unreachable:
                continue

    def _note(self, pod: dict[str, Any]) -> None:
        node = pod.get("spec", {}).get("nodeName")
        name = pod["metadata"].get("name", "")
        if node and name not in self.bound and name.startswith((INIT, MEASURED)):
            self.bound[name] = (time.monotonic(), node)
            self._changed.set()


@contextlib.asynccontextmanager
async def watched(api: client.Client) -> AsyncIterator[BindWatch]:
    """A watch that runs for as long as the context."""
    watch = BindWatch(api)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
