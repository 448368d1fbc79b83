"""One machine with a containerd of its own, and the provider at work on it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import node_agent_builders as make

from whipstaff.cluster import machines
from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import provider as cri

Object = dict[str, Any]

BUSYBOX = "localhost/busybox:1"
MEMORY = 8 << 30


def container(name: str, script: str, **fields: Any) -> Object:
    """A container that runs a shell script."""
    return make.container(
        name,
        BUSYBOX,
        command=["sh", "-c", script],
        **{
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            **fields,
        },
    )


FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


class Site:
    """A provider with what the core would have made for its pods."""

    def __init__(self, machine: machines.Machine, root: pathlib.Path) -> None:
        self.machine = machine
        self.root = root
        self.logs = root / "logs"
        self.news: list[provider.RuntimeEvent] = []
        self.provider = self.another()

    def another(self) -> cri.Provider:
        """The provider of an agent that has just started and knows nothing."""
        return cri.Provider(
            provider.Options(
                ("node-0",),
                root_dir=str(self.root / "agent"),
                endpoint=self.machine.endpoint,
                machine_memory=MEMORY,
            )
        )

    def sandbox_spec(self, pod: Object, attempt: int = 0, **fields: Any) -> provider.SandboxSpec:
        uid = pod["metadata"]["uid"]
        return provider.SandboxSpec(
            attempt,
            hostname=pod["metadata"]["name"],
            log_directory=str(self.logs / uid),
            cgroup_parent=f"{self.machine.cgroup}/kubepods/pod{uid}",
            **fields,
        )

    def container_spec(
        self, pod: Object, name: str = "app", attempt: int = 0, **fields: Any
    ) -> provider.ContainerSpec:
        found = [d for d in pod["spec"]["containers"] if d["name"] == name]
        found += pod["spec"].get("ephemeralContainers") or []
        definition = next(d for d in found if d["name"] == name)
        (self.logs / pod["metadata"]["uid"] / name).mkdir(parents=True, exist_ok=True)
        given = {
            "name": name,
            "kind": "container",
            "image": definition["image"],
            "image_ref": definition["image"],
            "attempt": attempt,
            "command": tuple(definition.get("command") or ()),
            "args": tuple(definition.get("args") or ()),
            "env": {},
            "definition": definition,
            "log_path": f"{name}/{attempt}.log",
            "sandbox": self.sandbox_spec(pod),
            **fields,
        }
        return provider.ContainerSpec(**given)

    async def run(
        self, pod: Object, name: str = "app", **fields: Any
    ) -> tuple[provider.Sandbox, provider.RuntimeContainer]:
        """Start a pod's sandbox and one container."""
        sandbox = await self.provider.ensure_sandbox(pod, self.sandbox_spec(pod))
        spec = self.container_spec(pod, name, **fields)
        return sandbox, await self.provider.start_container(pod, sandbox, spec)

    def output(self, run: provider.RuntimeContainer) -> str:
        """What a container has written so far."""
        lines = pathlib.Path(run.log_path).read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    async def wrote(self, run: provider.RuntimeContainer, text: str, limit: float = 10) -> None:
        """Wait until a container has written something."""
        async with asyncio.timeout(limit):
            while text not in self.output(run):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def pod(self, uid: str) -> provider.RuntimePod:
        (found,) = await self.provider.list(uid)
        return found

    async def ended(
        self, pod: Object, run: provider.RuntimeContainer | None = None
    ) -> provider.RuntimeContainer:
        """A container that has ended, as its start said or as the events told."""
        if run is not None and run.state is provider.State.EXITED:
            return run
        name = "app" if run is None else run.name
        uid = pod["metadata"]["uid"]
        return await self.told(
            lambda e: (
                e.container
                if e.uid == uid
                and e.container is not None
                and e.container.name == name
                and e.container.state is provider.State.EXITED
                else None
            )
        )

    async def told(self, wanted: Callable[[provider.RuntimeEvent], Any], limit: float = 10) -> Any:
        """What `wanted` makes of the first event that it makes anything of."""
        async with asyncio.timeout(limit):
            while True:
                for event in self.news:
                    if (found := wanted(event)) is not None:
                        return found
                await asyncio.sleep(0.01)

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(provider.ProviderError):
                async for event in self.provider.events():
                    self.news.append(event)
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Site]:
        """Follow the events meanwhile; remove all pods at the end."""
        following = asyncio.create_task(self.follow())
        try:
            # Until the runtime serves: its CRI comes up after its socket.
            async with asyncio.timeout(20):
                while (await self.provider.status("node-0")).problems:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            yield self
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            for pod in await self.provider.list():
                await self._remove(pod)
            await self.provider.close()

    async def _remove(self, pod: provider.RuntimePod) -> None:
        """Remove a pod as the agent does: again, where containerd's shim ended in the middle."""
        for _ in range(10):
            with contextlib.suppress(provider.ProviderError):
                return await self.provider.remove(pod)
            await asyncio.sleep(0.5)
        return await self.provider.remove(pod)
