"""The two clusters of a differential run: one with the stock controllers, one with ours.

Each is a control plane of its own with kube-controller-manager: the stock side's whole, ours
without the two controllers, which `whipstaff controllers` replaces as a process. The client limits
are lifted on both. A `Side` watches all Deployments, ReplicaSets and pods of its cluster.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from e2e.controllers import kubelet
from whipstaff.cluster import binaries, envtest, processes
from whipstaff.runtime import client, config, errors, informer, objects, resources

Object: TypeAlias = dict[str, Any]

STOCK, OURS = "stock", "ours"
_LIFTED = ("--kube-api-qps=1000", "--kube-api-burst=1000")
_WITHOUT_TWO = "--controllers=*,-deployment-controller,-replicaset-controller"
_BY_NAMESPACE = "namespace"
_START = 60.0


class Side:
    """One cluster, and what is known of its Deployments, ReplicaSets and pods.

    Attributes:
        name: `STOCK` or `OURS`.
        api: administers it.
        changed: when something last changed in a namespace, in monotonic seconds.
    """

    def __init__(self, name: str, plane: envtest.ControlPlane, api: client.Client) -> None:
        self.name = name
        self.plane = plane
        self.api = api
        self.changed: dict[str, float] = collections.defaultdict(time.monotonic)
        index = {_BY_NAMESPACE: lambda obj: (objects.namespace(obj),)}
        self._informers = {
            kind: informer.Informer(api, kind, indexers=index)
            for kind in (resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS)
        }

    def watch(self, kind: resources.Resource, handler: object) -> None:
        """Tell a handler of every change of a kind."""
        self._informers[kind].add_handler(handler)

    def list(self, kind: resources.Resource, namespace: str) -> list[Object]:
        """All objects of a kind in a namespace, as the watch knows them."""
        return list(self._informers[kind].by_index(_BY_NAMESPACE, namespace))

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep the copies up to date."""
        for each in self._informers.values():
            each.add_handler(_Clock(self.changed))
            each.start()
            await each.wait_synced(30)
        try:
            yield
        finally:
            for each in self._informers.values():
                await each.stop()

    async def answers(self) -> None:
        """Wait until the controllers make a Deployment's pods, and the garbage collector works."""
        name = "is-it-up"
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "good:1"}]},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        body: Object = {"metadata": {"name": name}, "spec": spec}
        await self.api.create(resources.DEPLOYMENTS, body, "default")
        end = time.monotonic() + _START
        deleted = False
        while True:
            pods = self.list(resources.PODS, "default")
            if deleted and not pods:
                return
            if not deleted and any(pod["status"].get("phase") == "Running" for pod in pods):
                await self.api.delete(resources.DEPLOYMENTS, name, "default")
                deleted = True
            if time.monotonic() > end:
                raise TimeoutError(f"the controllers of side {self.name} do nothing")
            await asyncio.sleep(0.1)


class _Clock:
    def __init__(self, changed: dict[str, float]) -> None:
        self._changed = changed

    def on_add(self, obj: Object) -> None:
        self._changed[objects.namespace(obj)] = time.monotonic()

    def on_update(self, _: Object, new: Object) -> None:
        self.on_add(new)

    def on_delete(self, obj: Object) -> None:
        self.on_add(obj)


@contextlib.asynccontextmanager
async def both(folder: pathlib.Path) -> AsyncIterator[tuple[Side, Side]]:
    """The stock side and ours, at work; logs of our process are written to a folder."""
    assets = await asyncio.to_thread(binaries.resolve, (*envtest.NAMES, "kube-controller-manager"))
    planes = [envtest.ControlPlane(assets=assets) for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        for plane in planes:
            stack.callback(plane.stop)
        await asyncio.gather(*(asyncio.to_thread(plane.start) for plane in planes))
        stock, ours = planes
        await asyncio.gather(
            asyncio.to_thread(stock.start_controller_manager, *_LIFTED),
            asyncio.to_thread(ours.start_controller_manager, *_LIFTED, _WITHOUT_TWO),
        )
        process = _start_ours(ours, folder)
        stack.callback(process.stop, 5)
        sides = (
            await stack.enter_async_context(_connected(STOCK, stock)),
            await stack.enter_async_context(_connected(OURS, ours)),
        )
        await asyncio.gather(*(side.answers() for side in sides))
        yield sides
        if process.exit_status is not None:
            raise errors.StartupError(f"our controllers ended: {processes.tail(process.log)}")


def _start_ours(plane: envtest.ControlPlane, folder: pathlib.Path) -> processes.Process:
    command = [sys.executable, "-m", "whipstaff.runtime.commands", "controllers"]
    return processes.Process.start(
        "whipstaff-controllers",
        [*command, "--secure-port=0", "--leader-elect=false"],
        folder / "whipstaff-controllers.log",
        owner=folder,
        environ={**os.environ, "KUBECONFIG": str(plane.kubeconfig)},
    )


@contextlib.asynccontextmanager
async def _connected(name: str, plane: envtest.ControlPlane) -> AsyncIterator[Side]:
    async with client.Client(config.load(str(plane.kubeconfig))) as api:
        side = Side(name, plane, api)
        async with side.watching(), kubelet.running(side):
            yield side
