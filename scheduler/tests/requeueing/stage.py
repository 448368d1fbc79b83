"""A scheduler in the test's hands: it watches by itself, and tries pods when it is told to.

What is looked at is the queue, right after the watch has shown a change; no clock is waited for,
backoffs last no time and the timers don't run.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from scheduler.tests.requeueing import cases
from whipstaff.runtime import client, errors, informer, objects, resources
from whipstaff.scheduler import app, configuration, plugin_sets, queue

Object = dict[str, Any]

WAIT = 20.0
KINDS = {
    each.kind: each
    for each in (
        resources.NODES,
        resources.PODS,
        resources.PERSISTENTVOLUMES,
        resources.PERSISTENTVOLUMECLAIMS,
        resources.STORAGECLASSES,
        resources.CSINODES,
        resources.CSIDRIVERS,
        resources.CSISTORAGECAPACITIES,
        resources.VOLUMEATTACHMENTS,
    )
}


class Open(app.Scheduler):
    """A scheduler that shows what waits in its queue."""

    def waiting_pods(self) -> list[tuple[str, queue.QueuedPod]]:
        """The pods in the queue, each with its place."""
        found = [self._waiting.get(objects.key(pod)) for pod in self._pods.list()]
        return [(queued.place, queued) for queued in found if queued is not None]

    def attempts(self) -> dict[str, int]:
        """How often each of the pods in the queue was tried."""
        return {queued.pod.name: queued.attempts for _, queued in self.waiting_pods()}

    def informer(self, resource: resources.Resource) -> informer.Informer:
        """The one that watches `resource`."""
        return next(each for each in self._watched() if each.resource == resource)


class Driven(Open):
    """A scheduler that tries pods when `attempt` is called."""

    async def _lead(self) -> None:
        self._watch()
        for watched in self._watched():
            await watched.wait_synced()
        self._synced()
        try:
            await asyncio.Event().wait()
        finally:
            await self._drain()

    def attempt(self) -> list[str]:
        """Tries whatever is to be tried now; the names of the pods."""
        tried = []
        while (queued := self._waiting.pop()) is not None:
            tried.append(queued.pod.name)
            binding = self._cycle.schedule(queued)
            if binding is not None:
                self._bindings.start(binding)
        return tried

    async def told(self) -> None:
        """Once the pods' conditions say why they were refused."""
        await self._conditions.drain(WAIT)


class Stage:
    """The API server as a case uses it. What it makes is gone afterwards."""

    def __init__(self, api: client.Client, namespace: str, scheduler_name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._scheduler_name = scheduler_name
        self._made: list[tuple[resources.Resource, str, str | None]] = []

    def _where(self, resource: resources.Resource) -> str | None:
        return self._namespace if resource.namespaced else None

    async def make(self, *bodies: Object) -> list[Object]:
        """Creates objects, without the finalizers that controllers would have to take away."""
        return [await self._make(body) for body in bodies]

    async def _make(self, body: Object) -> Object:
        resource = KINDS[body["kind"]]
        if resource is resources.PODS:
            body = {**body, "spec": {"schedulerName": self._scheduler_name, **body["spec"]}}
        namespace, name = self._where(resource), body["metadata"]["name"]
        made = await self._api.create(resource, body, namespace)
        self._made.append((resource, name, namespace))
        if made["metadata"].get("finalizers"):
            made = await self._api.patch(
                resource, name, {"metadata": {"finalizers": None}}, namespace
            )
        return made

    async def apply(self, change: cases.Change, scheduler: Driven) -> None:
        """Makes a change, and waits until the scheduler has seen it."""
        match change:
            case cases.New(body):
                [made] = await self.make(body)
                await self._seen(scheduler, KINDS[body["kind"]], made)
            case cases.Changed(kind, name, patch, part):
                resource = KINDS[kind]
                changed = await self._api.patch(
                    resource,
                    name,
                    patch,
                    self._where(resource),
                    kind="strategic",
                    subresource=part,
                )
                await self._seen(scheduler, resource, changed)
            case cases.Gone(kind, name):
                resource = KINDS[kind]
                known = scheduler.informer(resource)
                namespace = self._where(resource)
                key = f"{namespace}/{name}" if namespace else name
                await self._remove(resource, name, namespace)
                await until(lambda: known.get(key) is None, f"{key} is gone")

    async def _seen(self, scheduler: Driven, resource: resources.Resource, obj: Object) -> None:
        known = scheduler.informer(resource)
        wanted = int(objects.resource_version(obj))

        def is_seen() -> bool:
            seen = known.get(objects.key(obj))
            return seen is not None and int(objects.resource_version(seen)) >= wanted

        await until(is_seen, f"{objects.key(obj)} is seen")

    async def _remove(self, resource: resources.Resource, name: str, namespace: str | None) -> None:
        grace = 0 if resource is resources.PODS else None
        with contextlib.suppress(errors.NotFound):
            await self._api.delete(resource, name, namespace, grace_period_seconds=grace)

    async def clean(self) -> None:
        """Removes what was made."""
        for resource, name, namespace in reversed(self._made):
            await self._remove(resource, name, namespace)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds that only this process has to do with."""
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, f"not within {WAIT:g} s: {what}"
        await asyncio.sleep(0.002)


def settings(plugins: Iterable[str], **more: Any) -> configuration.Configuration:
    """A configuration without backoffs, with these plugins; with none, the default ones."""
    wanted = ["PrioritySort", *plugins, "DefaultBinder"]
    only = plugin_sets.PluginSet(tuple((name, 0) for name in wanted), ("*",))
    sets = plugin_sets.merge({plugin_sets.MULTI_POINT: only} if len(wanted) > 2 else {})
    profile = configuration.Profile("any", plugins=sets)
    given = {"pod_initial_backoff": 0, "pod_max_backoff": 0, **more}
    return configuration.Configuration(profiles=(profile,), **given)


@contextlib.asynccontextmanager
async def driven(
    cluster: Any, wanted: configuration.Configuration, **more: Any
) -> AsyncIterator[Driven]:
    """A scheduler for `cluster`'s scheduler name, once it has read what there is."""
    synced = asyncio.Event()
    async with cluster.scheduling(settings=wanted, kind=Driven, synced=synced.set, **more) as made:
        async with asyncio.timeout(WAIT):
            await synced.wait()
        yield made
