"""Pods that do nothing, made and deleted, and when a watch tells what became of them.

The load is the same for every agent: pods are bound by their creation (``spec.nodeName``), so no
scheduler is in the way, and what happens to them is timed in this process, by the arrival of the
watch's events.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Literal, TypeAlias

import click

from whipstaff.cluster import containerd
from whipstaff.runtime import client, errors, informer, objects, resources

NAMESPACE = "default"
# Nothing new for so long is an agent that hangs.
STALLED_SECONDS = 120.0

Moment: TypeAlias = Literal["running", "ready", "gone"]


def pause_pod(name: str, node: str) -> client.Object:
    """A pod as upstream's density tests have them: pause, with the defaults for all the rest.

    That is a token and a grace period of 30 s, which pause, ending at SIGTERM, doesn't use.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "pause", "image": containerd.PAUSE}],
        },
    }


@dataclasses.dataclass(slots=True)
class Times:
    """When, in monotonic seconds, something was asked for one pod, and when it was seen."""

    created: float = 0.0
    running: float = 0.0
    ready: float = 0.0
    deleted: float = 0.0
    gone: float = 0.0


class Watch:
    """Notes when each pod is first seen Running, Ready and gone: `times` by name."""

    def __init__(self) -> None:
        self.times: dict[str, Times] = {}
        self._changed = asyncio.Event()

    def on_add(self, pod: client.Object) -> None:
        """A pod is new."""
        self._note(pod)

    def on_update(self, _: client.Object, pod: client.Object) -> None:
        """A pod has changed."""
        self._note(pod)

    def on_delete(self, pod: client.Object) -> None:
        """A pod is gone."""
        self.of(pod["metadata"]["name"]).gone = time.monotonic()
        self._changed.set()

    def of(self, name: str) -> Times:
        """The times of a pod."""
        return self.times.setdefault(name, Times())

    def _note(self, pod: client.Object) -> None:
        now = time.monotonic()
        times = self.of(pod["metadata"]["name"])
        status = pod.get("status") or {}
        if not times.running and status.get("phase") == "Running":
            times.running = now
            self._changed.set()
        if not times.ready and objects.is_true(pod, "Ready"):
            times.ready = now
            self._changed.set()

    async def wait(
        self,
        names: Collection[str],
        moment: Moment,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Wait until all of the pods have come to a moment.

        Raises:
            click.ClickException: none has for a long time.
        """
        while True:
            self._changed.clear()
            there = sum(bool(getattr(self.of(name), moment)) for name in names)
            if progress is not None:
                progress(there)
            if there == len(names):
                return
            try:
                await asyncio.wait_for(self._changed.wait(), STALLED_SECONDS)
            except TimeoutError:
                raise click.ClickException(
                    f"no pod became {moment} for {STALLED_SECONDS:.0f} s: "
                    f"{there} of {len(names)} are"
                ) from None


@contextlib.asynccontextmanager
async def watched(api: client.Client) -> AsyncIterator[Watch]:
    """A watch that runs for as long as the context."""
    watch = Watch()
    source = informer.Informer(api, resources.PODS, namespace=NAMESPACE)
    source.add_handler(watch)
    source.start()
    try:
        await source.synced.wait()
        yield watch
    finally:
        await source.stop()


async def create(api: client.Client, watch: Watch, name: str, node: str) -> None:
    """Make a pod that is bound to a node; waits for its service account where that is late."""
    body = pause_pod(name, node)
    for _ in range(100):
        try:
            await api.create(resources.PODS, body)
        except errors.Forbidden:
            await asyncio.sleep(0.1)
            continue
        break
    watch.of(name).created = time.monotonic()


async def delete(api: client.Client, watch: Watch, name: str) -> None:
    """Ask for a pod's deletion."""
    await api.delete(resources.PODS, name, NAMESPACE)
    watch.of(name).deleted = time.monotonic()
