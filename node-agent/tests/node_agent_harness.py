"""Runs a node agent against a real API server, in this process or as the command."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from whipstaff.node_agent import agent, configuration, heartbeats, nodes, provider, timeline
from whipstaff.node_agent.providers import simulated
from whipstaff.runtime import client, config, errors, events, resources

Object = dict[str, Any]
PATIENCE = 20.0


class Cluster:
    """What a test does as a user: through a client of its own."""

    def __init__(self, kubeconfig: pathlib.Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.api = client.Client(config.load(str(kubeconfig)), user_agent="node-agent-test")
        self.prefix = f"n{uuid.uuid4().hex[:6]}"
        self._nodes: set[str] = set()

    def node_names(self, count: int = 1) -> tuple[str, ...]:
        """Names for nodes that no other test has; they are deleted at the end."""
        names = tuple(f"{self.prefix}-{len(self._nodes) + i}" for i in range(count))
        self._nodes.update(names)
        return names

    async def close(self) -> None:
        """Delete the nodes."""
        for name in self._nodes:
            with contextlib.suppress(errors.WhipstaffError):
                await self.api.delete(resources.NODES, name)
            with contextlib.suppress(errors.WhipstaffError):
                await self.api.delete(resources.LEASES, name, "kube-node-lease")
        await self.api.close()

    async def create(self, node: str, name: str = "web", **spec: Any) -> Object:
        """A pod that is bound already."""
        metadata: Object = {"name": name, "namespace": self.namespace}
        for field in ("annotations", "labels", "ownerReferences"):
            if field in spec:
                metadata[field] = spec.pop(field)
        if "annotations" in metadata:
            metadata["annotations"] = {
                f"simulated.whipstaff.io/{k}": v for k, v in metadata["annotations"].items()
            }
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "nginx"}],
                **spec,
            },
        }
        return await self.api.create(resources.PODS, body)

    async def get(self, name: str = "web") -> Object | None:
        """A pod; None if it is gone."""
        try:
            return await self.api.get(resources.PODS, name, self.namespace)
        except errors.NotFound:
            return None

    async def delete(self, name: str = "web", **options: Any) -> None:
        """Ask for a pod's deletion."""
        await self.api.delete(resources.PODS, name, self.namespace, **options)

    async def wait(self, condition: Callable[[Object | None], bool], name: str = "web") -> Object:
        """The pod, once something is true of it."""
        found: Object | None = None

        async def holds() -> bool:
            nonlocal found
            found = await self.get(name)
            return condition(found)

        await eventually(holds, lambda: f"pod {name}: {found}")
        return found or {}

    async def wait_phase(self, phase: str, name: str = "web") -> Object:
        """The pod, once it is in a phase."""
        return await self.wait(
            lambda pod: pod is not None and pod["status"].get("phase") == phase, name
        )

    async def wait_gone(self, name: str = "web") -> None:
        """Wait until the pod is gone."""
        await self.wait(lambda pod: pod is None, name)

    async def notes(self, reason: str, name: str = "web") -> list[str]:
        """The notes of the pod's events with a reason."""
        found = await self.api.list(resources.EVENTS, self.namespace)
        return [
            event["note"]
            for event in found
            if event["reason"] == reason and event["regarding"]["name"] == name
        ]

    async def wait_note(self, reason: str, name: str = "web") -> str:
        """The note of the first such event."""
        found: list[str] = []

        async def there() -> bool:
            found[:] = await self.notes(reason, name)
            return bool(found)

        await eventually(there, lambda: f"no event {reason}")
        return found[0]

    @contextlib.asynccontextmanager
    async def history(self) -> AsyncIterator[list[tuple[str, Object]]]:
        """All events of the namespace's pods from now on, as (type, pod)."""
        listed = await self.api.list(resources.PODS, self.namespace)
        seen: list[tuple[str, Object]] = []

        async def follow() -> None:
            changes = self.api.watch(
                resources.PODS, self.namespace, resource_version=listed.resource_version
            )
            async for event in changes:
                if event.type != "BOOKMARK":
                    seen.append((event.type, event.object))  # noqa: PERF401 (as they come)

        task = asyncio.create_task(follow())
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def eventually(
    condition: Callable[[], Awaitable[bool]],
    complaint: Callable[[], str],
    patience: float = PATIENCE,
) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + patience
    while not await condition():
        assert time.monotonic() < deadline, complaint()
        await asyncio.sleep(0.05)


class Running:
    """An agent in this process."""

    def __init__(
        self,
        kubeconfig: pathlib.Path,
        names: tuple[str, ...],
        *,
        timing: heartbeats.Timing | None = None,
        runtime: Callable[[provider.Options, timeline.Timeline], provider.Provider] | None = None,
        **template: Any,
    ) -> None:
        connection = config.load(str(kubeconfig))
        self.api = client.Client(connection)
        self.beat_api = client.Client(connection, timeout=10)
        self.line = timeline.Timeline()
        options = provider.Options(names)
        self.runtime = (runtime or simulated.Provider)(options, self.line)
        self.recorder = events.Recorder(self.beat_api, reporting_controller="kubelet")
        usual: dict[str, Any] = {
            "capacity": configuration.DEFAULT_CAPACITY,
            "addresses": ("127.0.0.1",),
        }
        settings = agent.Settings(
            nodes.Template(**usual | template), timing or heartbeats.Timing(lease_interval=1.0)
        )
        self.agent = agent.Agent(
            self.api, self.beat_api, self.runtime, self.recorder, names, settings, self.line
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self.agent.run()),
            asyncio.create_task(self.recorder.run()),
        ]
        ready = asyncio.create_task(self.agent.ready())
        await asyncio.wait([*self._tasks, ready], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        for task in self._tasks:
            if task.done():
                task.result()
        assert ready.done()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()
        await self.beat_api.close()


class Command:
    """An agent as the command, in a process of its own."""

    def __init__(self, kubeconfig: pathlib.Path, *flags: str) -> None:
        self._arguments = [
            sys.executable, "-m", "whipstaff.runtime.commands", "node-agent",
            "--kubeconfig", str(kubeconfig), *flags,
        ]  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *self._arguments, stderr=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def kill(self) -> None:
        """End it by SIGKILL."""
        assert self.process is not None
        self.process.kill()
        await self.process.communicate()

    async def stop(self) -> tuple[int, str]:
        """End it by SIGTERM: its exit code, and what it wrote to standard error."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> tuple[int, str]:
        """Wait for its end: its exit code, and what it wrote to standard error."""
        assert self.process is not None
        _, written = await asyncio.wait_for(self.process.communicate(), 30)
        assert self.process.returncode is not None
        return self.process.returncode, written.decode()
