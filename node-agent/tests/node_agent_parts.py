"""An agent's parts as its server sees them, without an API server: pods and what runs of them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import aiohttp
import node_agent_builders as builders
import orjson

from whipstaff.node_agent import lifecycle, nodes, pod_worker, provider, server
from whipstaff.node_agent.providers import simulated
from whipstaff.runtime import authorization, serving

Object = dict[str, Any]


class Runtime(simulated.Provider):
    """A provider whose statistics, streams and commands are what a test says."""

    name = "test"

    def __init__(self) -> None:
        super().__init__(provider.Options(("node-0",)))
        self.usages: dict[str, provider.Usage] = {}
        self.asked: list[str | None] = []
        self.stream_url = ""
        self.streams: list[tuple[str, provider.StreamRequest]] = []
        self.output: tuple[int, bytes] = (0, b"")
        self.commands: list[list[str]] = []

    async def stats(self, uid: str | None = None) -> Mapping[str, provider.Usage]:
        """What was said."""
        self.asked.append(uid)
        return dict(self.usages)

    async def open_stream(
        self,
        pod: Object,
        container: provider.RuntimeContainer | None,
        request: provider.StreamRequest,
    ) -> str:
        """The URL that was said, if one was."""
        if not self.stream_url:
            return await super().open_stream(pod, container, request)
        self.streams.append((container.id if container else "", request))
        return self.stream_url

    async def exec_sync(
        self, pod: Object, container: provider.RuntimeContainer, command: Any, timeout: float
    ) -> tuple[int, bytes]:
        """The output that was said."""
        self.commands.append(list(command))
        return self.output


class Crew:
    """The workers."""

    def __init__(self) -> None:
        self.workers: dict[str, pod_worker.Worker] = {}

    def __iter__(self) -> Iterator[pod_worker.Worker]:
        return iter(self.workers.values())

    def __len__(self) -> int:
        return len(self.workers)

    def get(self, uid: str) -> pod_worker.Worker | None:
        """A pod's worker."""
        return self.workers.get(uid)


class Parts:
    """The agent."""

    def __init__(self, *node_names: str) -> None:
        names = node_names or ("node-0",)
        template = nodes.Template(capacity={"cpu": "4", "memory": "8Gi", "pods": "110"})
        self.nodes = nodes.make(names, template)
        self.runtime: provider.Provider = Runtime()
        self.crew = Crew()

    def add(
        self,
        pod: Object,
        *runs: provider.RuntimeContainer,
        sandbox: provider.Sandbox | None = None,
        status: Object | None = None,
    ) -> pod_worker.Worker:
        """A pod and what runs of it."""
        if status is not None:
            pod = {**pod, "status": status}
        metadata = pod["metadata"]
        runtime = provider.RuntimePod(
            metadata["uid"],
            metadata["namespace"],
            metadata["name"],
            (sandbox or builders.sandbox(),),
            tuple(runs),
        )
        worker = pod_worker.Worker(
            metadata["uid"],
            metadata["namespace"],
            metadata["name"],
            self.nodes[pod["spec"]["nodeName"]],
            orjson.dumps(pod),
            lifecycle.Life(runtime),
            lambda _: None,
            0.0,
        )
        self.crew.workers[worker.uid] = worker
        return worker

    def packed_pods(self, node_name: str | None = None) -> list[bytes]:
        """As JSON."""
        return [w.packed for w in self.crew if node_name in {None, w.node.name}]

    def count(self) -> tuple[int, int, dict[provider.State, int]]:
        """No matter."""
        return len(self.crew), 0, {}

    def check_registered(self) -> None:
        """They are."""

    def check_synced(self) -> None:
        """They have been."""


@contextlib.asynccontextmanager
async def served(
    parts: Parts, sources: server.Sources | None = None, *, secure: bool = False
) -> AsyncIterator[tuple[aiohttp.ClientSession, serving.Server]]:
    """A server for everybody, and a client whose paths are its."""
    made = serving.Server(secure=secure, authorizer=authorization.AllowAll())
    server.serve(made, parts, sources or server.Sources())
    async with made:
        trust: ssl.SSLContext | bool = True
        if made.tls is not None:
            assert made.tls.self_signed is not None
            trust = ssl.create_default_context(cadata=made.tls.self_signed.decode())
        async with aiohttp.ClientSession(
            made.url, connector=aiohttp.TCPConnector(ssl=trust)
        ) as session:
            yield session, made


async def until(condition: Callable[[], bool], patience: float = 5.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)
