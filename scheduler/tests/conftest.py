"""A cluster to schedule in: the stock API server, nodes that are objects, and our scheduler."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import aiohttp
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, errors, flags, objects, resources
from whipstaff.scheduler import app, configuration

Object = dict[str, Any]

WAIT = 20.0
NO_ELECTION = flags.LeaderElection(leader_elect=False, given=frozenset({"leader_elect"}))


class Cluster:
    """The API server as a test uses it. What it makes outside of its namespace it removes."""

    def __init__(self, plane: testing.ControlPlane, api: client.Client, namespace: str) -> None:
        self.plane = plane
        self.api = api
        self.namespace = namespace
        self.scheduler_name = f"test-{uuid.uuid4().hex[:8]}"
        self._nodes: list[str] = []
        self.eventually = eventually

    async def node(
        self,
        name: str,
        *,
        cpu: str = "4",
        pods: int = 110,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Object] = (),
    ) -> str:
        """A node that is ready, and its name."""
        self._nodes.append(name)
        room = {"cpu": cpu, "memory": "32Gi", "pods": str(pods)}
        await self.api.create(
            resources.NODES,
            {
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, **(labels or {})},
                },
                "spec": {"taints": list(taints)},
                "status": {
                    "capacity": room,
                    "allocatable": room,
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            },
        )
        return name

    async def pod(
        self,
        name: str,
        *,
        cpu: str = "100m",
        scheduler: str | None = None,
        host_port: int = 0,
        **spec: Any,
    ) -> Object:
        """A pod that waits for our scheduler, unless it is another's."""
        container: Object = {
            "name": "main",
            "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": cpu}},
        }
        if host_port:
            container["ports"] = [{"containerPort": host_port, "hostPort": host_port}]
        body = {
            "metadata": {"name": name},
            "spec": {
                "schedulerName": self.scheduler_name if scheduler is None else scheduler,
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                **spec,
            },
        }
        return await self.api.create(resources.PODS, body, self.namespace)

    async def pods_of(self, count: int, *, cpu: str = "100m") -> None:
        """Many pods, made at once."""
        numbers = iter(range(count))

        async def make() -> None:
            for number in numbers:
                await self.pod(f"pod-{number:04}", cpu=cpu)

        await asyncio.gather(*(make() for _ in range(20)))

    async def bind(self, name: str, node: str) -> None:
        """Bind a pod as another scheduler would."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"kind": "Node", "name": node},
        }
        await self.api.create(
            resources.PODS, body, self.namespace, name=name, subresource="binding"
        )

    async def get(self, name: str) -> Object:
        return await self.api.get(resources.PODS, name, self.namespace)

    async def node_of(self, name: str) -> str:
        return (await self.get(name))["spec"].get("nodeName", "")

    async def placed(self, *names: str, within: float = WAIT) -> list[str]:
        """The nodes of these pods, once each has one."""
        found: list[str] = []

        async def have_nodes() -> bool:
            found[:] = [await self.node_of(name) for name in names]
            return all(found)

        await eventually(have_nodes, f"{', '.join(names)} got a node", within)
        return found

    async def refused(
        self,
        name: str,
        message: str | None = None,
        within: float = WAIT,
        *,
        reasons: str | None = None,
    ) -> Object:
        """The PodScheduled condition, once it says that (or some) message.

        `reasons` is a message without what is said of preemption after it.
        """
        found: Object = {}

        def says(text: str) -> bool:
            if reasons is not None:
                # "not found" is the last word on a pod that was refused before any node was asked.
                told = ("not found", "no new claims to deallocate, preemption: ")
                return text.startswith(tuple(f"{reasons} {more}" for more in told))
            return message in (None, text)

        async def is_refused() -> bool:
            condition = objects.condition(await self.get(name), "PodScheduled")
            found.update(condition or {})
            return bool(found) and found["status"] == "False" and says(found["message"])

        wanted = message or reasons
        await eventually(is_refused, lambda: f"{name} is refused: {wanted} (is: {found})", within)
        return found

    async def events(self, name: str, reason: str, within: float = WAIT) -> list[Object]:
        """The events of that reason about a pod, once there is one."""
        found: list[Object] = []

        async def are_there() -> bool:
            listed = await self.api.list(
                resources.EVENTS,
                self.namespace,
                field_selector=f"regarding.name={name},reason={reason}",
            )
            found[:] = listed.items
            return bool(found)

        await eventually(are_there, f"event {reason} about {name}", within)
        return found

    async def used(self) -> dict[str, list[str]]:
        """The names of the pods on each node, of all namespaces."""
        placed: dict[str, list[str]] = {}
        for pod in await self.api.list(resources.PODS):
            placed.setdefault(pod["spec"].get("nodeName", ""), []).append(pod["metadata"]["name"])
        return placed

    @contextlib.asynccontextmanager
    async def scheduling(
        self,
        wrap: Callable[[client.Client], Any] = lambda api: api,
        settings: configuration.Configuration | None = None,
        kind: Callable[..., app.Scheduler] = app.Scheduler,
        **more: Any,
    ) -> AsyncIterator[app.Scheduler]:
        """Our scheduler at work in this process. `wrap` may put something before its client."""
        settings = configuration.effective(
            settings or configuration.Configuration(), [self.scheduler_name], NO_ELECTION
        )
        connection = config.load(str(self.plane.kubeconfig))
        async with client.Client(connection) as api, client.Client(connection) as side_api:
            profiles = app.build_profiles(settings)
            scheduler = kind(settings, profiles, wrap(api), side_api, **more)
            running = asyncio.create_task(scheduler.run())
            try:
                yield scheduler
                if running.done():
                    running.result()
            finally:
                running.cancel()
                await asyncio.wait([running])

    async def clean(self) -> None:
        for name in self._nodes:
            with contextlib.suppress(errors.NotFound):
                await self.api.delete(resources.NODES, name)


async def eventually(
    holds: Callable[[], Awaitable[bool]], what: str | Callable[[], str], within: float = WAIT
) -> None:
    """Waits until something holds; fails with its name when it doesn't."""
    end = time.monotonic() + within
    while not await holds():
        text = what if isinstance(what, str) else what()
        assert time.monotonic() < end, f"not within {within:g} s: {text}"
        await asyncio.sleep(0.05)


class Process:
    """`whipstaff scheduler` as a process of its own."""

    def __init__(self, folder: pathlib.Path, *arguments: str) -> None:
        self.log = folder / f"scheduler-{uuid.uuid4().hex[:6]}.log"
        self.port = free_port()
        code = "from whipstaff.runtime import commands; commands.main()"
        serving = ("--bind-address=127.0.0.1", f"--secure-port={self.port}")
        environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, "scheduler", *serving, *arguments],
                stdout=log,
                stderr=log,
                env={**environment, "HOME": str(folder)},
            )

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def says(self, text: str, within: float = 45) -> None:
        async def is_said() -> bool:
            assert self.is_running, self.log.read_text()
            return text in self.log.read_text()

        await eventually(is_said, lambda: f"{text!r} in {self.log.read_text()}", within)

    async def ends(self, within: float = 45) -> int:
        """The exit code."""

        async def is_over() -> bool:
            return not self.is_running

        await eventually(is_over, lambda: f"end of process: {self.log.read_text()}", within)
        return self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def fetch(self, path: str, ssl_context: Any) -> tuple[int, str]:
        """What it serves."""
        url = f"https://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=ssl_context) as response,
        ):
            return response.status, await response.text()

    def stop(self) -> None:
        if self.is_running:
            self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def start_scheduler(tmp_path: pathlib.Path) -> Iterator[Callable[..., Process]]:
    """Starts `whipstaff scheduler`; what still runs at the end is killed."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(tmp_path, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
async def cluster(apiserver: testing.ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    """The test session's API server, without nodes."""
    async with client.Client(config.load(str(apiserver.kubeconfig))) as api:
        made = Cluster(apiserver, api, namespace)
        yield made
        await made.clean()


@pytest.fixture
async def own_cluster(own_apiserver: testing.ControlPlane) -> AsyncIterator[Cluster]:
    """An API server of the test's own, which it may stop."""
    async with client.Client(config.load(str(own_apiserver.kubeconfig))) as api:
        yield Cluster(own_apiserver, api, "default")
